"""The data that a run trains on."""

from typing import Literal

from pydantic import Field

from distqatd.config.section import Float, Section


class DataConfig(Section):
    """The data of a run. Run-wide."""

    dataset_name: str = Field(
        "digits", description="digits, python_sources, a local file, or a Hugging Face dataset"
    )
    dataset_config: str | None = Field(None, description="configuration of a Hugging Face dataset")
    dataset_split: str = Field("train", description="split to train on")
    task_type: Literal["cv", "llm", "nlp", "speech", "image_gen", "node_pred", "rl"] = Field(
        "cv", description="decides collate and loss"
    )
    num_workers: int = Field(0, ge=0, description="extra preparation workers")
    precision: Literal["fp32", "bf16", "fp16-mixed"] = Field(
        "fp32", description="arithmetic of forward and backward"
    )
    num_channels: int = Field(1, ge=1, description="channels of an image")
    img_size: int = Field(8, ge=1, description="height and width of an image, pixels")
    seq_len: int = Field(128, ge=2, description="tokens in a sequence")
    validation_fraction: Float = Field(
        0.2, gt=0, lt=1, description="share of the samples kept for validation"
    )
    max_bytes: int = Field(4 << 20, ge=1 << 10, description="bytes of text read at most")
