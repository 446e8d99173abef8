"""What comes back along a route: gradients, the loss, and where every stage stands."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from distqatd.base.errors import HopLost, NonFinite, RemoteProtocolError
from distqatd.compute.results import LossResult
from distqatd.data.batches import Batch
from distqatd.pipeline.links import Parcels
from distqatd.pipeline.messages import Standing
from distqatd.swarm.routes import MAX_STAGES
from distqatd.wire.fields import need
from distqatd.wire.payload import Message

MAX_REASON = 300
"""Characters of a reason that travel."""

MAX_LINK_BYTES = 1 << 50
"""What the tensors of a microbatch may have on all links together."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """A microbatch that has gone forward and backward from some stage on.

    Attributes:
        grads: of the stage's inputs, as they travel; none for integer inputs.
        standings: where the later stages stand, nearest first, as they travel.
        loss: None while the trainer computes it.
        link_bytes: of the tensors that travelled behind this stage, both ways.
        vetoes: uids of the stages from here on whose gradients are NaN or infinite.
    """

    grads: Parcels
    standings: tuple[dict[str, Any], ...]
    loss: LossResult | None
    link_bytes: int
    vetoes: tuple[str, ...] = ()

    @classmethod
    def after(cls, sent: Message, reply: Message, grads: Parcels, own: tuple[str, ...]) -> Self:
        """Return our outcome, given what the next stage got and answered, and our part of it."""
        link_bytes = sent.tensor_bytes + reply.tensor_bytes + read_link_bytes(reply)
        vetoes = own + read_vetoes(reply)
        return cls(grads, read_standings(reply), read_loss(reply), link_bytes, vetoes)

    def reply(self, own: Standing, *, is_first: bool) -> Message:
        """Return the answer to whoever sent the microbatch; a trainer needs no gradients."""
        body: dict[str, Any] = {"standings": [own.body(), *self.standings]}
        if self.link_bytes:
            body["link_bytes"] = self.link_bytes
        if self.vetoes:
            body["vetoes"] = list(self.vetoes)
        if self.loss is not None:
            body |= {"loss": self.loss.loss, "sums": self.loss.sums}
        return Message(body) if is_first else self.grads.message(body)


def lost_reply(error: HopLost) -> Message:
    """Return the answer of a stage that cannot reach a later one.

    An answer and not an error, because an error has only text: who is gone travels back along
    the route to the trainer, which must tell its client.
    """
    return Message({"lost": error.uid, "reason": str(error)[:MAX_REASON]})


def check_not_lost(reply: Message) -> None:
    """Check that an answer is not that a later stage is gone.

    Raises:
        HopLost: it is; names the expert and the reason.
    """
    if "lost" in reply.body:
        reason = need(reply.body, "reason", str)[:MAX_REASON]
        raise HopLost(reason, need(reply.body, "lost", str)[:64])


def read_standings(reply: Message) -> tuple[dict[str, Any], ...]:
    """Return the standings in a reply; the trainer's answer to LOSS has none.

    Raises:
        RemoteProtocolError: there are more than a route can have stages.
    """
    found = need(reply.body, "standings", list) if "standings" in reply.body else []
    if len(found) > MAX_STAGES:
        raise RemoteProtocolError(f"{len(found)} standings, at most {MAX_STAGES}")
    return tuple(found)


def read_link_bytes(reply: Message) -> int:
    """Return how many bytes of tensors travelled behind the stage that answers.

    Raises:
        RemoteProtocolError: it is no such number.
    """
    found = need(reply.body, "link_bytes", int) if "link_bytes" in reply.body else 0
    if not 0 <= found <= MAX_LINK_BYTES:
        raise RemoteProtocolError(f"{found} bytes on the links of a microbatch")
    return found


def read_vetoes(reply: Message) -> tuple[str, ...]:
    """Return which stages, from the one that answers on, have gradients that cannot be applied.

    Raises:
        RemoteProtocolError: they are no short texts, or more than a route can have.
    """
    found = need(reply.body, "vetoes", list) if "vetoes" in reply.body else []
    if len(found) > MAX_STAGES or not all(type(uid) is str and len(uid) <= 64 for uid in found):
        raise RemoteProtocolError(f"vetoes of {len(found)} stages, at most {MAX_STAGES} names")
    return tuple(found)


def read_loss(reply: Message) -> LossResult | None:
    """Check and return a loss with its metric sums, if the reply brings one."""
    if "loss" not in reply.body:
        return None
    sums = need(reply.body, "sums", dict)
    return LossResult(need(reply.body, "loss", float), {k: need(sums, k, float) for k in sums})


@dataclass(frozen=True, slots=True)
class StepResult:
    """A step that every stage has done its part of.

    Attributes:
        loss: mean over the samples of the step.
        sums: metric sums of the step, see `data.tasks`.
        link_bytes: of its tensors on all links of the route, both ways, the data included.
        vetoes: uids of the stages whose gradients overflowed: the step is dropped at all stages.
    """

    step: int
    loss: float
    sums: dict[str, float]
    num_samples: int
    link_bytes: int = 0
    vetoes: tuple[str, ...] = ()


def sum_up(
    step: int, results: Mapping[int, LossResult], parts: Sequence[Batch], num_samples: int
) -> StepResult:
    """Return the result of a step from those of its microbatches, by their number.

    Raises:
        NonFinite: the loss is NaN or infinite.
    """
    loss = sum(results[i].loss * part.num_samples for i, part in enumerate(parts)) / num_samples
    if not math.isfinite(loss):
        raise NonFinite(f"the loss of step {step} is {loss}; the step is dropped")
    sums: dict[str, float] = {}
    for index in range(len(parts)):
        for name, value in results[index].sums.items():
            sums[name] = sums.get(name, 0.0) + value
    return StepResult(step, loss, sums, num_samples)
