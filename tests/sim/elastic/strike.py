"""Doing what a plan says, at the moments it says."""

import asyncio
from typing import Any

from tests.sim.elastic import plan as p
from tests.sim.elastic.fleet import SLOWDOWN, Fleet
from tests.sim.elastic.points import Points
from tests.sim.elastic.watch import Watch
from tests.sim.host import Host
from tests.sim.sim import Sim

ORDER_S = 30.0
"""What a drain or a move may take."""

MAX_WAIT_S = 90.0
"""Training must have come to the moment of a fault by then, virtual seconds."""


class Striker:
    """Strikes a fleet with the faults of a plan, each in a task of its own."""

    def __init__(self, sim: Sim, fleet: Fleet, watch: Watch) -> None:
        self._sim = sim
        self._fleet = fleet
        self._watch = watch
        self.points = Points(sim.loop)
        self.crashed: set[str] = set()
        """Lives that a fault ended."""
        self.struck_late = False
        """Whether a fault struck when a stage had taken its last outer step."""

    async def all(self, faults: tuple[p.Fault, ...]) -> None:
        """Return when every fault has struck and every one that ends has ended."""
        async with asyncio.TaskGroup() as tasks:
            for fault in faults:
                tasks.create_task(self._one(fault))

    async def _one(self, fault: p.Fault) -> None:
        await self._sim.until(
            lambda: self._watch.num_applied >= fault.after_steps or self._fleet.is_trained(),
            within_s=MAX_WAIT_S,
            what=f"{fault.after_steps} steps, for: {fault}",
            every_s=0.02,
        )
        await asyncio.sleep(fault.wait_s)
        if fault.kind != p.JOIN:
            await self._sim.until(
                lambda: self._fleet.hosts.keys() >= set(fault.machines),
                within_s=MAX_WAIT_S,
                what=f"there are machines for: {fault}",
            )
        self._sim.note(f"now: {fault}")
        self.struck_late |= self._fleet.is_trained()
        await self._STRIKES[fault.kind](self, fault)
        self._sim.note(f"over: {fault}")

    def _hosts(self, fault: p.Fault) -> list[Host]:
        return [self._fleet.hosts[name] for name in fault.machines if self._fleet.is_alive(name)]

    async def _at_point(self, fault: p.Fault, *, silently: bool = False) -> None:
        """Kill the machines when the first of them has come to the await point."""
        hosts = self._hosts(fault)

        def kill() -> None:
            for host in hosts:
                self._sim.note(f"{host.life.name} dies")
                self.crashed.add(host.life.name)
                self.struck_late |= self._fleet.is_trained()
                self._sim.lose_power(host) if silently else host.crash()

        if hosts:
            await self.points.strike(hosts[0].life, fault.await_point, kill)

    async def _crash(self, fault: p.Fault) -> None:
        await self._at_point(fault)

    async def _power(self, fault: p.Fault) -> None:
        await self._at_point(fault, silently=True)

    async def _restart(self, fault: p.Fault) -> None:
        await self._at_point(fault, silently=fault.kind == p.BLACKOUT)
        await asyncio.sleep(fault.for_s)
        for name in fault.machines:
            self._fleet.restart(name)

    async def _partition(self, fault: p.Fault) -> None:
        hosts = self._hosts(fault)
        self._sim.partition(hosts)
        await asyncio.sleep(fault.for_s)
        self._sim.heal(hosts)

    async def _deaf(self, fault: p.Fault) -> None:
        hosts = self._hosts(fault)
        for host in hosts:
            for other in self._sim.hosts:
                self._sim.net.cut(other.ip, host.ip)
        await asyncio.sleep(fault.for_s)
        self._sim.heal(hosts)

    async def _flap(self, fault: p.Fault) -> None:
        loop = self._sim.loop
        until_s = loop.time() + fault.for_s
        while loop.time() < until_s:
            hosts = self._hosts(fault)
            self._sim.partition(hosts)
            await asyncio.sleep(self._sim.rng.uniform(0.1, 2.0))
            self._sim.heal(hosts)
            await asyncio.sleep(self._sim.rng.uniform(0.1, 2.0))

    async def _slow(self, fault: p.Fault) -> None:
        for name in fault.machines:
            self._fleet.slow_down(name, SLOWDOWN)
        await asyncio.sleep(fault.for_s)
        for name in fault.machines:
            self._fleet.slow_down(name, 1.0)

    async def _join(self, fault: p.Fault) -> None:
        for name in fault.machines:
            skew_s = self._sim.rng.uniform(-600, 600)
            self._fleet.add(p.Machine(name, (name.split(".")[0],), skew_s))

    def _expert(self, name: str) -> Any:
        """Return the expert's role, once it serves."""
        return next((role for role in self._fleet.nodes[name].experts if role.hosted), None)

    async def _orders(self, fault: p.Fault) -> tuple[Host, Any]:
        """Return the machine and the serving expert that gets an order."""
        [name] = fault.machines
        await self._sim.until(
            lambda: name in self._fleet.nodes and self._expert(name),
            within_s=MAX_WAIT_S,
            what=f"{name} serves, for: {fault}",
        )
        return self._fleet.hosts[name], self._expert(name)

    async def _drain(self, fault: p.Fault) -> None:
        host, role = await self._orders(fault)
        outcome = await host.spawn(role.drain(deadline_s=ORDER_S, reason="drill"), name="drain")
        self._sim.check(outcome.is_done, f"{fault}: {outcome.reason}")
        await asyncio.sleep(fault.for_s)
        await host.spawn(role.resume(), name="resume")

    async def _reassign(self, fault: p.Fault) -> None:
        host, role = await self._orders(fault)
        stage = "back" if role.slot.stage == "front" else "front"
        served = [hosted.uid.split(".")[0] for hosted in self._fleet.serving()]
        if served.count(role.slot.stage) < 2:
            self._sim.note(f"{fault}: it is the last one")
            return
        order = role.reassign(stage, deadline_s=ORDER_S, reason="drill")
        outcome = await host.spawn(order, name="reassign")
        self._sim.check(outcome.is_done, f"{fault}: {outcome.reason}")

    _STRIKES = {  # noqa: RUF012
        p.CRASH: _crash,
        p.POWER: _power,
        p.RESTART: _restart,
        p.BLACKOUT: _restart,
        p.PARTITION: _partition,
        p.DEAF: _deaf,
        p.FLAP: _flap,
        p.SLOW: _slow,
        p.JOIN: _join,
        p.DRAIN: _drain,
        p.REASSIGN: _reassign,
    }
