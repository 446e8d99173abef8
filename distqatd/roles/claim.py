"""How a joining expert agrees with the other joiners on who takes which slot."""

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from distqatd.base.decision import Decision
from distqatd.base.errors import (
    DialError,
    DistqatError,
    ExpertNotFound,
    NetworkError,
    NotServed,
    SwarmError,
)
from distqatd.base.ids import ExpertUid, PeerId
from distqatd.pipeline.messages import STANDING
from distqatd.roles.context import Context
from distqatd.roles.directory import TTL_S
from distqatd.roles.vantage import confirm_gone
from distqatd.swarm import records as r
from distqatd.swarm.placement import (
    Joiner,
    Slot,
    is_former_life,
    is_still_gap,
    keeps_claim,
    place,
)
from distqatd.swarm.view import ExpertInfo, SwarmView
from distqatd.wire.payload import Message

CLAIM_SETTLE_S = 0.4
"""How long a claim is left to reach the others before it is checked, seconds."""

PROBE_S = 3.0
MAX_PROBES = 64
"""So many experts are asked at most, and so long, whether they still live."""

MAX_GONE = 1024
"""Experts found dead that one claim remembers."""

Life = tuple[PeerId, ExpertUid, int]
"""An expert in one life of its peer: peer, uid, boot epoch."""


def _unknown() -> int:
    return 0


@dataclass(frozen=True, slots=True)
class Room:
    """The memory of a device, shared by the experts of a daemon.

    Attributes:
        free_bytes: returns what is left; 0 if unknown.
        needs: bytes that an expert of each stage takes at least, activations aside, by name.
        unfit: stages that ran out of memory here with a single microbatch.
    """

    free_bytes: Callable[[], int] = _unknown
    needs: Mapping[str, int] = field(default_factory=dict)
    unfit: set[str] = field(default_factory=set)

    def unfit_bits(self, stage_names: Sequence[str], held_bytes: int = 0) -> int:
        """Return which stages do not fit, as a record tells it.

        Args:
            stage_names: of the pipeline, in order.
            held_bytes: what the asking expert takes now, and lets go of when it moves.
        """
        free = self.free_bytes()
        room = free + held_bytes if free else math.inf
        return sum(
            1 << i
            for i, name in enumerate(stage_names[: r.MAX_STAGE_BITS])
            if name in self.unfit or self.needs.get(name, 0) > room
        )


class Claim:
    """One expert's claim of a slot, announced under `joining` until it serves.

    Attributes:
        subkey: under which it is announced; one expert may hold two claims while it moves.
        is_for_gap: the claim is given up as soon as somebody else fills the stage.
        given_back: bytes that the expert lets go of before it takes the slot.
    """

    def __init__(self, context: Context, subkey: str, room: Room | None = None) -> None:
        """Claim under `subkey` for a device that has `room`."""
        self._context = context
        self._room = room or Room()
        self.subkey = subkey
        self._key = r.joining_key(context.run_id)
        self._gone: set[Life] = set()
        self.is_for_gap = False
        self.given_back = 0

    async def settle(self, wanted_stage: str | None = None) -> tuple[Slot, str]:
        """Return the slot to host and why, as soon as nobody else claims it.

        Args:
            wanted_stage: the stage to host instead of the one the swarm needs most.

        Raises:
            SwarmError: the wanted stage does not exist or cannot fit, there is no free slot, or
                the gap that was to be filled is none any more.
        """
        context = self._context
        self._gone.clear()
        while True:
            if wanted_stage is None:  # else nobody needs to guess what we shall choose
                self._announce("")
            view = await self._living()
            decision = place(
                view,
                self._joiner(wanted_stage),
                max_index=context.config.max_expert_index,
                needs=self._room.needs,
            )
            slot = decision.value
            self._announce(slot.uid)
            await self._wait()
            verdict = await self._verdict(slot)
            if verdict.value:
                context.events.emit("expert.placed", uid=slot.uid, reason=decision.reason)
                context.note("placement", slot.uid, decision.reason)
                return slot, decision.reason
            self._lost(slot, verdict.reason)

    async def check(self, slot: Slot) -> None:
        """Make sure that the claim still holds: loading the state took time.

        Raises:
            SwarmError: another joiner has the slot, or fills the gap; the claim is withdrawn.
        """
        verdict = await self._verdict(slot)
        if not verdict.value:
            self._lost(slot, verdict.reason)
            self.withdraw()
            raise SwarmError(f"the claim of {slot.uid} is lost: {verdict.reason}")

    def withdraw(self) -> None:
        """Take the claim back: the expert serves, or never will."""
        self._context.dht.withdraw(self._key, self.subkey)

    def _joiner(self, wanted_stage: str | None) -> Joiner:
        context = self._context
        room, free = self._room, self._room.free_bytes()
        return Joiner(
            context.peer_id,
            context.boot_epoch,
            free + self.given_back if free else 0,
            wanted_stage,
            frozenset(room.unfit),
        )

    async def _verdict(self, slot: Slot) -> Decision[bool]:
        """Decide whether the claim holds against everybody who is seen now."""
        me = self._context.peer_id
        view = await self._context.directory.refresh_experts()
        stage = view.stage(slot.stage)
        rivals = [e for e in [*stage.experts, *view.joiners] if not self._is_gone(e)]
        verdict = keeps_claim(rivals, me, slot.uid)
        if verdict.value and self.is_for_gap:
            verdict = is_still_gap(self._without_gone(view).stage(slot.stage), me)
            if not verdict.value:
                self._lost(slot, verdict.reason)
                self.withdraw()
                raise SwarmError(f"{slot.stage} is no gap any more: {verdict.reason}")
        return verdict

    def _lost(self, slot: Slot, reason: str) -> None:
        self._context.events.emit("expert.claim_lost", uid=slot.uid, reason=reason)

    async def _wait(self) -> None:
        await asyncio.sleep(CLAIM_SETTLE_S * self._context.rng.uniform(1.0, 1.5))

    # --- who lives

    async def _living(self) -> SwarmView:
        """Return the view without experts that died so lately that their records still stand.

        Takes as long as a claim needs to spread at least, so that joiners see each other.
        """
        view = await self._context.directory.refresh_experts()
        asked: set[Life] = set()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._wait())
            tasks.create_task(self._probe_new(view, asked))
        # A look may miss a record; whoever was not asked yet must not count unasked.
        return await self._probe_new(await self._context.directory.refresh_experts(), asked)

    async def _probe_new(self, view: SwarmView, asked: set[Life]) -> SwarmView:
        """Ask the experts of a view that were not asked before; return it without the dead."""
        async with asyncio.TaskGroup() as tasks:
            for expert in (*(e for stage in view.stages for e in stage.experts), *view.joiners):
                if _life(expert) not in asked and len(asked) < MAX_PROBES:
                    asked.add(_life(expert))
                    tasks.create_task(self._probe(expert))
        return self._without_gone(view)

    def _without_gone(self, view: SwarmView) -> SwarmView:
        return view.where(lambda expert: not self._is_gone(expert))

    def _is_gone(self, expert: ExpertInfo) -> bool:
        return _life(expert) in self._gone or is_former_life(expert, self._joiner(None))

    async def _probe(self, expert: ExpertInfo) -> None:
        context, question = self._context, Message({"uid": expert.uid})
        if expert.peer_id == context.peer_id:
            return
        try:
            await context.rpc.call(expert.peer_id, STANDING, question, timeout_s=PROBE_S)
        except ExpertNotFound:
            if expert.record.state != r.JOINING:  # who joins does not host it yet
                self._note_gone(expert, "its peer does not host it")
        except NotServed:
            return  # it lives, and hosts nothing yet
        except DialError as error:
            if expert.record.addresses:
                await self._confirm(expert, error)
            else:  # in client mode: it calls us, and its record tells that it lives
                context.note("gap", expert.stage, f"{expert.uid} is left alone: {error}")
        except NetworkError as error:
            await self._confirm(expert, error)
        except DistqatError:
            return  # it lives; what it serves is another matter

    async def _confirm(self, expert: ExpertInfo, error: NetworkError) -> None:
        """Take an expert that does not answer us for dead if others do not reach it either."""
        context = self._context
        decision = await confirm_gone(context, expert.peer_id)
        text = f"it does not answer us ({error}); {decision.reason}"
        if decision.value:
            context.directory.mark_lost(expert.peer_id, text)
            self._note_gone(expert, text)
        else:
            context.note("gap", expert.stage, f"{expert.uid} is left alone: {text}")

    def _note_gone(self, expert: ExpertInfo, reason: str) -> None:
        if len(self._gone) < MAX_GONE:
            self._gone.add(_life(expert))
        self._context.note("gap", expert.stage, f"{expert.uid} is gone: {reason}")

    def _announce(self, uid: str) -> None:
        context = self._context
        record = r.ExpertRecord(
            uid=uid,
            state=r.JOINING,
            addresses=context.addresses(),
            boot_epoch=context.boot_epoch,
            outer_step=0,
            inner_step=0,
            anchor_digest="",
            samples_per_s=0.0,
            session=0,
            memory_free=self._room.free_bytes(),
            unfit=self._room.unfit_bits(context.stage_names),
        )
        context.dht.announce(self._key, self.subkey, record.pack(), ttl_s=TTL_S)


def _life(expert: ExpertInfo) -> Life:
    return expert.peer_id, expert.uid, expert.record.boot_epoch
