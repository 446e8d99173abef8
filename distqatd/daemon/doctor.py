"""What can be wrong with a daemon and its machine, each with what to do about it.

The checks are pure functions of facts; `examine` gathers the facts.
"""

import asyncio
import platform
import shutil
import statistics
import sys
from collections.abc import Collection, Sequence
from pathlib import Path

import psutil

from distqatd import __version__
from distqatd.api.control_schema import Check, Verdict
from distqatd.base.errors import DistqatError
from distqatd.base.ids import PeerId
from distqatd.daemon.addresses import reachability
from distqatd.daemon.commands import Commands
from distqatd.daemon.node import Node
from distqatd.identity.operator import Operators

MAX_ASKED = 5
"""Peers whose clocks are asked, at most."""

CLOCK_AHEAD_S = 5.0
LITTLE_DISK_BYTES = 5 << 30
LITTLE_MEMORY_BYTES = 1 << 30


async def examine(node: Node) -> tuple[Check, ...]:
    """Return every check of a daemon; asks some peers for the time."""
    addresses = node.addresses()
    view = node.context.directory.view if node.context else None
    peers = view.peers.values() if view else ()
    joined = await _ask_clocks(node.commands, node) if node.commands else ()
    return (
        check_python(sys.version_info[:3]),
        check_versions(__version__, {peer.version for peer in peers}),
        check_device(node.options.roles, node.crew.device_name),
        check_port(node.port),
        check_reachability(reachability(addresses), addresses),
        check_peers(len(view.peers) if view else 0, len(node.pool.links())),
        check_gaps(view.gaps if view else ()),
        check_clock(joined),
        check_disk(node.options.state_dir),
        check_memory(psutil.virtual_memory().available),
        check_operator(node.operators, node.config.control.refuse),
    )


async def _ask_clocks(commands: Commands, node: Node) -> tuple[float, ...]:
    """Return how far the clocks of some linked peers are ahead of ours, seconds."""
    found: list[float] = []

    async def one(peer: PeerId) -> None:
        try:
            echo = await commands.ping(peer, with_bandwidth=False)
        except DistqatError:
            return  # whoever does not answer is not what this check is about
        found.append(echo.clock_ahead_s)

    async with asyncio.TaskGroup() as tasks:
        for link in node.pool.links()[:MAX_ASKED]:
            tasks.create_task(one(link.peer_id))
    return tuple(found)


def check_python(version: tuple[int, int, int]) -> Check:
    """Say which Python runs."""
    text = ".".join(map(str, version))
    return Check(name="python", verdict="ok", detail=f"{text} on {platform.system()}")


def check_versions(ours: str, others: Collection[str]) -> Check:
    """Compare versions with the other peers'."""
    different = sorted(set(others) - {ours})
    if not different:
        return Check(name="versions", verdict="ok", detail=f"{ours} everywhere")
    return Check(
        name="versions",
        verdict="warning",
        detail=f"{ours} here, {', '.join(different)} elsewhere",
        fix="install the same version of distqat on all machines",
    )


def check_device(roles: Collection[str], device: str | None) -> Check:
    """Say what computes here."""
    if device is not None:
        return Check(name="device", verdict="ok", detail=device)
    if {"expert", "trainer"} & set(roles):
        return Check(
            name="device",
            verdict="warning",
            detail="not opened yet",
            fix="wait until the daemon has joined; then look at its log",
        )
    return Check(name="device", verdict="ok", detail="none needed by these roles")


def check_port(port: int) -> Check:
    """Say whether we listen."""
    if port:
        return Check(name="port", verdict="ok", detail=f"listening on {port}, TCP and UDP")
    return Check(
        name="port", verdict="error", detail="not listening", fix="look at the daemon's log"
    )


def check_reachability(reach: str, addresses: Sequence[str]) -> Check:
    """Say from where others can reach us."""
    where = ", ".join(addresses) or "no address"
    if reach == "unreachable":
        detail = "client mode: we connect to the others, and own no slices of outer steps"
        return Check(name="reachability", verdict="ok", detail=detail)
    if reach == "public":
        return Check(name="reachability", verdict="ok", detail=f"public: {where}")
    only = {"private": "only inside its network", "loopback": "only on this machine"}
    return Check(
        name="reachability",
        verdict="warning",
        detail=f"{only.get(reach, 'unknown')}: {where}",
        fix="for peers elsewhere forward the port, TCP and UDP, and start with --public-ip ADDRESS;"
        " if that cannot be, start with --client-mode",
    )


def check_peers(num_known: int, num_links: int) -> Check:
    """Say whether we are in contact with anybody."""
    detail = f"{max(num_known - 1, 0)} others known, {num_links} links"
    if num_links:
        return Check(name="peers", verdict="ok", detail=detail)
    return Check(
        name="peers",
        verdict="warning",
        detail=detail,
        fix="have others join (distqatctl invite), or see whether the port is open",
    )


def check_gaps(gaps: Sequence[str]) -> Check:
    """Say whether every stage is served."""
    if not gaps:
        return Check(name="stages", verdict="ok", detail="every stage is served, as far as known")
    return Check(
        name="stages",
        verdict="error",
        detail=f"nobody serves {', '.join(gaps)}",
        fix="distqatctl reassign --auto --dry-run, or start another expert",
    )


def check_clock(ahead_s: Sequence[float]) -> Check:
    """Compare our wall clock with other peers'."""
    if not ahead_s:
        return Check(name="clock", verdict="ok", detail="no peer to compare with")
    median_s = statistics.median(ahead_s)
    detail = (
        f"{abs(median_s):.1f} s {'behind' if median_s > 0 else 'ahead of'} {len(ahead_s)} peers"
    )
    if abs(median_s) <= CLOCK_AHEAD_S:
        return Check(name="clock", verdict="ok", detail=detail)
    return Check(
        name="clock",
        verdict="warning",
        detail=f"{detail}; training does not mind, times in logs do",
        fix="turn time synchronisation on, such as: timedatectl set-ntp true",
    )


def check_disk(folder: Path) -> Check:
    """Say how much room there is for state."""
    try:
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return Check(
            name="disk",
            verdict="error",
            detail=f"{folder}: {error.strerror}",
            fix="choose another folder with --state-dir",
        )
    verdict: Verdict = "ok" if free >= LITTLE_DISK_BYTES else "warning"
    fix = "" if verdict == "ok" else "make room, or keep checkpoints elsewhere"
    return Check(name="disk", verdict=verdict, detail=_free(free, str(folder)), fix=fix)


def check_memory(available: int) -> Check:
    """Say how much memory there is."""
    verdict: Verdict = "ok" if available >= LITTLE_MEMORY_BYTES else "warning"
    fix = "" if verdict == "ok" else "close other programs, or host fewer experts"
    return Check(name="memory", verdict=verdict, detail=_free(available, "RAM"), fix=fix)


def check_operator(operators: Operators, refused: Sequence[str]) -> Check:
    """Say whose directives this daemon takes."""
    keys = [operator.public_key.hex()[:16] for operator in operators.accepted]
    parts = [f"takes directives of {', '.join(keys)}" if keys else "takes directives of nobody"]
    if operators.signer is not None:
        parts.append(f"can sign with {operators.signer.public_key.hex()[:16]}")
    if refused:
        parts.append(f"refuses to {', '.join(refused)}")
    return Check(name="operator", verdict="ok", detail="; ".join(parts))


def _free(num_bytes: int, where: str) -> str:
    return f"{num_bytes / 1e9:.1f} GB free of {where}"
