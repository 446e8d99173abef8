"""Whole daemons: they join, train a tiny model over DiLoCo rounds, and leave."""

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

import torch

from distqatd.base.ids import PeerId
from distqatd.config.sections import Config
from distqatd.daemon.node import Node
from distqatd.daemon.options import Options
from distqatd.daemon.seams import Seams
from distqatd.identity.swarm import secret_swarm
from tests.sim.host import Host
from tests.sim.registry import scenario
from tests.sim.sim import Sim, Violation
from tests.support.inline_executor import InlineExecutor
from tests.support.memory_disk import MemoryDisk

PORT = 29700
SECRET = b"s" * 32
STEP_COST_S = 0.002

SIZES = [64, 8, 8, 10]
"""A tiny perceptron over the 8 x 8 digits."""


def make_config(**diloco: object) -> Config:
    """Return a run of two stages and a few short rounds."""
    stages = [{"model_name": f"mlp.{name}", "sizes": SIZES} for name in ("front", "back")]
    return Config.model_validate(
        {
            "experiment_prefix": "sim",
            "device": "cpu",
            "network": {"port": PORT},
            "telemetry": {"metrics_every": 10.0},
            "data": {"validation_fraction": 0.02},
            "diloco": {
                "inner_steps": 4,
                "outer_steps": 2,
                "batch_size_per_step": 8,
                "averaging_timeout": 20.0,
                **diloco,
            },
            "model_pipeline": {"pipeline": stages},
        }
    )


def make_node(
    host: Host, roles: tuple[str, ...], config: Config, *seed_ips: str, **network_fields: object
) -> Node:
    """Return a daemon on a simulated machine; it joins through the machines at `seed_ips`."""
    join = tuple(f"{ip}:{PORT}" for ip in seed_ips)
    fields = {"join": join, "host": host.ip, **network_fields}
    network = config.network.model_copy(update=fields)
    host.executor = InlineExecutor(STEP_COST_S)
    seams = Seams(
        transport=host.transport,
        clock=host.clock,
        rng=host.rng,
        make_executor=lambda *_: host.executor,
        timer=asyncio.get_running_loop().time,
        in_thread=_inline,
        ledger_disk=MemoryDisk(host.disk, "ballots"),
    )
    return Node(
        Options(roles, config.model_copy(update={"network": network}), Path("/nowhere")),
        host.identity,
        secret_swarm("sim", SECRET),
        seams,
        boot_epoch=host.boots,
    )


class Swarm:
    """Daemons on simulated machines, the first of them monitor and client."""

    def __init__(self, sim: Sim, config: Config) -> None:
        fail_on_logged_errors(sim)
        torch.set_num_threads(1)  # more cost time on tensors this small, and may reorder sums
        self.sim = sim
        self.config = config
        self.nodes: dict[str, Node] = {}
        self.hosts: dict[str, Host] = {}
        self.seed_ip: str | None = None

    def add(self, *roles: str, behind_nat: bool = False) -> str:
        """Start a daemon on a machine of its own; return the machine's address.

        Behind NAT no connection to it is let through, and it is in client mode.
        """
        host = self.sim.host(skew_s=self.sim.rng.uniform(-60, 60))
        seed_ip, self.seed_ip = self.seed_ip, self.seed_ip or host.ip

        async def main(host: Host) -> None:
            seeds = [seed_ip] if seed_ip else []
            node = make_node(host, roles, self.config, *seeds, client_mode=behind_nat)
            self.nodes[host.ip] = node
            await node.run(_nothing)

        self.hosts[host.ip] = host
        if behind_nat:
            self.sim.refuse_connections(host)
        host.start(main)
        return host.ip

    def experts(self) -> list[object]:
        """Return the experts that serve, on all machines that live."""
        return [
            role.hosted
            for ip, node in self.nodes.items()
            if self.hosts[ip].alive
            for role in node.experts
            if role.hosted is not None
        ]

    @property
    def client(self) -> object:
        """Return the client's role on the first machine."""
        return self.nodes[self.seed_ip].client if self.seed_ip in self.nodes else None

    def is_finished(self) -> bool:
        """Return whether the client says that the run is over."""
        client = self.client
        return client is not None and client.is_finished

    def is_identical(self) -> bool:
        """Return whether replicas of a stage at the same outer step hold the same bits."""
        anchors: dict[tuple[str, int], set[str]] = {}
        for hosted in self.experts():
            key = (hosted.uid.split(".")[0], hosted.expert.outer_step)
            anchors.setdefault(key, set()).add(hosted.expert.anchor_digest)
        return all(len(digests) == 1 for digests in anchors.values())

    async def stop(self) -> None:
        """Stop every daemon in order and wait until all are down."""
        for ip, node in self.nodes.items():
            if self.hosts[ip].alive:
                node.stop("the scenario is over")
        await self.sim.until(
            lambda: not [t for t in self.sim.loop.tasks() if t.get_name().endswith(".main")],
            within_s=60,
            what="every daemon stopped",
        )


async def _inline(work: Callable[[], object]) -> object:
    """Do at once what a real daemon does in a thread."""
    return work()


class _Bugs(logging.Handler):
    """Fails the simulation for what a daemon logs as a bug of its own and then survives."""

    sim: Sim

    def emit(self, record: logging.LogRecord) -> None:
        text = f"logged as a bug: {record.getMessage()} {record.exc_info and record.exc_info[1]!r}"
        self.sim.loop.fail(Violation(text))


_BUGS = _Bugs(logging.ERROR)


def fail_on_logged_errors(sim: Sim) -> None:
    """Have the simulation fail for what a daemon logs as an error."""
    _BUGS.sim = sim
    log = logging.getLogger("distqatd")
    if _BUGS not in log.handlers:
        log.addHandler(_BUGS)


async def _nothing() -> None:
    """Stand in for what a real daemon does when it is up."""


def peer_of(node: Node) -> PeerId:
    """Return the peer id of a daemon."""
    return node.identity.peer_id


@scenario("train")
async def train(sim: Sim) -> dict[str, int]:
    """Four experts join in any order, train two pipelines to the last outer step, and leave."""
    swarm = Swarm(sim, make_config())
    swarm.add("monitor", "client")
    await asyncio.sleep(sim.rng.uniform(0.2, 1.0))
    for roles in sim.rng.sample([("expert",)] * 4 + [("trainer",)] * 2, 6):
        swarm.add(*roles)
        await asyncio.sleep(sim.rng.uniform(0.0, 0.3))
    await sim.until(swarm.is_finished, within_s=120, what="the run is finished", every_s=0.25)
    sim.check(swarm.is_identical(), "replicas hold different anchors")
    ledger = swarm.client.ledger
    sim.check(ledger.lost() == 0, f"{ledger.lost()} batches lost")
    sim.check(ledger.duplicated == 0, f"{ledger.duplicated} batches duplicated")
    steps = [hosted.expert.outer_step for hosted in swarm.experts()]
    # A stage goes one step further when the other one's last replica came later.
    sim.check(len(steps) == 4 and set(steps) <= {2, 3}, f"outer steps {steps}")
    await swarm.stop()
    return {"committed": ledger.committed}
