"""A model family: its options, its units and where its named stages begin and end."""

import difflib
import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pydantic import ValidationError

from distqatd.base.errors import ConfigError
from distqatd.config.section import Section
from distqatd.models.units import Unit

SPLITS: tuple[tuple[str, ...], ...] = (
    ("full",),
    ("front", "back"),
    ("head", "tail"),
    ("head", "body", "tail"),
)
"""The ways to cut a model into named stages; a pipeline uses one of them, in this order."""

STAGES = ("full", "front", "back", "head", "body", "tail")
"""Every stage name there is."""


class Options(Section):
    """Base of a family's options: immutable, unknown keys refused."""


OptionsT = TypeVar("OptionsT", bound=Options)


@dataclass(frozen=True, slots=True)
class Cuts:
    """Unit indexes at which the named stages of a model begin.

    Attributes:
        half: first unit of `back`, and of `tail` in a pipeline of head and tail only.
        body: first unit of `body`.
        tail: first unit of `tail` in a pipeline of head, body and tail.
    """

    half: int
    body: int
    tail: int

    def of(self, split: tuple[str, ...]) -> tuple[int, ...]:
        """Return the inner boundaries of `split`, one of SPLITS: one less than it has stages."""
        return ((), (self.half,), (self.body, self.tail))[len(split) - 1]


@dataclass(frozen=True, slots=True)
class Family(Generic[OptionsT]):
    """A model family, for example `resnet18`.

    Attributes:
        name: the part of a model name before the dot.
        options: what may stand next to `model_name` in the configuration.
        units: the whole model as ordered units, for given options.
        cuts: where its named stages begin, for given options.
        renames: pairs (text in our names, text in its place in published files); for example a
            tied output layer is published as the embedding alone.
    """

    name: str
    options: type[OptionsT]
    units: Callable[[OptionsT], tuple[Unit, ...]]
    cuts: Callable[[OptionsT], Cuts]
    renames: tuple[tuple[str, str], ...] = ()

    def parse(self, given: Mapping[str, Any], where: str) -> OptionsT:
        """Check options as a user wrote them; `where` names their place in the configuration.

        Raises:
            ConfigError: an unknown option or a value that does not fit; names all of them.
        """
        try:
            return self.options.model_validate(dict(given))
        except ValidationError as error:
            problems = "; ".join(self._explain(item) for item in error.errors())
            raise ConfigError(f"{where} ({self.name}): {problems}") from error

    def stages(self, split: tuple[str, ...], options: OptionsT) -> tuple[tuple[Unit, ...], ...]:
        """Return the units of each stage of `split`, one of SPLITS; together all, each once.

        Raises:
            ConfigError: the model has too few units for this split.
        """
        units = self.units(options)
        bounds = (0, *self.cuts(options).of(split), len(units))
        pairs = list(itertools.pairwise(bounds))
        if any(start >= stop for start, stop in pairs):
            raise ConfigError(
                f"{self.name} with these options has {len(units)} units, too few for the stages "
                f"{', '.join(split)}; use fewer stages or a deeper model"
            )
        return tuple(units[start:stop] for start, stop in pairs)

    def _explain(self, item: Mapping[str, Any]) -> str:
        key = ".".join(str(part) for part in item["loc"]) or "options"
        if item["type"] != "extra_forbidden":
            return f"{key} = {item['input']!r}: {item['msg']}"
        return f"unknown option {key!r}; {suggest(key, self.options.model_fields)}"


def suggest(name: str, known: Iterable[str]) -> str:
    """Say which of `known` was probably meant by `name`, and what else there is."""
    choices = sorted(known)
    listing = f"known are {', '.join(choices)}"
    close = difflib.get_close_matches(name, choices, n=1)
    return f"did you mean {close[0]!r}? ({listing})" if close else listing
