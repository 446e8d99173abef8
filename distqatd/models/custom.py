"""Models of one's own: classes that an installed package registers as the stages of a family.

    @register_expert_class("mymodel.head", head_sample_input)
    class MyModelHead(nn.Module): ...

The package names its module in the entry point group `distqat.experts`, under the family's name.
A run names a family, and every machine takes the code from what its owner has installed: code
never comes from the network. Nothing is imported before a run names the family.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import EntryPoint, entry_points
from typing import Any, TypeVar, cast, get_type_hints

from pydantic import create_model
from pydantic.errors import PydanticSchemaGenerationError
from torch import Tensor, nn

from distqatd.base.errors import ConfigError, UnknownModel
from distqatd.models.family import SPLITS, STAGES, Cuts, Family, Options
from distqatd.models.units import Unit

GROUP = "distqat.experts"
"""Entry point group: the name is a family, the object is the module that registers its stages."""

SampleInput = Callable[..., Tensor | tuple[Tensor, ...]]
"""Given `batch_size` and the options it names, returns what the stage takes, batch first."""

ModuleT = TypeVar("ModuleT", bound=nn.Module)

_BATCH_SIZE = "batch_size"
_REQUIRED = inspect.Parameter.empty


@dataclass(frozen=True, slots=True)
class Registered:
    """A class that a package registered as a stage.

    Attributes:
        module: makes the stage, given the options that its `__init__` names.
        sample_input: makes what the stage takes.
    """

    module: type[nn.Module]
    sample_input: SampleInput

    def unit(self, name: str, options: Mapping[str, Any]) -> Unit:
        """Return the stage as the one unit it is."""
        given = {key: options[key] for key in _parameters(self.module.__init__) if key in options}
        return Unit(name, f"{name}.", partial(self.module, **given), self._sample(options))

    def _sample(self, options: Mapping[str, Any]) -> Callable[[int], tuple[Tensor, ...]]:
        names = _parameters(self.sample_input)
        given = {key: options[key] for key in names if key in options}

        def sample(batch_size: int) -> tuple[Tensor, ...]:
            made = self.sample_input(batch_size, **given)
            return (made,) if isinstance(made, Tensor) else tuple(made)

        return sample


_registered: dict[str, dict[str, Registered]] = {}


def register_expert_class(
    name: str, sample_input: SampleInput
) -> Callable[[type[ModuleT]], type[ModuleT]]:
    """Register the decorated class as a stage.

    The parameters of its `__init__`, with their annotations and defaults, are the options that
    stand beside `model_name` in the configuration; classes of one family may name different ones,
    and each is given its own.

    Args:
        name: `family.stage`, the stage one of full, front, back, head, body and tail.
        sample_input: makes what the stage takes, see `SampleInput`. Its values do not matter:
            dtypes and shapes are compared with what the stage before gives.

    Raises:
        ConfigError: no such stage, or another class has the name.
    """
    family, _, part = name.partition(".")
    if not family or part not in STAGES:
        raise ConfigError(
            f"register_expert_class({name!r}): the name is FAMILY.STAGE, the stage one of "
            f"{', '.join(STAGES)}"
        )

    def register(module: type[ModuleT]) -> type[ModuleT]:
        stages = _registered.setdefault(family, {})
        known = stages.get(part)
        if known is not None and _place(known.module) != _place(module):
            raise ConfigError(f"{name} is registered by {_place(known.module)} already")
        stages[part] = Registered(module, sample_input)
        return module

    return register


@dataclass(frozen=True, slots=True)
class OwnFamily(Family[Any]):
    """A family whose stages are registered classes: each is one unit, there are no other cuts."""

    registered: Mapping[str, Registered] = field(default_factory=dict)

    def stages(self, split: tuple[str, ...], options: Any) -> tuple[tuple[Unit, ...], ...]:
        """Return the one unit of each stage of `split`; `full` may also be all stages in a row.

        Raises:
            ConfigError: not all stages of this split are registered.
        """
        if set(split) <= set(self.registered):
            return tuple((_unit(self.registered, part, options),) for part in split)
        if split == ("full",):
            return (self.units(options),)
        known = "; ".join(", ".join(names) for names in _splits(self.registered))
        raise ConfigError(
            f"{self.name} cannot be cut into {', '.join(split)}; its package registers {known}"
        )


def own_family(name: str) -> OwnFamily | None:
    """Return the family that an installed package registers, or None if there is none.

    Raises:
        UnknownModel: the package that has the entry point cannot be imported, or does not register
            the family.
        ConfigError: its classes do not make a family.
    """
    if name not in _registered:
        found = entry_points(group=GROUP, name=name)
        if not found:
            return None
        _import(next(iter(found)))
    if name not in _registered:
        raise UnknownModel(
            f"the entry point {name!r} of {GROUP} registers no stage of {name!r}; its module must "
            f'call register_expert_class("{name}.STAGE", ...)'
        )
    return _family(name, dict(_registered[name]))


def installed() -> tuple[str, ...]:
    """Return the names of the families that installed packages have; imports nothing."""
    return tuple(sorted({*entry_points(group=GROUP).names, *_registered}))


def _import(point: EntryPoint) -> None:
    try:
        point.load()
    except (ImportError, AttributeError) as error:
        raise UnknownModel(
            f"the entry point {point.name!r} of {GROUP} names {point.value}, which cannot be "
            f"imported: {error}"
        ) from error


def _family(name: str, registered: Mapping[str, Registered]) -> OwnFamily:
    if not _splits(registered):
        raise ConfigError(
            f"{name} registers {', '.join(registered)}, which is no whole model; register the "
            f"stages of one of: {'; '.join(', '.join(split) for split in SPLITS)}"
        )
    options, units = _options(name, registered), partial(_chain, registered)
    return OwnFamily(name, options, units, _no_cuts, registered=registered)


def _splits(registered: Mapping[str, Registered]) -> list[tuple[str, ...]]:
    return [split for split in SPLITS if set(split) <= set(registered)]


def _chain(registered: Mapping[str, Registered], options: Options) -> tuple[Unit, ...]:
    """Return the units of the finest split that is registered."""
    finest = max(_splits(registered), key=len)
    return tuple(_unit(registered, part, options) for part in finest)


def _unit(registered: Mapping[str, Registered], part: str, options: Options) -> Unit:
    return registered[part].unit(part, options.model_dump())


def _no_cuts(_: Options) -> Cuts:
    """Return nothing of use: `OwnFamily.stages` needs no cuts."""
    return Cuts(half=0, body=0, tail=0)


# --- options from signatures


def _options(name: str, registered: Mapping[str, Registered]) -> type[Options]:
    """Make the options of all registered classes together."""
    fields: dict[str, tuple[Any, Any]] = {}
    for part, stage in registered.items():
        hints = get_type_hints(stage.module.__init__)
        for key, parameter in _parameters(stage.module.__init__).items():
            default = ... if parameter.default is _REQUIRED else parameter.default
            made = (hints.get(key, Any), default)
            if fields.setdefault(key, made) != made:
                raise ConfigError(
                    f"{name}.{part}: its __init__ declares {key} with another type or default "
                    "than another stage; all stages of a model take the same options"
                )
    try:
        return create_model(f"{name}_options", __base__=Options, **cast("dict[str, Any]", fields))
    except PydanticSchemaGenerationError as error:
        raise ConfigError(f"{name}: an option's type cannot be in a file: {error}") from error


def _parameters(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Return the named parameters that options are given to."""
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    parameters = inspect.signature(function).parameters
    return {
        key: parameter
        for key, parameter in parameters.items()
        if parameter.kind in named and key not in ("self", _BATCH_SIZE)
    }


def _place(module: type[nn.Module]) -> str:
    return f"{module.__module__}.{module.__qualname__}"
