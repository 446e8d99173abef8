"""The machines of a plan: started, killed, booted again, slowed down."""

import torch

from distqatd.config.sections import Config
from distqatd.daemon.node import Node
from tests.sim.elastic.dht import CheapDht
from tests.sim.elastic.plan import Machine
from tests.sim.host import Host
from tests.sim.scenarios.whole_swarm import fail_on_logged_errors, make_node
from tests.sim.sim import Sim

COST_S = 0.02
"""Virtual seconds of a piece of tensor work: a step takes long enough for trouble to hit it."""

SLOWDOWN = 50.0
MAX_JOIN_ADDRESSES = 3


class Fleet:
    """Daemons by name. The first starts the swarm, all others (and it, later) join one another."""

    def __init__(self, sim: Sim, config: Config, *, has_real_dht: bool) -> None:
        fail_on_logged_errors(sim)
        torch.set_num_threads(1)  # more cost time on tensors this small, and may reorder sums
        self.sim = sim
        self.config = config
        self.hosts: dict[str, Host] = {}
        self.nodes: dict[str, Node] = {}
        self._roles: dict[str, tuple[str, ...]] = {}
        self.filled_twice: list[str] = []
        """Slots that were taken although somebody served them."""
        self._dhts: list[CheapDht] | None = None if has_real_dht else []

    def add(self, machine: Machine) -> None:
        """Boot a new machine."""
        host = self.sim.host(skew_s=machine.skew_s)
        self.hosts[machine.name] = host
        self._roles[machine.name] = machine.roles
        host.start(self._main(machine.name))

    def _main(self, name: str):
        async def main(host: Host) -> None:
            join = [other.ip for other in self.hosts.values() if other is not host and other.alive]
            node = make_node(host, self._roles[name], self.config, *join[:MAX_JOIN_ADDRESSES])
            if self._dhts is not None:
                node.dht = CheapDht(self.sim.net, host, self._dhts)
            host.executor.cost_s = COST_S
            self.nodes[name] = node
            self._follow(name, node)
            await node.run(_nothing)

        return main

    def _follow(self, name: str, node: Node) -> None:
        """Look at a daemon's events; put them among the lines of a trace that somebody reads."""
        emit, lines = node.events.emit, self.sim.net.trace.lines

        def seen(kind: str, **fields: object) -> object:
            if lines is not None:
                text = " ".join(f"{key}={value}" for key, value in fields.items())
                lines.append(f"{self.sim.now_s:.6f} event {name} {kind} {text}")
            if kind == "expert.serving":
                self._check_slot(name, str(fields["uid"]))
            return emit(kind, **fields)

        node.events.emit = seen

    def _check_slot(self, name: str, uid: str) -> None:
        """Note a slot that is taken although somebody who can be reached serves it."""
        for other, node in self.living().items():
            reachable = self.sim.net.connects(self.hosts[name].ip, self.hosts[other].ip)
            if other != name and reachable and uid in {h.uid for h in _hosted(node)}:
                self.filled_twice.append(f"{name} takes {uid}, which {other} serves")

    def is_alive(self, name: str) -> bool:
        """Return whether the machine's daemon runs."""
        return name in self.hosts and self.hosts[name].alive

    def restart(self, name: str) -> None:
        """Boot a machine again, with the same identity and a new boot epoch."""
        self.nodes.pop(name, None)
        self.sim.heal([self.hosts[name]])
        self.hosts[name].restart()

    def slow_down(self, name: str, factor: float) -> None:
        """Have a machine's computations take `factor` times as long as usual."""
        self.hosts[name].executor.cost_s = COST_S * factor

    def living(self) -> dict[str, Node]:
        """Return the daemons that run, by name."""
        return {name: node for name, node in self.nodes.items() if self.hosts[name].alive}

    def serving(self) -> list[object]:
        """Return the experts that serve, on all machines that live."""
        return [hosted for node in self.living().values() for hosted in _hosted(node)]

    def clients(self) -> list[object]:
        """Return the client roles of the machines that live."""
        return [node.client for node in self.living().values() if node.client is not None]

    def is_finished(self) -> bool:
        """Return whether a client says that the run is over."""
        return any(client.is_finished for client in self.clients())

    def is_trained(self) -> bool:
        """Return whether some expert has taken the last outer step."""
        last = self.config.diloco.outer_steps
        return any(hosted.expert.outer_step >= last for hosted in self.serving())

    async def stop(self) -> None:
        """Stop every daemon in order and wait until all are down."""
        for node in self.living().values():
            node.stop("the scenario is over")
        await self.sim.until(
            lambda: not [t for t in self.sim.loop.tasks() if t.get_name().endswith(".main")],
            within_s=60,
            what="every daemon stopped",
        )


def _hosted(node: Node) -> list[object]:
    """Return the experts that a daemon serves."""
    return [role.hosted for role in node.experts if role.hosted is not None]


async def _nothing() -> None:
    """Stand in for what a real daemon does when it is up."""
