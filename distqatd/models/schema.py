"""What goes into and out of each stage, found by running the model without data or memory."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from distqatd.base.errors import ConfigError
from distqatd.config.sections import ModelPipelineConfig, StageConfig
from distqatd.models.registry import ResolvedStage, check_pipeline
from distqatd.models.units import Stage


@dataclass(frozen=True, slots=True)
class TensorShape:
    """Type and shape of a tensor that crosses a stage boundary.

    Attributes:
        dtype: torch's name of it without `torch.`, for example `float32`.
        shape: batch dimension first.
    """

    dtype: str
    shape: tuple[int, ...]

    @classmethod
    def of(cls, tensor: Tensor) -> "TensorShape":
        """Describe `tensor`."""
        return cls(str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape))

    @property
    def nbytes(self) -> int:
        """Return how many bytes such a tensor takes, uncompressed."""
        dtype: torch.dtype = getattr(torch, self.dtype)
        return torch.Size(self.shape).numel() * dtype.itemsize


@dataclass(frozen=True, slots=True)
class StageSchema:
    """What one stage takes, gives and weighs.

    Attributes:
        name: `family.stage`.
        inputs: tensors it takes, for the batch size the schema was made with.
        outputs: tensors it gives; the next stage's inputs.
        num_parameters: trainable values.
        param_bytes: bytes of the trainable values.
    """

    name: str
    inputs: tuple[TensorShape, ...]
    outputs: tuple[TensorShape, ...]
    num_parameters: int
    param_bytes: int


def stage_schemas(
    pipeline: ModelPipelineConfig | Sequence[StageConfig], sample_inputs: tuple[Tensor, ...]
) -> tuple[StageSchema, ...]:
    """Run `pipeline` on the meta device and describe each of its stages.

    Args:
        pipeline: the stages in order.
        sample_inputs: inputs of the first stage, batch dimension first; only dtype and shape
            matter, see `data.batches.Dataset.sample_inputs`.

    Raises:
        UnknownModel, ConfigError: the pipeline is wrong or does not fit these inputs.
    """
    stages = pipeline.pipeline if isinstance(pipeline, ModelPipelineConfig) else pipeline
    values = tuple(tensor.to("meta") for tensor in sample_inputs)
    schemas = []
    for resolved in check_pipeline(stages):
        stage = Stage(resolved.name, resolved.units, seed=0, device="meta").eval()
        outputs = _run(stage, values)
        schemas.append(_describe(stage, values, outputs))
        values = outputs
    return tuple(schemas)


def stage_parameters(pipeline: Sequence[StageConfig]) -> tuple[int, ...]:
    """Return how many trainable values each stage of `pipeline` has; allocates nothing.

    Raises:
        UnknownModel, ConfigError: the pipeline is wrong.
    """
    counts = []
    for resolved in check_pipeline(pipeline):
        stage = Stage(resolved.name, resolved.units, seed=0, device="meta")
        counts.append(sum(parameter.numel() for parameter in stage.parameters()))
    return tuple(counts)


_SAMPLES = 2
"""Size of the batch that `check_samples` tries."""


def check_samples(pipeline: Sequence[StageConfig]) -> None:
    """Check a model of one's own: each stage gives what the next one's sample says it takes.

    Runs on the meta device. Models that come with DistQat have no samples; nothing is run then.

    Raises:
        UnknownModel, ConfigError: the pipeline is wrong, or its stages do not fit together.
    """
    given: tuple[Tensor, ...] | None = None
    for resolved in check_pipeline(pipeline):
        if resolved.units[0].sample is None:
            return
        taken = _sample(resolved)
        if given is not None and _shapes(given) != _shapes(taken):
            raise ConfigError(
                f"stage {resolved.name} takes {_shapes(taken)}, as its sample_input says, but the "
                f"stage before it gives {_shapes(given)}, for a batch of {_SAMPLES}"
            )
        given = _run(Stage(resolved.name, resolved.units, seed=0, device="meta").eval(), taken)


def _sample(stage: ResolvedStage) -> tuple[Tensor, ...]:
    make = stage.units[0].sample
    try:
        return tuple(tensor.to("meta") for tensor in make(_SAMPLES)) if make is not None else ()
    except (RuntimeError, ValueError, TypeError, AttributeError) as error:
        raise ConfigError(f"the sample_input of stage {stage.name} failed: {error}") from error


def _shapes(tensors: tuple[Tensor, ...]) -> str:
    return ", ".join(f"{shape.dtype} {shape.shape}" for shape in map(TensorShape.of, tensors))


def _run(stage: Stage, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    try:
        with torch.no_grad():
            outputs: tuple[Tensor, ...] = stage(*inputs)
    except (RuntimeError, ValueError, TypeError) as error:
        raise ConfigError(
            f"stage {stage.name} cannot take inputs of {_shapes(inputs)}: {error}; make the "
            "options of model_pipeline.pipeline fit the data section (channels, image size, "
            "vocabulary)"
        ) from error
    return outputs


def _describe(stage: Stage, inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...]) -> StageSchema:
    parameters = list(stage.parameters())
    return StageSchema(
        name=stage.name,
        inputs=tuple(map(TensorShape.of, inputs)),
        outputs=tuple(map(TensorShape.of, outputs)),
        num_parameters=sum(parameter.numel() for parameter in parameters),
        param_bytes=sum(parameter.nbytes for parameter in parameters),
    )
