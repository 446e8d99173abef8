"""Weights to start from, as others publish them: a safetensors file, or a Hugging Face folder.

A stage reads its own tensors only. Names are those of the whole model; a published file may leave
out the beginning that all names share, and a tied output layer that is a copy of the embedding.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from distqatd.base.errors import CheckpointError
from distqatd.checkpoint.tensor_file import TensorFile
from distqatd.compute.payload import from_wire
from distqatd.config.sections import ModelPipelineConfig
from distqatd.models.registry import build_stage, family
from distqatd.models.units import Stage
from distqatd.wire.payload import WireTensor

WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
MAX_INDEX_BYTES = 64 << 20
_PICKLED = "pytorch_model.bin"
_NAMED = 3
"""So many missing tensors are named in an error."""

Renames = Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class LoadedWeights:
    """What a stage took from a file.

    Attributes:
        num_tensors: how many.
        fresh: names of those that kept their initial values.
    """

    num_tensors: int
    fresh: tuple[str, ...]


class Weights:
    """Tensors by name, read when asked for.

    Attributes:
        path: the file or folder.
        names: of all tensors in it.
        metadata: texts that the files hold besides.
    """

    def __init__(self, path: Path) -> None:
        """Open the file, or all files of the folder, and read their headers.

        Raises:
            CheckpointError: there are no safetensors at `path`.
        """
        self.path = path
        self._tensors: dict[str, WireTensor] = {}
        self.metadata: dict[str, str] = {}
        for file in _files(path):
            opened = TensorFile(file)
            self.metadata |= opened.layout.metadata
            for spec, data in zip(opened.layout.specs, opened.data, strict=True):
                self._tensors[spec.name] = WireTensor(spec, data)
        self.names = frozenset(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of tensor `name`."""
        return tuple(self._tensors[name].spec.shape)

    def read(self, name: str) -> Tensor:
        """Return a copy of tensor `name`, on the CPU."""
        return from_wire(self._tensors[name])


def load_weights(
    stage: Stage, weights: Weights, renames: Renames = (), fresh: Iterable[str] = ()
) -> LoadedWeights:
    """Copy a stage's tensors out of `weights` into it.

    Args:
        stage: with its initial weights.
        weights: of the whole model, or of more.
        renames: pairs (text, other text): a name that is not there is looked for with one
            replaced by the other, see `models.family.Family.renames`.
        fresh: tensors whose names begin like this keep their initial values.

    Raises:
        CheckpointError: a tensor is missing or has another shape. Nothing was copied then.
    """
    sources = _sources(stage, weights, renames, tuple(fresh))
    own = stage.global_state_dict()
    with torch.no_grad():
        for name, source in sources.items():
            own[name].copy_(weights.read(source))
    return LoadedWeights(len(sources), tuple(name for name in own if name not in sources))


def start_from(stage: Stage, weights: Weights, config: ModelPipelineConfig) -> LoadedWeights:
    """Copy a stage's tensors out of the weights that a run starts from.

    Raises:
        CheckpointError: as `load_weights`.
    """
    renames = family(config.pipeline[0].family).renames
    return load_weights(stage, weights, renames, config.weights_fresh)


def check_weights(weights: Weights, config: ModelPipelineConfig) -> None:
    """Check that every stage of a run could start from `weights`; reads no tensor.

    Raises:
        CheckpointError: as `load_weights`.
    """
    renames = family(config.pipeline[0].family).renames
    for stage in config.pipeline:
        built = build_stage(stage, 0, "meta", config.pipeline)
        _sources(built, weights, renames, config.weights_fresh)


def other_names(name: str, renames: Renames) -> tuple[str, ...]:
    """Return what `name` may be called in a file, itself first: each rename made or not."""
    names = [name]
    for old, new in renames:
        names += [each.replace(old, new, 1) for each in names if old in each]
    return tuple(names)


def _sources(
    stage: Stage, weights: Weights, renames: Renames, fresh: tuple[str, ...]
) -> dict[str, str]:
    """Return what each tensor of a stage is called in the file, but those that start afresh."""
    own = stage.global_state_dict()
    wanted = [name for name in own if not fresh or not name.startswith(fresh)]
    found = {name: _find(name, weights.names, renames) for name in wanted}
    sources = {name: source for name, source in found.items() if source is not None}
    _check_complete(stage.name, weights, [name for name in wanted if name not in sources])
    _check_shapes(weights, own, sources)
    return sources


def _find(name: str, names: frozenset[str], renames: Renames) -> str | None:
    return next((each for each in other_names(name, renames) if each in names), None)


def _check_complete(stage: str, weights: Weights, missing: Sequence[str]) -> None:
    if missing:
        shown = ", ".join(missing[:_NAMED]) + (", ..." if len(missing) > _NAMED else "")
        raise CheckpointError(
            f"{weights.path} lacks {len(missing)} tensors of stage {stage}: {shown}; it is of "
            "another model, or list the beginnings of names that shall start afresh in "
            "model_pipeline.weights_fresh"
        )


def _check_shapes(weights: Weights, own: Mapping[str, Tensor], sources: Mapping[str, str]) -> None:
    for name, source in sources.items():
        here, there = tuple(own[name].shape), weights.shape(source)
        if here != there:
            raise CheckpointError(
                f"{source} has shape {there} in {weights.path}, the model's {name} has {here}; "
                "make the options of model_pipeline.pipeline fit, or list it in "
                "model_pipeline.weights_fresh"
            )


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if (path / WEIGHTS_FILE).is_file():
        return [path / WEIGHTS_FILE]
    if (path / INDEX_FILE).is_file():
        return _indexed(path / INDEX_FILE)
    hint = f"; {_PICKLED} is not read, convert it" if (path / _PICKLED).is_file() else ""
    raise CheckpointError(
        f"{path} is neither a safetensors file nor a folder with {WEIGHTS_FILE} or "
        f"{INDEX_FILE}{hint}"
    )


def _indexed(index: Path) -> list[Path]:
    """Return the files that an index names, which must lie beside it."""
    try:
        if index.stat().st_size > MAX_INDEX_BYTES:
            raise CheckpointError(f"{index} has more than {MAX_INDEX_BYTES} bytes")
        names = set(json.loads(index.read_text())["weight_map"].values())
        if not all(isinstance(name, str) and Path(name).name == name for name in names):
            raise CheckpointError(f"{index} names files that do not lie beside it")
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{index} is not an index of safetensors: {error!r}") from error
    return [index.with_name(name) for name in sorted(names)]
