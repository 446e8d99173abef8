"""What a run trains on: where the data is, how it is read, and what is normalised."""

import math
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from distqatd.config.section import Float, PositiveFloat, Section

BUILT_IN = ("digits", "python_sources", "spoken", "karate", "cartpole")
"""Data sets that come with DistQat: in memory, no file of the user's, no network."""


class DataConfig(Section):
    """The data of a run. Run-wide."""

    dataset_name: str = Field(
        "digits",
        description="digits, python_sources, spoken, karate, cartpole, a local file or folder, or "
        "a Hugging Face data set",
    )
    dataset_config: str | None = Field(None, description="configuration of a Hugging Face dataset")
    dataset_split: str = Field("train", description="split to train on")
    dataset_revision: str | None = Field(
        None, description="branch, tag or commit of a Hugging Face data set; fixes its rows"
    )
    task_type: Literal["cv", "llm", "nlp", "speech", "image_gen", "node_pred", "rl"] = Field(
        "cv", description="decides collate and loss"
    )
    transform: str | None = Field(
        None,
        description="a function between source and model, by its name in the entry point group "
        "distqat.transforms of an installed package; runs in the data server",
    )
    num_workers: int = Field(
        0,
        ge=0,
        le=64,
        description="processes of each data server that prepare batches side by side; 0: a thread",
    )
    precision: Literal["fp32", "bf16", "fp16-mixed"] = Field(
        "fp32",
        description="arithmetic of forward and backward, around fp32 parameters; bf16-mixed is "
        "another name of bf16",
    )
    loss_scale: PositiveFloat = Field(
        65536.0, description="fp16-mixed: the loss scale to begin with, a power of two up to 2^32"
    )
    loss_scale_growth: int = Field(
        2000, ge=1, description="fp16-mixed: steps without overflow until the loss scale doubles"
    )
    num_samples: int | None = Field(
        None, ge=1, description="samples of a streamed or generated data set; null: its own number"
    )
    streaming: bool = Field(
        default=False,
        description="read rows in order, shuffled within shuffle_buffer, nothing downloaded",
    )
    shuffle_buffer: int = Field(4096, ge=1, description="samples shuffled together in a stream")
    input_column: str | None = Field(
        None, description="column of image, text or audio; null: the only one of that kind"
    )
    target_column: str | None = Field(
        None, description="column of label or transcript; null: the only one of that kind"
    )
    classes: tuple[str, ...] = Field(
        (), description="names of the labels, in order, where the data set does not tell"
    )
    num_channels: int = Field(1, ge=1, description="channels of an image")
    img_size: int = Field(8, ge=1, description="height and width of an image, pixels")
    mean: tuple[Float, ...] = Field(
        (), description="subtracted from pixels in [0, 1]: none, one, or one per channel"
    )
    std: tuple[PositiveFloat, ...] = Field((), description="divides what is left, as many as mean")
    noise_steps: int = Field(1000, ge=1, description="time steps from image to noise, image_gen")
    beta_start: PositiveFloat = Field(1e-4, lt=1, description="noise added by the first step")
    beta_end: PositiveFloat = Field(0.02, lt=1, description="noise added by the last step")
    seq_len: int = Field(128, ge=2, description="tokens in a sequence")
    tokenizer: str | None = Field(
        None, description="a tokenizer.json of Hugging Face tokenizers; null: bytes are the tokens"
    )
    end_token: str = Field(
        "<|endoftext|>", description="token put between texts, where the tokenizer has it"
    )
    packing: bool = Field(
        default=True,
        description="texts follow one another in a sequence; false: one each, cut or padded",
    )
    sampling_rate: int = Field(16000, ge=1, description="audio samples in a second")
    audio_samples: int = Field(
        16000, ge=1, description="audio samples a recording is cut or padded to"
    )
    alphabet: str = Field(
        "", description="characters of transcripts, trained with CTC; empty: recordings have labels"
    )
    validation_fraction: Float = Field(
        0.2, gt=0, lt=1, description="share of the samples kept for validation"
    )
    validation_split: str | None = Field(
        None, description="split to validate on, instead of a share of the training split"
    )
    max_validation_samples: int | None = Field(
        None, ge=1, description="samples kept for validation at most"
    )
    max_bytes: int = Field(4 << 20, ge=1 << 10, description="bytes of text read at most")

    @field_validator("precision", mode="before")
    @classmethod
    def _other_name(cls, value: object) -> object:
        return "bf16" if value == "bf16-mixed" else value

    @field_validator("loss_scale")
    @classmethod
    def _is_power_of_two(cls, value: float) -> float:
        if math.frexp(value)[0] != 0.5 or not 1 <= value <= 2.0**32:
            raise ValueError(f"{value:g} is not a power of two from 1 to 2^32")
        return value

    @model_validator(mode="after")
    def _normalisation_fits(self) -> Self:
        if len(self.mean) != len(self.std) or len(self.mean) not in {0, 1, self.num_channels}:
            raise ValueError(
                f"mean has {len(self.mean)} and std {len(self.std)} values; give both none, one, "
                f"or {self.num_channels}, one per channel"
            )
        return self

    @model_validator(mode="after")
    def _noise_grows(self) -> Self:
        if self.beta_start > self.beta_end:
            raise ValueError(f"beta_start {self.beta_start} is above beta_end {self.beta_end}")
        return self
