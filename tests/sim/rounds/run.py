"""Running a schedule, and what must come of it."""

import asyncio

from distqatd.averaging.roster import leader_order
from distqatd.base.ids import make_uid
from tests.sim.elastic.points import Points
from tests.sim.rounds import draw as d
from tests.sim.rounds.ledger import Truth
from tests.sim.rounds.network import Calls
from tests.sim.rounds.replica import STAGE, Replica, Replicas
from tests.sim.sim import Sim

PROGRESS_S = 60.0
"""Virtual seconds after healing within which every replica must be further than any was."""

LAPSE_S = 10.0
"""After a death the record of the dead is there this long; the real ones live for 30 s."""


class Run:
    """One simulation."""

    def __init__(self, sim: Sim, schedule: d.Schedule) -> None:
        self._sim = sim
        self._schedule = schedule
        self._calls = Calls(sim, schedule.weather)
        self._truth = Truth(sim)
        self._points = Points(sim.loop)
        self.swarm = Replicas(self._calls, self._truth)
        self._truth.is_gone = lambda uid: any(r.is_gone for r in self.swarm.all if r.uid == uid)

    async def all(self) -> dict[str, int]:
        """Run to the end; return what to count."""
        for index in range(self._schedule.num_replicas):
            host = self._sim.host()
            replica = Replica(make_uid(STAGE, index), host, self.swarm)
            self.swarm.all.append(replica)
        for replica in self.swarm.all:
            replica.host.start(replica.run)
        for fault in self._schedule.faults:
            await asyncio.sleep(fault.wait_s)
            await self._strike(fault)
        self._calls.calm()
        await self._progress()
        return self._counts()

    # --- faults

    async def _strike(self, fault: d.Fault) -> None:
        struck = self._victims(fault)
        if not struck:
            return
        self._sim.note(f"now: {fault} strikes {' '.join(r.uid for r in struck)}")
        if fault.kind == d.TAKEN:
            await self._cut_off_the_first(fault)
        elif fault.kind == d.PARTITION:
            await self._partition(struck, fault)
        elif fault.kind == d.RESET:
            await self._at_point(struck[0], fault, lambda: self._reset(struck[0]))
        else:
            await self._kill(struck, fault)

    def _victims(self, fault: d.Fault) -> list[Replica]:
        living = self.swarm.living()
        rng = self._sim.rng
        if not living:
            return []
        first = rng.choice(living)
        if fault.leader:
            step = max(replica.anchor.step for replica in living)
            order = leader_order(STAGE, step, [replica.uid for replica in living])
            first = next(replica for replica in living if replica.uid == order[0])
        rest = [replica for replica in living if replica is not first]
        return [first, *rng.sample(rest, min(fault.others, len(rest)))]

    async def _at_point(self, replica: Replica, fault: d.Fault, strike) -> None:
        await self._points.strike(replica.host.life, fault.point, strike)

    async def _kill(self, struck: list[Replica], fault: d.Fault) -> None:
        silently = fault.kind == d.POWER

        def kill() -> None:
            for replica in struck:
                self._calls.ends[replica.uid + ".peer"].is_silent = silently
                replica.host.crash()
                self._calls.died(replica.uid + ".peer", silently=silently)

        await self._at_point(struck[0], fault, kill)
        if fault.kind == d.DEATH and self.swarm.living():
            for replica in struck:
                self._sim.loop.call_later(LAPSE_S, self._lapse, replica)
            return
        await asyncio.sleep(fault.for_s)
        for replica in struck:
            replica.host.restart()

    def _lapse(self, replica: Replica) -> None:
        replica.is_gone = not replica.host.alive

    async def _partition(self, struck: list[Replica], fault: d.Fault) -> None:
        inside = [replica.uid + ".peer" for replica in struck]
        outside = [r.uid + ".peer" for r in self.swarm.all if r not in struck]
        await self._at_point(struck[0], fault, lambda: self._calls.cut(inside, outside))
        await asyncio.sleep(fault.for_s)
        self._calls.heal()

    async def _cut_off_the_first(self, fault: d.Fault) -> None:
        """Let nobody hear of a step from the replica that took it, and restart those who may know.

        What they have accepted is then all that is left of the step on this side.
        """
        done = asyncio.Event()

        def strike(uid: str) -> None:
            if done.is_set():
                return
            done.set()
            rest = [replica for replica in self.swarm.all if replica.uid != uid]
            self._calls.cut([uid + ".peer"], [replica.uid + ".peer" for replica in rest])
            for replica in rest:
                if replica.host.alive and self._sim.rng.random() < 0.7:
                    replica.host.crash()
                    self._sim.loop.call_later(0.1, replica.host.restart)

        self._truth.on_first = strike
        try:
            async with asyncio.timeout(20.0):
                await done.wait()
        except TimeoutError:
            return
        await asyncio.sleep(max(0.2, fault.for_s))
        self._calls.heal()

    def _reset(self, replica: Replica) -> None:
        peer = replica.uid + ".peer"
        others = [r.uid + ".peer" for r in self.swarm.living() if r is not replica]
        self._calls.break_links({frozenset((peer, other)) for other in others}, "reset")

    # --- what must come of it

    def _steps(self) -> list[int]:
        return [replica.anchor.step for replica in self.swarm.living()]

    async def _progress(self) -> None:
        target = max(replica.anchor.step for replica in self.swarm.all) + 1
        await self._sim.until(
            lambda: min(self._steps()) >= target,
            within_s=PROGRESS_S,
            what=f"every replica is at outer step {target}",
            every_s=0.1,
        )

    def _counts(self) -> dict[str, int]:
        return {
            "steps": max(self._truth.digests, default=0),
            "commits": sum(self._truth.commits.values()),
            "void": self._truth.num_void,
            "calls": self._calls.num_served,
        }


async def run_seed(sim: Sim) -> dict[str, int]:
    """Run the schedule of the simulation's seed."""
    return await Run(sim, d.draw(sim.seed)).all()
