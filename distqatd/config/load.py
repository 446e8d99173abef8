"""Merge all sources into one Config: defaults < presets < files < environment < flags."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError

from distqatd.config.layers import (
    Layer,
    Override,
    env_layer,
    is_preset,
    override_layer,
    source_layer,
)
from distqatd.config.problems import config_error
from distqatd.config.sections import Config
from distqatd.config.tree import leaves, section_type


@dataclass(frozen=True, slots=True)
class Loaded:
    """A checked configuration.

    Attributes:
        config: the values.
        origins: for every dotted path that some source gave, where: `run.yaml:12`,
            `$DISTQAT_SEED`, `--set seed`, `--port`. What is absent has its default.
    """

    config: Config
    origins: Mapping[str, str]


def load(
    sources: Sequence[str] = (),
    *,
    env: Mapping[str, str] | None = None,
    overrides: Iterable[Override] = (),
) -> Loaded:
    """Read and merge every source of configuration.

    Args:
        sources: preset names and file paths; presets are applied first, then files in order.
        env: the environment; its `DISTQAT_*` variables are values.
        overrides: values given on the command line, the last one wins.

    Raises:
        ConfigError: a source cannot be read or a value is wrong; names source, key and fix.
    """
    ordered = sorted(sources, key=lambda name: not is_preset(name))
    layers = [source_layer(name) for name in ordered]
    layers.append(env_layer(env or {}))
    layers.append(override_layer("command line", overrides))
    return merge(layers)


def merge(layers: Iterable[Layer]) -> Loaded:
    """Merge layers, later ones win; sections merge key by key, anything else is replaced.

    Raises:
        ConfigError: the merged values do not make a configuration.
    """
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for layer in layers:
        _merge_into(values, layer.values, Config)
        _take_origins(origins, layer)
    try:
        return Loaded(Config.model_validate(values), origins)
    except ValidationError as error:
        raise config_error(error, origins) from error


def _merge_into(
    target: dict[str, Any], update: Mapping[str, Any], model: type[BaseModel] | None
) -> None:
    for key, value in update.items():
        section = None if model is None else section_type(model, key)
        if section is not None and value is None:
            continue  # a section whose keys are all commented out
        if section is not None and isinstance(value, Mapping):
            inner = target.setdefault(key, {})
            if isinstance(inner, dict):
                _merge_into(inner, value, section)
                continue
        target[key] = value


def _take_origins(origins: dict[str, str], layer: Layer) -> None:
    """Take over a layer's origins; what was inside a list that it replaces is forgotten."""
    replaced = tuple(f"{path}." for path in layer.origins if path in _LEAVES)
    for stale in [path for path in origins if path.startswith(replaced)]:
        del origins[stale]
    origins.update(layer.origins)


_LEAVES = frozenset(leaf.path for leaf in leaves())
