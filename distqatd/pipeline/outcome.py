"""What comes back along a route: gradients, the loss, and where every stage stands."""

from dataclasses import dataclass
from typing import Any, Self

from torch import Tensor

from distqatd.base.errors import RemoteProtocolError
from distqatd.compute.results import LossResult
from distqatd.pipeline.messages import Standing
from distqatd.pipeline.tensors import pack_gradients
from distqatd.swarm.routes import MAX_STAGES
from distqatd.wire.fields import need
from distqatd.wire.payload import Message


@dataclass(frozen=True, slots=True)
class Outcome:
    """A microbatch that has gone forward and backward from some stage on.

    Attributes:
        grads: of the stage's inputs; None for integer inputs.
        standings: where the later stages stand, nearest first, as they travel.
        loss: None while the trainer computes it.
    """

    grads: tuple[Tensor | None, ...]
    standings: tuple[dict[str, Any], ...]
    loss: LossResult | None

    @classmethod
    def after(cls, reply: Message, grads: tuple[Tensor | None, ...]) -> Self:
        """Return our outcome, given the next stage's reply and our own gradients."""
        return cls(grads, read_standings(reply), read_loss(reply))

    def reply(self, own: Standing, *, is_first: bool) -> Message:
        """Return the answer to whoever sent the microbatch; a trainer needs no gradients."""
        packed = pack_gradients(() if is_first else self.grads)
        body: dict[str, Any] = {"standings": [own.body(), *self.standings]}
        if self.loss is not None:
            body |= {"loss": self.loss.loss, "sums": self.loss.sums}
        return Message(body, packed.tensors)


def read_standings(reply: Message) -> tuple[dict[str, Any], ...]:
    """Return the standings in a reply; the trainer's answer to LOSS has none.

    Raises:
        RemoteProtocolError: there are more than a route can have stages.
    """
    found = need(reply.body, "standings", list) if "standings" in reply.body else []
    if len(found) > MAX_STAGES:
        raise RemoteProtocolError(f"{len(found)} standings, at most {MAX_STAGES}")
    return tuple(found)


def read_loss(reply: Message) -> LossResult | None:
    """Check and return a loss with its metric sums, if the reply brings one."""
    if "loss" not in reply.body:
        return None
    sums = need(reply.body, "sums", dict)
    return LossResult(need(reply.body, "loss", float), {k: need(sums, k, float) for k in sums})
