"""One daemon: the only place where concrete classes meet. Built from Options and Seams.

Start: listen, join, take the run's configuration, roles in the order monitor, client, expert,
trainer, API. Stop is the reverse: roles leave (tombstones), the DHT says goodbye, links close.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from distqatd import __version__
from distqatd.base.errors import ConfigError
from distqatd.base.events import EventLog
from distqatd.base.ids import RunId
from distqatd.base.tasks import Supervisor
from distqatd.config.run import dump_run, run_digest
from distqatd.config.sections import Config
from distqatd.daemon.addresses import advertised
from distqatd.daemon.commands import Commands
from distqatd.daemon.crew import Crew
from distqatd.daemon.join import RUN_CONFIG, RunOffer, adopt_run, fetch_run, join
from distqatd.daemon.options import Options
from distqatd.daemon.seams import Seams
from distqatd.dht.node import Dht
from distqatd.identity.keys import Identity
from distqatd.identity.operator import Operators
from distqatd.identity.swarm import Swarm
from distqatd.net.address import Address, expand
from distqatd.net.pool import Pool, PoolLimits
from distqatd.net.rpc import Caller, Hello
from distqatd.roles.client import ClientRole
from distqatd.roles.context import Context
from distqatd.roles.directory import TTL_S, Directory
from distqatd.roles.monitor import POLL_S as MONITOR_POLL_S
from distqatd.roles.monitor import MonitorRole
from distqatd.roles.outreach import EVERY_S as OUTREACH_S
from distqatd.roles.outreach import reach_out
from distqatd.swarm import records as r
from distqatd.wire.payload import Message

if TYPE_CHECKING:  # these import torch, which monitors and clients never load
    from distqatd.averaging.records import RoundRecord
    from distqatd.roles.expert import ExpertRole
    from distqatd.roles.trainer import TrainerRole

PROTOCOL_VERSION = 1
LEAVE_GRACE_S = 5.0
"""A drain that has not ended so long after its deadline is left behind, seconds."""

LAST_CHECKPOINT_S = 15.0
"""What a stop lets the param mirror take for what is committed and not kept yet, seconds."""

DIRECTORY_S = 10.0
"""A daemon without a client or monitor looks at the whole swarm this often, seconds."""


class Node:
    """A daemon of this machine, or of the simulator."""

    def __init__(
        self,
        options: Options,
        identity: Identity,
        swarm: Swarm,
        seams: Seams,
        boot_epoch: int,
        operators: Operators | None = None,
    ) -> None:
        self.options = options
        self.config: Config = options.config
        self.identity = identity
        self.swarm = swarm
        self.seams = seams
        self.boot_epoch = boot_epoch
        self.operators = operators or Operators()
        self.events = EventLog(seams.clock)
        self.pool = Pool(
            identity.peer_id,
            self._hello,
            seams.transport,
            PoolLimits(
                max_links=options.config.network.max_peers,
                bytes_in_flight=options.config.network.bytes_in_flight,
                bytes_in_flight_per_peer=options.config.network.bytes_in_flight // 2,
            ),
            seams.clock,
            seams.rng,
            self.events,
        )
        self.dht = Dht(
            identity,
            swarm.datagram_key,
            seams.transport.datagrams,
            seams.clock,
            seams.rng,
            self.events,
        )
        self.context: Context | None = None
        self.commands: Commands | None = None
        self.crew = Crew(options, seams, self.events)
        self.port = 0
        self.started_at = 0.0
        self.stopping = asyncio.Event()
        self.is_leaving = False

    # --- who we are

    @property
    def run_id(self) -> RunId:
        """Return the run's name in DHT keys and HELLOs."""
        return RunId(self.config.experiment_prefix)

    def addresses(self) -> tuple[str, ...]:
        """Return where others reach us; nothing before we listen, or if nobody can."""
        return advertised(self.config.network, self.port) if self.port else ()

    def _hello(self) -> Hello:
        knows_run = self.context is not None
        return Hello(
            peer_id=self.identity.peer_id,
            swarm_id=self.swarm.swarm_id,
            run_id=self.run_id if knows_run else "",
            config_digest=run_digest(self.config) if knows_run else "",
            roles=self.options.roles,
            addresses=self.addresses(),
            boot_epoch=self.boot_epoch,
            version=PROTOCOL_VERSION,
            listen_port=0 if self.config.network.client_mode else self.port,
        )

    # --- life

    async def run(self, on_ready: Callable[[], Awaitable[None]]) -> None:
        """Live until `stop` is called or something fails that cannot be mended."""
        self.started_at = asyncio.get_running_loop().time()
        initial = self._initial_addresses()
        try:
            async with Supervisor("daemon", self.seams.rng) as tasks:
                tasks.spawn(self.pool.run(), name="pool")
                if {"expert", "trainer"} & set(self.options.roles):
                    tasks.spawn(self.crew.load_compute(), name="torch")
                await self._listen()
                dht_task = tasks.spawn(self.dht.run(), name="dht")
                await self._serve(initial, on_ready)
                dht_task.cancel()
                await self.dht.stop()
                await self.pool.close()
        finally:
            self.crew.close()

    async def _serve(self, initial: list[Address], on_ready: Callable[[], Awaitable[None]]) -> None:
        """Bring the roles up and keep them until `stop`, which may also come in between."""
        async with Supervisor("roles", self.seams.rng) as roles, asyncio.TaskGroup() as group:
            starting = group.create_task(self._bring_up(initial, roles, on_ready))
            await self.stopping.wait()
            starting.cancel()

    async def _bring_up(
        self, initial: list[Address], roles: Supervisor, on_ready: Callable[[], Awaitable[None]]
    ) -> None:
        await self._join(initial)
        await self._start_roles(roles)
        await on_ready()

    def stop(self, reason: str) -> None:
        """Begin to stop; `run` returns when everything is down."""
        if not self.stopping.is_set():
            self.events.emit("daemon.stopping", reason=reason)
            self.stopping.set()

    async def drain_and_stop(self, reason: str, deadline_s: float) -> None:
        """Keep what is committed, drain this daemon's experts, stop; `stop` cuts that short.

        Alone in the swarm there is nobody to hand over to, and it stops at once.
        """
        commands, context = self.commands, self.context
        if deadline_s > 0 and self.crew.mirror is not None:
            self.is_leaving = True
            await self.crew.mirror.finish(min(deadline_s, LAST_CHECKPOINT_S))
        if deadline_s > 0 and commands and context and context.directory.others():
            self.is_leaving = True
            began = asyncio.get_running_loop().time()
            if self.crew.trainer is not None:
                await self.crew.trainer.leave(deadline_s)
            deadline_s = max(0.0, deadline_s - (asyncio.get_running_loop().time() - began))
            # The drain keeps its deadline itself; if it does not, the daemon ends all the same.
            try:
                async with asyncio.timeout(deadline_s + LEAVE_GRACE_S):
                    await commands.control.leave(deadline_s=deadline_s, reason=reason)
            except TimeoutError:
                self.events.emit("daemon.drain_overdue", degraded=True, deadline_s=deadline_s)
        self.stop(reason)

    def _initial_addresses(self) -> list[Address]:
        return [address for text in self.config.network.join for address in expand(text)]

    async def _listen(self) -> None:
        network = self.config.network
        address = await self.pool.start_listening(network.host, network.port)
        self.port = address.port
        await self.dht.start(network.host, self.port)
        self.events.emit("daemon.listening", host=network.host, port=self.port)

    async def _join(self, initial: list[Address]) -> None:
        if not initial:
            self.events.emit("swarm.started", swarm=self.swarm.name)
            return
        joined = await join(self.pool, initial, self.config.network.join_timeout)
        await self.dht.bootstrap(initial)
        timeout_s = self.config.network.join_timeout
        offer = await fetch_run(self.pool, joined.peers, timeout_s=timeout_s)
        self.config = adopt_run(self.config, self.options.origins, offer.config)
        self._adopt_operator(offer.operator)
        self.events.emit("swarm.joined", peers=len(joined.peers), run=self.run_id)

    async def _start_roles(self, roles: Supervisor) -> None:
        config = self.config
        stage_names = tuple(stage.stage for stage in config.model_pipeline.pipeline)
        if len(set(stage_names)) != len(stage_names):
            raise ConfigError(f"model_pipeline.pipeline names a stage twice: {stage_names}")
        directory = Directory(self.dht, self.pool, self.events, self.run_id, stage_names)
        self.context = context = Context(
            peer_id=self.identity.peer_id,
            boot_epoch=self.boot_epoch,
            run_id=self.run_id,
            config=config,
            rpc=self.pool,
            dht=self.dht,
            directory=directory,
            clock=self.seams.clock,
            rng=self.seams.rng,
            events=self.events,
            tasks=roles,
            addresses=self.addresses,
        )
        peer = r.PeerRecord(self.addresses(), self.options.roles, __version__, self.boot_epoch)
        self.dht.announce(r.PEERS_KEY, "", peer.pack(), ttl_s=TTL_S)
        await directory.refresh()
        # Who joins through us after this finds the checkpoint that the run resumes from.
        await self.crew.open_mirror(context)
        self.commands = Commands(
            context,
            self.swarm.swarm_id,
            lambda: self.operators,
            lambda: self.experts,
            self.round_records,
        )
        self.pool.serve(RUN_CONFIG, self._serve_run)
        await self.crew.start(context)
        roles.keep(lambda: directory.run(self._look_every_s), name="directory")
        if config.network.client_mode:
            roles.keep(lambda: reach_out(context), name="outreach")

    def _look_every_s(self) -> float:
        """Return how often this daemon looks at the swarm, by what its roles do with it."""
        if self.client is not None:
            return self.client.poll_s()
        if self.monitor is not None:
            return MONITOR_POLL_S
        # Whoever comes can call one in client mode only when that one has called.
        return OUTREACH_S if self.config.network.client_mode else DIRECTORY_S

    async def _serve_run(self, _: Caller, __: Message) -> Message:
        return Message(RunOffer(dump_run(self.config), self.operators.of_swarm).body())

    def _adopt_operator(self, operator: bytes | None) -> None:
        """Take the member's word for who the operator is, unless an invite told us.

        In an open swarm that word is a stranger's: there only the invite and the owner count.
        """
        if self.operators.of_swarm is None and not self.swarm.is_open:
            self.operators = replace(self.operators, of_swarm=operator)

    # --- roles

    @property
    def client(self) -> ClientRole | None:
        """Return the client role, once it was started."""
        return self.crew.client

    @property
    def monitor(self) -> MonitorRole | None:
        """Return the monitor role, once it was started."""
        return self.crew.monitor

    @property
    def experts(self) -> "list[ExpertRole]":
        """Return the expert roles, once they were started."""
        return self.crew.experts

    @property
    def trainer(self) -> "TrainerRole | None":
        """Return the trainer role, once it was started."""
        return self.crew.trainer

    def round_records(self) -> "tuple[RoundRecord, ...]":
        """Return the rounds that experts of this daemon took part in, oldest first."""
        return self.crew.round_records()
