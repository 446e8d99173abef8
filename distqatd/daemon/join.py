"""Finding a first peer, and taking the run's configuration and operator from it."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from distqatd.base.errors import ConfigError, DistqatError, JoinFailed, Refused
from distqatd.base.ids import PeerId
from distqatd.config.run import load_run, run_differences
from distqatd.config.sections import RUN_WIDE, Config
from distqatd.identity.operator import check_public_key
from distqatd.net.address import Address
from distqatd.net.pool import Pool
from distqatd.net.rpc import Rpc
from distqatd.wire.fields import need
from distqatd.wire.payload import Message

RUN_CONFIG = "run.config"
DIAL_S = 5.0
FETCH_S = 10.0
RETRY_S = 1.0


@dataclass(frozen=True, slots=True)
class RunOffer:
    """What a member tells a newcomer.

    Attributes:
        config: the run's configuration as `dump_run` wrote it.
        operator: the public key of the swarm's operator; None if the member does not know it.
    """

    config: bytes
    operator: bytes | None

    def body(self) -> dict[str, bytes]:
        """Return the offer as it travels."""
        return {"config": self.config, "operator": self.operator or b""}

    @classmethod
    def read(cls, body: Mapping[str, Any]) -> "RunOffer":
        """Read an offer.

        Raises:
            RemoteProtocolError: fields are missing or of another type.
            IdentityError: the operator's key is none.
        """
        operator = need(body, "operator", bytes)
        config = need(body, "config", bytes)
        return cls(config, check_public_key(operator) if operator else None)


@dataclass(frozen=True, slots=True)
class Joined:
    """The initial peers that answered, and the addresses they answered at."""

    peers: tuple[PeerId, ...]
    addresses: tuple[Address, ...]


async def join(pool: Pool, initial: Sequence[Address], timeout_s: float) -> Joined:
    """Dial the initial peers, again and again until one answers.

    Raises:
        Refused: every peer that answered belongs to another swarm, run or version.
        JoinFailed: none answered within `timeout_s`; names what happened at each address.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    while True:
        found, failures = await _dial_all(pool, initial)
        if found:
            return Joined(tuple(found.values()), tuple(found))
        if failures and all(isinstance(error, Refused) for error in failures.values()):
            raise Refused("; ".join(str(error) for error in failures.values()))
        if loop.time() + RETRY_S > deadline:
            raise JoinFailed(_explain(failures, timeout_s))
        await asyncio.sleep(RETRY_S)


async def _dial_all(
    pool: Pool, initial: Sequence[Address]
) -> tuple[dict[Address, PeerId], dict[Address, DistqatError]]:
    found: dict[Address, PeerId] = {}
    failures: dict[Address, DistqatError] = {}

    async def one(address: Address) -> None:
        try:
            hello = await pool.dial(address, timeout_s=DIAL_S)
        except DistqatError as error:
            failures[address] = error
        else:
            found[address] = hello.peer_id

    async with asyncio.TaskGroup() as tasks:
        for address in initial:
            tasks.create_task(one(address))
    return found, failures


def _explain(failures: Mapping[Address, DistqatError], timeout_s: float) -> str:
    peers = "peer" if len(failures) == 1 else f"{len(failures)} peers"
    lines = [f"  {address.host_port()}   {error}" for address, error in failures.items()]
    return "\n".join(
        [
            f"none of the {peers} let us in within {timeout_s:.0f} s",
            *lines,
            "fix: ask for a fresh join line (distqatctl invite), or start a swarm: "
            "distqatd --role monitor --role client",
        ]
    )


async def fetch_run(pool: Rpc, peers: Sequence[PeerId], *, timeout_s: float = 0.0) -> RunOffer:
    """Return the run's configuration and operator from the first peer that gives them.

    A peer that does not give them yet, for it reads a checkpoint first, or that was lost in this
    moment, is asked again until `timeout_s` seconds are over.

    Raises:
        DistqatError: none of them did; the last one's error.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    while True:
        try:
            return await _ask_each(pool, peers)
        except DistqatError as error:
            if not error.retryable or loop.time() + RETRY_S > deadline:
                raise
        await asyncio.sleep(RETRY_S)


async def _ask_each(pool: Rpc, peers: Sequence[PeerId]) -> RunOffer:
    failure: DistqatError = JoinFailed("no initial peer to ask for the run's configuration")
    for peer in peers:
        try:
            reply = await pool.call(peer, RUN_CONFIG, Message({}), timeout_s=FETCH_S)
            return RunOffer.read(reply.body)
        except DistqatError as error:
            failure = error
    raise failure


def adopt_run(config: Config, origins: Mapping[str, str], data: bytes) -> Config:
    """Return our configuration with the run-wide part of the swarm.

    Raises:
        ConfigError: we were given another value for something that all peers must share.
    """
    adopted = load_run(config, data)
    given = {path for path in origins if path.split(".")[0] in RUN_WIDE}
    wrong = [
        line
        for line in run_differences(config, adopted)
        if any(line.split(":")[0].startswith(path) for path in given)
    ]
    if wrong:
        raise ConfigError(
            "this swarm's run has other values than were given here:\n  "
            + "\n  ".join(wrong)
            + "\nfix: leave them out when joining (the run's configuration comes from the swarm), "
            "or start a swarm of your own"
        )
    return adopted
