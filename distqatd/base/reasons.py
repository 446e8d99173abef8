"""Why this daemon last did what it did: the newest reason of each kind, by subject."""

from collections import OrderedDict
from dataclasses import dataclass

MAX_REASONS = 256
"""Kept at most; the one that was noted longest ago goes first."""

MAX_TEXT = 1000
"""Characters of a reason, at most."""


@dataclass(frozen=True, slots=True)
class Reason:
    """One reason.

    Attributes:
        kind: what was decided: `placement`, `route`, `pace`, `move`, `drain` or `gap`.
        subject: about whom: an expert uid, `pipeline 0`, a stage.
        text: why, with the values that mattered.
        time_unix_s: when.
    """

    kind: str
    subject: str
    text: str
    time_unix_s: float


class Reasons:
    """A bounded store of the last reason of each (kind, subject)."""

    def __init__(self, max_reasons: int = MAX_REASONS) -> None:
        self._max_reasons = max_reasons
        self._kept: OrderedDict[tuple[str, str], Reason] = OrderedDict()

    def note(self, kind: str, subject: str, text: str, time_unix_s: float) -> bool:
        """Keep a reason instead of the last one of its kind and subject.

        Returns:
            Whether it says something else than that one; if not, the older time stays.
        """
        text = text[:MAX_TEXT]
        held = self._kept.get((kind, subject))
        if held is not None and held.text == text:
            return False
        self._kept[kind, subject] = Reason(kind, subject, text, time_unix_s)
        self._kept.move_to_end((kind, subject))
        if len(self._kept) > self._max_reasons:
            self._kept.popitem(last=False)
        return True

    def all(self) -> tuple[Reason, ...]:
        """Return the reasons, the newest first."""
        return tuple(reversed(self._kept.values()))
