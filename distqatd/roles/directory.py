"""The swarm as this daemon sees it: reads the DHT, keeps a view, forgets peers it saw die."""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Protocol, TypeVar, cast

from distqatd.base.errors import DistqatError, RecordError
from distqatd.base.events import EventLog
from distqatd.base.ids import PeerId, RunId
from distqatd.net.book import parse_advertised
from distqatd.net.rpc import Caller, Rpc
from distqatd.roles.absence import Absence
from distqatd.swarm import records as r
from distqatd.swarm.view import (
    ExpertInfo,
    StageView,
    SwarmView,
    TrainerInfo,
    build_stage,
    expert_info,
)
from distqatd.wire.fields import need
from distqatd.wire.payload import Message

AnyRecord = r.PeerRecord | r.ExpertRecord | r.TrainerRecord | r.LeaseRecord | r.MirrorRecord
R = TypeVar("R", r.PeerRecord, r.ExpertRecord, r.TrainerRecord, r.LeaseRecord, r.MirrorRecord)

TTL_S = 30.0
"""Records of the run live this long without a refresh, seconds."""

SEES = "directory.sees"
"""Method by which a peer asks another one whether it sees a third: {peer, stage} to {sees}."""

REACH_S = 2.0
MAX_REACHED = 4
"""For one such question so many peers are called at most, for so long."""


class StoredRecord(Protocol):
    """What the directory reads of a DHT record."""

    @property
    def peer_id(self) -> PeerId:
        """Return who published it."""
        ...

    @property
    def subkey(self) -> str:
        """Return the publisher's slot."""
        ...

    @property
    def value(self) -> bytes:
        """Return the packed record."""
        ...

    @property
    def seq(self) -> int:
        """Return the publisher's version of it."""
        ...


class RecordSource(Protocol):
    """What the directory needs of the DHT."""

    async def get(self, key: str) -> Sequence[StoredRecord]:
        """Return the live records under a key."""
        ...


class Directory:
    """Keeps a `SwarmView` fresh, and the address book with it.

    A peer that was seen to die is left out at once, not when its records expire; if it publishes
    again it is asked whether it lives, and a later life brings it back at once.
    """

    def __init__(
        self,
        dht: RecordSource,
        rpc: Rpc,
        events: EventLog,
        run_id: RunId,
        stage_names: tuple[str, ...],
    ) -> None:
        self._dht = dht
        self._rpc = rpc
        self._events = events
        self._run_id = run_id
        self._absence = Absence(events)
        self._asked: set[PeerId] = set()
        self._parsed_of: dict[str, dict[tuple[PeerId, str, int], AnyRecord]] = {}
        self.advanced_at: dict[str, tuple[int, float]] = {}
        self.holders: dict[str, frozenset[PeerId]] = {}
        self._wake = asyncio.Event()
        self._updated = asyncio.Event()
        self.view = SwarmView(tuple(StageView(name, ()) for name in stage_names))
        rpc.on_lost(self._on_lost)
        rpc.serve(SEES, self._on_sees)

    async def next_view(self) -> SwarmView:
        """Wait for the next look at the swarm by `run`, and return what it saw."""
        await self._updated.wait()
        return self.view

    def look_now(self) -> None:
        """Have `run` look at the swarm at once."""
        self._wake.set()

    def mark_lost(self, peer_id: PeerId, reason: str) -> None:
        """Leave the peer's present records out of the view."""
        self._absence.mark(peer_id, reason)
        self.look_now()

    def _on_lost(self, peer_id: PeerId, reason: str) -> None:
        self.mark_lost(peer_id, reason)

    # --- a second vantage point

    def others(self) -> tuple[PeerId, ...]:
        """Return the peers that are known and not seen to be dead, in a fixed order."""
        known = {e.peer_id for stage in self.view.stages for e in stage.members}
        known |= set(self.view.peers)
        known.discard(self._rpc.peer_id)
        return tuple(sorted(peer for peer in known if peer not in self._absence))

    async def _on_sees(self, _: Caller, message: Message) -> Message:
        """Say whether we reach a peer, or anybody who serves a stage."""
        peer, stage = (need(message.body, name, str) for name in ("peer", "stage"))
        if stage in self.view.stage_names:
            members = (await self.refresh_stage(stage)).members
            asked = {expert.peer_id for expert in members}
        else:
            asked = {PeerId(peer)} & {*self._absence.known, self._rpc.peer_id}  # no strangers
        reached: set[PeerId] = asked & {self._rpc.peer_id}
        async with asyncio.TaskGroup() as tasks:
            for other in sorted(asked - reached)[:MAX_REACHED]:
                tasks.create_task(self._reach(other, reached))
        return Message({"sees": bool(reached)})

    async def knock(self, peer: PeerId) -> None:
        """Return if a peer answers.

        Raises:
            DistqatError: it does not; NothingListens where its machine says that it is gone.
        """
        question = Message({"peer": peer, "stage": ""})
        await self._rpc.call(peer, SEES, question, timeout_s=REACH_S)

    async def _reach(self, peer: PeerId, reached: set[PeerId]) -> None:
        try:
            await self.knock(peer)
        except DistqatError:
            return  # the answer is that we do not reach it
        reached.add(peer)

    # --- reading

    async def refresh(self) -> SwarmView:
        """Read everything about the run and return the new view."""
        run_id = self._run_id
        keys = {
            "trainers": r.trainers_key(run_id),
            "leases": r.leases_key(run_id),
            "peers": r.PEERS_KEY,
        }
        found = await self._read(*keys.values(), *self._expert_keys())
        # Peers come first: their records tell who lives anew.
        peers = dict(self._parsed(r.PeerRecord, keys["peers"], found[keys["peers"]]))
        trainers = self._parsed(r.TrainerRecord, keys["trainers"], found[keys["trainers"]])
        leases = self._parsed(r.LeaseRecord, keys["leases"], found[keys["leases"]])
        self.view = replace(
            self._with_experts(found),
            trainers=tuple(TrainerInfo(peer_id, record) for peer_id, record in trainers),
            peers=peers,
            leases=dict(leases),
        )
        self._note_progress()
        return self.view

    async def refresh_experts(self) -> SwarmView:
        """Read who serves and who joins, and return the view with these."""
        self.view = self._with_experts(await self._read(*self._expert_keys()))
        self._ask_soon()
        return self.view

    def _expert_keys(self) -> tuple[str, ...]:
        """Return the keys of the joiners and of each stage's experts, in this order."""
        stages = (r.stage_key(self._run_id, i) for i in range(len(self.view.stages)))
        return (r.joining_key(self._run_id), *stages)

    async def _read(self, *keys: str) -> dict[str, Sequence[StoredRecord]]:
        found: dict[str, Sequence[StoredRecord]] = {}

        async def read(key: str) -> None:
            found[key] = await self._dht.get(key)

        async with asyncio.TaskGroup() as tasks:
            for key in keys:
                tasks.create_task(read(key))
        return found

    def _with_experts(self, found: Mapping[str, Sequence[StoredRecord]]) -> SwarmView:
        joining, *stages = ([*self._experts(key, found[key])] for key in self._expert_keys())
        experts = [expert for stage in stages for expert in stage]
        names = self.view.stage_names
        return replace(
            self.view,
            stages=tuple(build_stage(name, [*experts, *joining]) for name in names),
            joiners=tuple(joining),
        )

    def _note_progress(self) -> None:
        """Remember when each stage's outer step was first seen, in loop time, and on whom."""
        now = asyncio.get_running_loop().time()
        for stage in self.view.stages:
            newest = max((e.record.outer_step for e in stage.serving), default=0)
            if newest > self.advanced_at.get(stage.name, (0, 0.0))[0]:
                self.advanced_at[stage.name] = (newest, now)
                self.holders[stage.name] = frozenset()
            if newest and newest == self.advanced_at[stage.name][0]:
                self.holders[stage.name] |= {
                    e.peer_id for e in stage.serving if e.record.outer_step == newest
                }

    async def refresh_stage(self, name: str) -> StageView:
        """Read one stage's experts and return the stage, now in the view."""
        index = self.view.stage_names.index(name)
        key = r.stage_key(self._run_id, index)
        stage = build_stage(name, self._experts(key, await self._dht.get(key)))
        stages = tuple(stage if old.name == name else old for old in self.view.stages)
        self.view = replace(self.view, stages=stages)
        self._ask_soon()
        return stage

    async def mirrors(self) -> tuple[tuple[PeerId, r.MirrorRecord], ...]:
        """Read who gives checkpoints of the run, those of the newest outer step first."""
        key = r.mirror_key(self._run_id)
        found = self._parsed(r.MirrorRecord, key, await self._dht.get(key))
        return tuple(sorted(found, key=lambda pair: (-pair[1].outer_step, pair[0])))

    def _experts(self, key: str, found: Sequence[StoredRecord]) -> Iterable[ExpertInfo]:
        for peer_id, record in self._parsed(r.ExpertRecord, key, found):
            expert = expert_info(peer_id, record)
            if expert is not None:
                yield expert

    def _parsed(
        self, kind: type[R], key: str, found: Sequence[StoredRecord]
    ) -> Iterable[tuple[PeerId, R]]:
        before, self._parsed_of[key] = self._parsed_of.get(key, {}), {}
        for stored in found:
            # Most records are those of the last look; reading them again costs more than that.
            slot = (stored.peer_id, stored.subkey, stored.seq)
            record = before.get(slot) or self._parse(kind, stored)
            if record is None:
                continue
            self._parsed_of[key][slot] = record
            known_as = (key, stored.subkey)
            if self._absence.believes(stored.peer_id, known_as, stored.seq, record.boot_epoch):
                yield stored.peer_id, cast(R, record)

    def _parse(self, kind: type[R], stored: StoredRecord) -> R | None:
        """Read a record and learn its addresses; None if it is of another version, or nonsense."""
        try:
            record = kind.parse(stored.value)
        except RecordError:
            return None
        if not self._absence.is_former(stored.peer_id, record.boot_epoch):
            self._learn(stored.peer_id, record.addresses)
        return record

    def _learn(self, peer_id: PeerId, texts: tuple[str, ...]) -> None:
        addresses = parse_advertised(texts)
        if addresses and peer_id != self._rpc.peer_id:
            self._rpc.learn(peer_id, addresses)

    async def run(self, every_s: Callable[[], float]) -> None:
        """Look at the swarm every `every_s()` seconds, and at once when a peer is lost.

        Begins with the view of the last `refresh`, which a daemon does before its roles start.
        """
        async with asyncio.TaskGroup() as tasks:
            while True:
                await self._until_due(every_s())
                await self.refresh()
                for peer in sorted(self._absence.returning - self._asked):
                    tasks.create_task(self._ask(peer), name="directory.ask")

    async def _until_due(self, every_s: float) -> None:
        """Say that the view is new, and wait until it is time to look again."""
        self._updated.set()
        self._updated = asyncio.Event()
        with suppress(TimeoutError):
            async with asyncio.timeout(every_s):
                await self._wake.wait()
        self._wake.clear()

    def _ask_soon(self) -> None:
        """Have `run` ask who has spoken although we take them for dead."""
        if self._absence.returning - self._asked:
            self.look_now()

    async def _ask(self, peer: PeerId) -> None:
        """Ask a peer that is said to be dead, and has published since, whether it lives."""
        self._asked.add(peer)
        reached: set[PeerId] = set()
        try:
            await self._reach(peer, reached)
        finally:
            self._asked.discard(peer)
        if not reached:
            return self._absence.stayed_away(peer)
        self._absence.came_back(peer)
        return self.look_now()
