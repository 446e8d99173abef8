"""The client's duty as one daemon sees it: who has it, whether that peer lives, whose turn it is.

What is known of a holder comes from its record in the DHT and from `client.duty`, with which a
standby asks it every second and a new holder tells the others. A link that breaks says at once
that a holder may be gone; it is asked once more before anybody claims.
"""

import asyncio

from distqatd.base.decision import Decision
from distqatd.base.errors import DistqatError
from distqatd.base.ids import PeerId
from distqatd.net.rpc import Caller
from distqatd.roles.client_calls import read_term
from distqatd.roles.context import Context
from distqatd.swarm.duty import CLAIM, STAND_BY, STEP_DOWN, Situation, Step, decide
from distqatd.swarm.ledger import MAX_TERM
from distqatd.swarm.records import LeaseRecord
from distqatd.swarm.view import SwarmView
from distqatd.wire.payload import Message

DUTY = "client.duty"
"""Asks a client for its term, 0 if it stands by, and tells it the caller's."""

ASK_EVERY_S = 1.0
ASK_S = 2.0
"""The holder is asked this often and has so long to answer, seconds."""

MAX_MISSED = 2
"""A holder that does not answer so often in a row is taken for dead."""

MAX_SETTLED = 256


class Duty:
    """Knows who holds the client's duty, and takes it when it is this daemon's turn."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self.term = 0
        self.reason = "this client has just started"
        self.last_record: LeaseRecord | None = None
        self._known_term = 0
        self._told: dict[PeerId, int] = {}
        self._denied: dict[PeerId, int] = {}
        self._settled: dict[tuple[PeerId, int], None] = {}
        self._vacant_since: float | None = None
        self._last_holder: PeerId | None = None
        context.rpc.serve(DUTY, self._answer)
        context.rpc.on_lost(self._on_lost)

    @property
    def holds(self) -> bool:
        """Return whether this daemon holds the duty."""
        return self.term > 0

    @property
    def is_vacant(self) -> bool:
        """Return whether nobody is known to hold it."""
        return not self.holds and self._last_holder is None

    @property
    def holder(self) -> PeerId | None:
        """Return who holds the duty, as far as this daemon knows."""
        return self._context.peer_id if self.holds else self._last_holder

    # --- deciding

    async def look(self, view: SwarmView) -> Decision[Step]:
        """Decide from a view; this daemon's own state follows the decision."""
        self._note_records(view)
        rivals = self._rivals(view)
        if not self.holds and not rivals:
            await self._confirm_vacancy()
            rivals = self._rivals(view)
        decision = decide(self._situation(view, rivals))
        self._apply(decision, rivals)
        return decision

    def _note_records(self, view: SwarmView) -> None:
        """Remember the newest record: whoever holds the duty next begins where it ends."""
        for record in view.leases.values():
            if not 0 <= record.term < MAX_TERM:
                continue
            self._known_term = max(self._known_term, record.term)
            last = self.last_record
            newer = last is None or (record.term, record.next_batch) >= (last.term, last.next_batch)
            if newer:
                self.last_record = record

    def _rivals(self, view: SwarmView) -> dict[PeerId, int]:
        """Return the others that say they hold the duty, with their highest term."""
        found = {peer: x.term for peer, x in view.leases.items() if x.term < MAX_TERM}
        found |= {peer: max(term, found.get(peer, 0)) for peer, term in self._told.items()}
        me = self._context.peer_id
        return {
            peer: term
            for peer, term in found.items()
            if peer != me and term > self._denied.get(peer, 0)
        }

    def _situation(self, view: SwarmView, rivals: dict[PeerId, int]) -> Situation:
        now = asyncio.get_running_loop().time()
        if self.holds or rivals:
            self._vacant_since = None
        elif self._vacant_since is None:
            self._vacant_since = now
        me = self._context.peer_id
        clients = {peer for peer, record in view.peers.items() if "client" in record.roles}
        return Situation(
            me=me,
            term=self.term,
            known_term=self._known_term,
            rivals=rivals,
            settled=self._settled,
            clients=clients | {me},
            vacant_s=now - self._vacant_since if self._vacant_since is not None else 0.0,
        )

    def _apply(self, decision: Decision[Step], rivals: dict[PeerId, int]) -> None:
        step, events = decision.value, self._context.events
        self.reason = decision.reason
        if step.action == CLAIM:
            self.term = self._known_term = step.term
            self._last_holder = None
            self._settled |= dict.fromkeys(rivals.items())
            self._settled = dict([*self._settled.items()][-MAX_SETTLED:])
            events.emit("duty.taken", term=step.term, reason=decision.reason)
        elif step.action in (STEP_DOWN, STAND_BY):
            if step.action == STEP_DOWN:
                events.emit("duty.stepped_down", degraded=True, reason=decision.reason)
            self.term = 0
            holders = (peer for peer, term in rivals.items() if term == step.term)
            holder = min(holders, default=None)
            if holder is not None and holder != self._last_holder:
                events.emit("duty.stands_by", holder=holder, term=step.term)
            self._last_holder = holder

    def learn(self, term: int) -> None:
        """Note a term that a trainer or an expert knows: ours must be above it."""
        if term > self._known_term:
            self._known_term = term
            self._context.directory.look_now()

    # --- asking and telling

    async def _confirm_vacancy(self) -> None:
        """Ask the last holder once more: a broken link is not a dead client."""
        holder, self._last_holder = self._last_holder, None
        if holder is not None:
            await self._ask(holder)

    async def watch(self) -> None:
        """Ask the holder again and again, while this daemon stands by."""
        num_missed, asked = 0, None
        while True:
            await asyncio.sleep(ASK_EVERY_S)
            holder = self._last_holder
            if self.holds or holder is None:
                num_missed = 0
                continue
            num_missed = num_missed if holder == asked else 0
            asked = holder
            num_missed = 0 if await self._ask(holder) else num_missed + 1
            if num_missed >= MAX_MISSED:
                self._forget(holder, "it does not answer for its duty")

    async def _ask(self, peer: PeerId) -> bool:
        """Ask a peer for its term, telling ours; False if it does not answer."""
        message = Message({"term": self.term})
        try:
            reply = await self._context.rpc.call(peer, DUTY, message, timeout_s=ASK_S)
            term, known = read_term(reply.body), read_term(reply.body, "known")
        except DistqatError:
            return False
        self.learn(known)
        self._note(peer, term)
        return True

    def _note(self, peer: PeerId, term: int) -> None:
        """Take a peer's word that it holds the duty under a term, or stands by (0)."""
        self._known_term = max(self._known_term, term)
        if term:
            changed = self._told.get(peer) != term
            self._told[peer] = term
        else:
            record = self._context.directory.view.leases.get(peer)
            changed = self._told.pop(peer, None) is not None or record is not None
            self._denied[peer] = record.term if record is not None else 0
        if changed:
            self._context.directory.look_now()

    async def tell(self, view: SwarmView) -> None:
        """Tell the other clients that this one holds the duty."""
        others = [peer for peer, record in view.peers.items() if "client" in record.roles]
        async with asyncio.TaskGroup() as tasks:
            for peer in others:
                if peer != self._context.peer_id:
                    tasks.create_task(self._tell(peer))

    async def _tell(self, peer: PeerId) -> None:
        await self._ask(peer)

    async def _answer(self, caller: Caller, message: Message) -> Message:
        term = read_term(message.body)
        if "client" in caller.roles and term:
            self._note(caller.peer_id, term)
        return Message({"term": self.term, "known": self._known_term})

    def _on_lost(self, peer: PeerId, _: str) -> None:
        self._told.pop(peer, None)
        self._denied.pop(peer, None)

    def _forget(self, peer: PeerId, reason: str) -> None:
        self._told.pop(peer, None)
        self._context.directory.mark_lost(peer, reason)
