"""How a joining expert agrees with the other joiners on who takes which slot."""

import asyncio

from distqatd.base.errors import DistqatError, NetworkError
from distqatd.base.ids import PeerId
from distqatd.pipeline.messages import STANDING
from distqatd.roles.context import Context
from distqatd.roles.directory import TTL_S
from distqatd.swarm import records as r
from distqatd.swarm.placement import Slot, keeps_claim, place
from distqatd.swarm.view import ExpertInfo, SwarmView
from distqatd.wire.payload import Message

CLAIM_SETTLE_S = 0.4
"""How long a claim is left to reach the others before it is checked, seconds."""

PROBE_S = 3.0
MAX_PROBES = 64
"""So many experts are asked at most, and so long, whether they still live."""


class Claim:
    """One expert's claim of a slot, announced under `joining` until it serves."""

    def __init__(self, context: Context, serial: str) -> None:
        self._context = context
        self._serial = serial
        self._key = r.joining_key(context.run_id)

    async def settle(self) -> tuple[Slot, str]:
        """Return the slot to host and why, as soon as nobody else claims it.

        Raises:
            SwarmError: the wanted stage does not exist, or has no free slot.
        """
        context = self._context
        config = context.config
        self._announce("")
        while True:
            await self._wait()
            view = await self._living()
            decision = place(
                view,
                context.peer_id,
                max_index=config.max_expert_index,
                wanted_stage=config.compute.stage,
            )
            slot = decision.value
            self._announce(slot.uid)
            await self._wait()
            view = await context.directory.refresh_experts()
            rivals: list[ExpertInfo] = [*view.stage(slot.stage).experts, *view.joiners]
            verdict = keeps_claim(rivals, context.peer_id, slot.uid)
            if verdict.value:
                context.events.emit("expert.placed", uid=slot.uid, reason=decision.reason)
                return slot, decision.reason
            context.events.emit("expert.claim_lost", uid=slot.uid, reason=verdict.reason)
            self._announce("")

    def withdraw(self) -> None:
        """Take the claim back: the expert serves, or never will."""
        self._context.dht.withdraw(self._key, self._serial)

    async def _wait(self) -> None:
        await asyncio.sleep(CLAIM_SETTLE_S * self._context.rng.uniform(1.0, 1.5))

    async def _living(self) -> SwarmView:
        """Return the view without experts that died so lately that their records still stand."""
        directory = self._context.directory
        view = await directory.refresh_experts()
        serving = [expert for stage in view.stages for expert in stage.serving]
        silent: list[PeerId] = []
        async with asyncio.TaskGroup() as tasks:
            for expert in serving[:MAX_PROBES]:
                tasks.create_task(self._probe(expert, silent))
        for peer in silent:
            directory.mark_lost(peer, "it does not answer us")
        return view.without(silent)

    async def _probe(self, expert: ExpertInfo, silent: list[PeerId]) -> None:
        try:
            await self._context.rpc.call(
                expert.peer_id, STANDING, Message({"uid": expert.uid}), timeout_s=PROBE_S
            )
        except NetworkError:
            silent.append(expert.peer_id)
        except DistqatError:
            return  # it lives; what it serves is another matter

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
        )
        context.dht.announce(self._key, self._serial, record.pack(), ttl_s=TTL_S)
