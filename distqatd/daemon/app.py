"""A real daemon: state folder, swarm, TLS, signals, API; around a Node."""

import asyncio
import os
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from distqatd import __version__
from distqatd.api.server import ApiServer
from distqatd.base.clock import SystemClock
from distqatd.base.disk import FileDisk
from distqatd.base.errors import ConfigError
from distqatd.base.ids import nickname
from distqatd.base.log import configure_logging
from distqatd.base.rng import system_rng
from distqatd.base.tasks import Supervisor
from distqatd.compute.memory import free_bytes
from distqatd.daemon.node import Node
from distqatd.daemon.options import Options
from distqatd.daemon.provider import NodeProvider
from distqatd.daemon.seams import Seams
from distqatd.daemon.stopping import Stopper, drain_seconds
from distqatd.daemon.systemd import Notifier
from distqatd.identity.keys import Identity
from distqatd.identity.operator import FILE_NAME as OPERATOR_FILE
from distqatd.identity.operator import Operators, load_operators
from distqatd.identity.swarm import (
    Swarm,
    load_or_create_secret,
    load_secret,
    open_swarm,
    secret_swarm,
)
from distqatd.identity.tls import contexts
from distqatd.net.address import expand_invites
from distqatd.net.tcp import TcpTransport

if TYPE_CHECKING:
    from distqatd.compute.executor import Executor

IDENTITY_FILE = "identity.key"
SECRET_FILE = "swarm.secret"  # noqa: S105  a file name
SOCKET_FILE = "api.sock"
LEDGER_FILE = "ballots.json"


async def run(options: Options) -> int:
    """Run one daemon until it is told to stop; return its exit code."""
    network, telemetry = options.config.network, options.config.telemetry
    level = "debug" if options.verbose else telemetry.log_level
    configure_logging(level, file=options.log_file, as_json=telemetry.log_json)
    options.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    identity = Identity.load_or_create(options.state_dir / IDENTITY_FILE)
    swarm, secret = load_swarm(options)
    clock = SystemClock()
    transport = TcpTransport(contexts(identity, swarm))
    seams = Seams(
        transport,
        clock,
        system_rng(),
        make_device_executor,
        time.perf_counter,
        in_thread,
        FileDisk(options.state_dir / LEDGER_FILE, in_thread),
        free_bytes,
        options.state_dir,
        transport.meter,
    )
    # Wall time: a restart must look newer than the life before, also after a reboot.
    node = Node(
        options,
        identity,
        swarm,
        seams,
        boot_epoch=int(clock.now() * 1000),
        operators=operators_of(options),
    )
    provider = NodeProvider(node, secret)
    api = ApiServer(provider, options.state_dir / SOCKET_FILE, network.api_port)
    api.open()
    notifier = Notifier(os.environ)
    async with Supervisor("app", seams.rng) as tasks:
        stopper = Stopper(node, tasks, notifier)
        stopper.install()
        stopper.watch_parent(options.parent_fd)
        tasks.spawn(api.run(), name="api")
        tasks.spawn(notifier.run(), name="watchdog")

        async def on_ready() -> None:
            say_hello(node, provider, quiet=options.log_file is not None)
            notifier.send("READY=1", f"STATUS=serving as {','.join(options.roles)}")

        try:
            await node.run(on_ready)
        finally:
            notifier.send("STOPPING=1")
    return 0


def load_swarm(options: Options) -> tuple[Swarm, bytes | None]:
    """Return the swarm to belong to and its secret: from an invite, a file, or newly made.

    Raises:
        IdentityError: an invite or a secret is unusable.
        ConfigError: a swarm with a secret is to be joined without it.
    """
    network = options.config.network
    invites = [invite for text in network.join for invite in expand_invites(text)]
    if invites:
        return invites[0].swarm(), invites[0].secret
    if network.open_swarm:
        return open_swarm(network.swarm_name), None
    own = network.secret_file or options.state_dir / SECRET_FILE
    if network.join and not own.exists() and network.secret_file is None:
        raise ConfigError(
            f"joining {', '.join(network.join)} needs the swarm's secret\n"
            "fix: join with an invite (distqatctl invite on a member), or give "
            "--network-secret-file FILE, or --network-open-swarm for an open swarm"
        )
    # Only who starts a swarm makes a secret: a joiner's new one would fit nobody.
    secret = load_secret(own) if network.join else load_or_create_secret(own)
    return secret_swarm(network.swarm_name, secret), secret


def operators_of(options: Options) -> Operators:
    """Return whose directives to take, and the operator's key if this machine holds it.

    Raises:
        IdentityError: the key's file is unusable, or `control.operators` names no key.
    """
    network, control = options.config.network, options.config.control
    invites = [invite for text in network.join for invite in expand_invites(text)]
    beside = network.secret_file.parent if network.secret_file else options.state_dir
    return load_operators(
        control.operator_key_file or beside / OPERATOR_FILE,
        is_first=not network.join,
        invited_by=invites[0].operator if invites else None,
        named=control.operators,
    )


def make_device_executor(device: str, num_threads: int) -> "Executor":
    """Return the executor of a device; torch is imported now and not before."""
    from distqatd.compute.executor import DeviceExecutor

    return DeviceExecutor(device, num_threads)


async def in_thread(work: Callable[[], object]) -> object:
    """Run `work` in a thread of the loop's own pool."""
    return await asyncio.get_running_loop().run_in_executor(None, work)


def say_hello(node: Node, provider: NodeProvider, *, quiet: bool) -> None:
    """Tell the person at the terminal who we are and how others join."""
    if quiet:
        return
    name = nickname(node.identity.peer_id)
    lines = [
        f"distqatd {__version__}  peer {name}  swarm {node.swarm.name}  run {node.run_id}",
        f"  listening on port {node.port} (TCP and UDP); {', '.join(node.addresses())}",
    ]
    if {"monitor", "client"} & set(node.options.roles):
        lines.append(f"  others join with:  {provider.join_command()}")
    drains = "expert" in node.options.roles and drain_seconds(node.options) > 0
    leaves = f"drains (up to {drain_seconds(node.options):g} s)" if drains else "stops in order"
    lines.append(f"  status: distqatctl status    Ctrl-C {leaves}, twice stops now")
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()
