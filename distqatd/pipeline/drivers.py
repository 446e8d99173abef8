"""Which sessions a trainer still drives: experts ask before they drop a step that nobody ends.

A link that was deaf for a while may have eaten a COMMIT or an ABORT, and the trainer has gone on
with another route. Nobody else can tell its expert whether the step it holds was decided.
"""

from collections import OrderedDict
from collections.abc import Iterable

from distqatd.base.ids import ExpertUid
from distqatd.net.rpc import Caller, Rpc
from distqatd.pipeline import messages as m
from distqatd.wire.payload import Message

MAX_UNSETTLED = 256
"""COMMITs remembered for experts that could not be reached."""


class Drivers:
    """The trainer's side of `pipeline.drives`.

    Attributes:
        driven: sessions that are open, or being ended.
    """

    def __init__(self, rpc: Rpc) -> None:
        """Answer experts that ask."""
        self.driven: set[m.SessionId] = set()
        self._unsettled: OrderedDict[tuple[ExpertUid, m.SessionId], m.Decided] = OrderedDict()
        rpc.serve(m.DRIVES, self._answer)

    def left(self, session: m.SessionId, unsettled: Iterable[m.CommitCall] = ()) -> None:
        """Take note that a session is over; `unsettled` are the COMMITs that were not heard."""
        self.driven.discard(session)
        for call in unsettled:
            self._unsettled[call.uid, call.session] = call.decided
        while len(self._unsettled) > MAX_UNSETTLED:
            self._unsettled.popitem(last=False)

    async def _answer(self, _: Caller, message: Message) -> Message:
        call = m.AskCall.read(message.body)
        decided = self._unsettled.get((call.uid, call.session))
        reply = m.DrivesReply(call.session in self.driven, decided)
        return Message(reply.body())
