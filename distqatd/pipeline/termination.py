"""How an expert learns what became of an open step whose COMMIT or ABORT never came.

The trainer knows; if it cannot be reached, a stage that has applied the step knows that it was
decided [cooperative termination: Bernstein, Hadzilacos, Goodman, 1987, section 7.4]. If nobody
knows of it the step is dropped, and its batch is trained again.
"""

from contextlib import suppress

from distqatd.base.errors import DistqatError
from distqatd.base.ids import ExpertUid, PeerId
from distqatd.net.rpc import Rpc
from distqatd.pipeline import messages as m
from distqatd.pipeline.session import Session
from distqatd.wire.payload import Message

MAX_REMEMBERED = 16
"""Sessions whose last step an expert can tell its neighbours of."""


class Decisions:
    """The last step that was applied in each of the last sessions of an expert."""

    def __init__(self) -> None:
        """Remember none yet."""
        self._decided: dict[m.SessionId, m.Decided] = {}

    def note(self, session: m.SessionId, decided: m.Decided) -> None:
        """Remember a step that was applied."""
        self._decided.pop(session, None)
        self._decided[session] = decided
        if len(self._decided) > MAX_REMEMBERED:
            del self._decided[next(iter(self._decided))]

    def get(self, session: m.SessionId) -> m.Decided | None:
        """Return the last step of a session, if it is remembered."""
        return self._decided.get(session)


async def ask_outcome(
    rpc: Rpc, uid: ExpertUid, session: Session, timeout_s: float
) -> m.DrivesReply:
    """Ask the trainer, else the other stages, what became of the open step of a session.

    Args:
        rpc: how they are reached.
        uid: the expert that asks.
        session: with the open step.
        timeout_s: for each answer.
    """
    try:
        return await _ask(rpc, PeerId(session.trainer), m.DRIVES, uid, session.id, timeout_s)
    except DistqatError:
        pass  # it is gone, and the others may know
    for hop in (hop for hop in session.route if hop.uid != uid):
        with suppress(DistqatError):
            reply = await _ask(rpc, hop.peer_id, m.DECIDED, hop.uid, session.id, timeout_s)
            if reply.decided is not None and reply.decided.step == session.applied + 1:
                return reply
    return m.DrivesReply(drives=False, decided=None)


async def _ask(
    rpc: Rpc, peer: PeerId, method: str, uid: ExpertUid, session: m.SessionId, timeout_s: float
) -> m.DrivesReply:
    question = Message(m.AskCall(uid, session).body())
    answer = await rpc.call(peer, method, question, timeout_s=timeout_s)
    return m.DrivesReply.read(answer.body)
