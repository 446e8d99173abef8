"""The end of a session that failed: COMMIT what is decided, ABORT what is open, and by whom not.

A stage that is known to be gone is not waited for; whether the others live is asked aside, since
a stage that computes takes its time to drop a step, and one that hangs never does.
"""

import asyncio
from collections.abc import Collection
from dataclasses import dataclass, field

from distqatd.base.errors import DistqatError, HopLost, NetworkError, StepAborted
from distqatd.base.events import EventLog
from distqatd.base.ids import PeerId
from distqatd.net.rpc import Rpc
from distqatd.pipeline import messages as m
from distqatd.pipeline.together import all_of, attended
from distqatd.pipeline.watch import ASK_S
from distqatd.swarm.routes import Hop, Route
from distqatd.wire.payload import Message

ABORT_S = 5.0
"""A stage that does not take an ABORT within this many seconds counts as lost."""

LOST_S = 0.5
"""... and one that is known to be gone: it may only have lost its link to its neighbour."""


@dataclass(slots=True)
class Ending:
    """How a session ended.

    Attributes:
        lost: peers that could not be reached.
        unsettled: the COMMITs that were not delivered; the expert may live and hear it later.
        replay: the decided batch, if a stage lives that has dropped it: replay it. Stages that
            have applied it skip it by their books.
    """

    lost: tuple[PeerId, ...] = ()
    unsettled: dict[Hop, m.CommitCall] = field(default_factory=dict)
    replay: int | None = None


async def end_session(
    rpc: Rpc,
    route: Route,
    session: m.SessionId,
    decided: m.Decided | None,
    reason: str,
    lost: Collection[str],
    events: EventLog,
) -> Ending:
    """End a session on every expert of its route.

    Args:
        rpc: how they are reached.
        route: the experts.
        session: which.
        decided: the step that all have done their part of, if one may not be applied yet.
        reason: for the experts.
        lost: uids of those that are known to be gone.
        events: told of those that do not hear it.
    """
    ending = Ending()
    silent = {hop.uid for hop in route if hop.uid in lost}

    async def one(hop: Hop) -> None:
        try:
            await attended(_end(hop), _check_alive(rpc, hop, session))
        except DistqatError as error:
            # The stage is gone or serves somebody else; it drops the step by itself.
            events.emit("step.abort_unheard", uid=hop.uid, error=str(error))
            if isinstance(error, NetworkError):
                silent.add(hop.uid)
                if decided is not None:
                    ending.unsettled[hop] = m.CommitCall(hop.uid, session, decided)
            elif isinstance(error, StepAborted) and decided is not None:
                ending.replay = decided.batch

    async def _end(hop: Hop) -> None:
        timeout_s = LOST_S if hop.uid in lost else ABORT_S
        if decided is not None:
            commit = Message(m.CommitCall(hop.uid, session, decided).body())
            await rpc.call(hop.peer_id, m.COMMIT, commit, timeout_s=timeout_s)
        abort = Message({"uid": hop.uid, **session.body(), "reason": reason})
        await rpc.call(hop.peer_id, m.ABORT, abort, timeout_s=timeout_s)

    await all_of(one(hop) for hop in route)
    ending.lost = tuple(hop.peer_id for hop in route if hop.uid in silent)
    return ending


async def _check_alive(rpc: Rpc, hop: Hop, session: m.SessionId) -> None:
    """Raise HopLost if an expert does not even say where it stands, which needs no device."""
    body = m.AskCall(hop.uid, session).body()
    try:
        await rpc.call(hop.peer_id, m.STANDING, Message(body), timeout_s=ASK_S)
    except NetworkError as error:
        raise HopLost(f"{hop.uid} does not answer: {error}", hop.uid) from error
    except DistqatError:
        return  # it has ended the session already; but it lives


LATE_RETRY_S = 1.0
LATE_S = 30.0
"""After the end of a job, COMMITs that were not heard are sent again this often, for so long."""


async def deliver_late(rpc: Rpc, unsettled: dict[Hop, m.CommitCall]) -> None:
    """Deliver the COMMITs of a job that is over to stages that were out of reach.

    No round comes any more before which a stage would ask how its step ended. `unsettled` is
    emptied of what was delivered, and of what came too late.
    """
    loop = asyncio.get_running_loop()
    until = loop.time() + LATE_S
    while unsettled and loop.time() < until:
        await asyncio.sleep(LATE_RETRY_S)
        for hop, call in [*unsettled.items()]:
            try:
                await rpc.call(hop.peer_id, m.COMMIT, Message(call.body()), timeout_s=LATE_RETRY_S)
            except NetworkError:
                continue
            except DistqatError:
                pass  # it has gone on without this step, or applied it meanwhile
            del unsettled[hop]
