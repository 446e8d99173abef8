"""What an expert says of itself: where it stands, and which batches it has applied."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from distqatd.base.errors import RemoteProtocolError
from distqatd.base.intervals import IntervalSet
from distqatd.compute.book import BatchBook
from distqatd.compute.scale import LossScale
from distqatd.wire.fields import need


def read_scale(body: Mapping[str, Any]) -> LossScale | None:
    """Return the loss scale in a message, None where there is none.

    Raises:
        RemoteProtocolError: it cannot be read.
    """
    try:
        return None if body.get("scale") is None else LossScale.read(body["scale"])
    except ValueError as error:
        raise RemoteProtocolError(str(error)) from error


@dataclass(frozen=True, slots=True)
class Standing:
    """Where an expert stands, in replies to OPEN, COMMIT, ROUND and STANDING.

    Attributes:
        next_batch: first batch of the lease asked about that is not in the expert's book; the
            lease's end if all are; 0 where no lease was asked about.
        in_round: a round is due or running, and steps wait for it.
        scale: in fp16, the loss scale of the last step that was applied.
    """

    outer_step: int
    inner_step: int
    steps_to_round: int
    anchor_digest: str
    next_batch: int = 0
    in_round: bool = False
    scale: LossScale | None = None

    def body(self) -> dict[str, Any]:
        """Return the fields of the message."""
        return {
            "outer_step": self.outer_step,
            "inner_step": self.inner_step,
            "steps_to_round": self.steps_to_round,
            "anchor_digest": self.anchor_digest,
            "next_batch": self.next_batch,
            "in_round": self.in_round,
            "scale": self.scale.body() if self.scale is not None else None,
        }

    @classmethod
    def read(cls, body: Mapping[str, Any]) -> Self:
        """Check and return the message."""
        return cls(
            need(body, "outer_step", int),
            need(body, "inner_step", int),
            need(body, "steps_to_round", int),
            need(body, "anchor_digest", str),
            need(body, "next_batch", int),
            need(body, "in_round", bool),
            read_scale(body),
        )


@dataclass(frozen=True, slots=True)
class BookReply:
    """An expert's book of batches: the answer to BOOK.

    Attributes:
        fence: the highest that a session here has had; 0 if there was none since it started.
        outer_step: of the anchor.
        duplicated: batches that rounds of this expert found on more than one replica.
    """

    book: BatchBook
    fence: int
    outer_step: int
    duplicated: int = 0

    def body(self) -> dict[str, Any]:
        """Return the fields of the message."""
        return {
            "anchor": self.book.anchor.to_list(),
            "local": self.book.local.to_list(),
            "fence": self.fence,
            "outer_step": self.outer_step,
            "duplicated": self.duplicated,
        }

    @classmethod
    def read(cls, body: Mapping[str, Any]) -> Self:
        """Check and return the message.

        Raises:
            RemoteProtocolError: it is no book.
        """
        sets = [need(body, name, list) for name in ("anchor", "local")]
        try:
            book = BatchBook(*(IntervalSet.read(ranges) for ranges in sets))
        except ValueError as error:
            raise RemoteProtocolError(f"an expert's book: {error}") from error
        counts = [need(body, name, int) for name in ("fence", "outer_step", "duplicated")]
        return cls(book, *counts)
