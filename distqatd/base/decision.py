"""A decision carries its reason: `distqatctl` prints it, tests compare it."""

from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Decision(Generic[T]):
    """What a pure function decided, and why, in words with the values that mattered."""

    value: T
    reason: str
