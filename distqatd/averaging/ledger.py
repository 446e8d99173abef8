"""The ledger of ballots: what the experts here have promised and accepted, on disk.

One document for all experts of a daemon, a few kilobytes, rewritten whole. Every change is on disk
before it is answered; an answer that changes nothing costs no write.
"""

import asyncio
import json
from collections.abc import Mapping
from typing import Any

from distqatd.averaging.ballots import (
    Answer,
    Ballot,
    Event,
    Learn,
    Prepare,
    Promised,
    StepKey,
    Voter,
    VoterId,
    react,
)
from distqatd.averaging.speech import read_ballot, read_value, write_ballot, write_value
from distqatd.base.disk import Disk
from distqatd.base.errors import CheckpointError, DistqatError, RoundAborted
from distqatd.base.ids import ExpertUid
from distqatd.wire.fields import need

MAX_STEPS = 6
"""Steps that are kept of one expert: those used last. Whoever used six others has left the first
one behind long ago, and says so to a leader that still asks for it."""

MAX_ENTRIES = 48
"""Entries in all; experts that are not here any more fall out first."""

MAX_TRIES = 8
"""Ballots that are tried before a leader gives up: each one was promised to somebody meanwhile."""

Entry = tuple[ExpertUid, StepKey]


class Ledger:
    """The voters of this daemon."""

    def __init__(self, disk: Disk) -> None:
        """Keep them on `disk`; it is read when first needed."""
        self._disk = disk
        self._voters: dict[Entry, Voter] | None = None
        self._lock = asyncio.Lock()

    async def react(self, uid: ExpertUid, key: StepKey, event: Event) -> Answer:
        """Have a voter react to an event; its state is on disk when this returns.

        Raises:
            CheckpointError: the disk cannot be read or written; nothing was promised.
        """
        async with self._lock:
            voters = await self._load()
            state = voters.get((uid, key), Voter())
            reaction = react(state, event)
            if reaction.state != state:
                changed = _noted(voters, (uid, key), reaction.state)
                # What was chosen is safe with those who accepted it: to know so is only faster.
                if not isinstance(event, Learn):
                    await self._disk.write(_pack(changed))
                self._voters = changed
            return reaction.answer

    async def look(self, uid: ExpertUid, key: StepKey) -> Voter:
        """Return what a voter has promised and accepted for a step.

        Raises:
            CheckpointError: the disk cannot be read.
        """
        async with self._lock:
            return (await self._load()).get((uid, key), Voter())

    async def reserve(self, uid: ExpertUid, key: StepKey, leader: VoterId, above: int) -> Ballot:
        """Return a ballot that this leader never used, above what it has promised.

        It is on disk as promised, so that a leader that restarts takes another one.

        Raises:
            CheckpointError: the disk cannot be read or written.
            RoundAborted: others promise higher ones all the time.
        """
        for _ in range(MAX_TRIES):
            promised = (await self.look(uid, key)).promised
            number = max(above, promised.number if promised is not None else 0) + 1
            ballot = Ballot(number, leader)
            if isinstance(await self.react(uid, key, Prepare(ballot)), Promised):
                return ballot
        raise RoundAborted(f"{uid} finds no free ballot for outer step {key.outer_step + 1}")

    async def _load(self) -> dict[Entry, Voter]:
        if self._voters is None:
            self._voters = _unpack(await self._disk.read())
        return self._voters


def _noted(voters: Mapping[Entry, Voter], entry: Entry, state: Voter) -> dict[Entry, Voter]:
    """Return the entries with one changed, in order of use, within the bounds."""
    kept = {other: voter for other, voter in voters.items() if other != entry}
    kept[entry] = state
    own = [other for other in kept if other[0] == entry[0]]
    for old in own[:-MAX_STEPS]:
        del kept[old]
    return dict(list(kept.items())[-MAX_ENTRIES:])


def _pack(voters: Mapping[Entry, Voter]) -> bytes:
    rows = [
        {
            "uid": uid,
            "key": [key.stage, key.outer_step, key.anchor_digest],
            "promised": write_ballot(voter.promised),
            "accepted": write_ballot(voter.accepted_in),
            "value": write_value(voter.value),
            "decided": voter.is_decided,
        }
        for (uid, key), voter in voters.items()
    ]
    return json.dumps({"version": 1, "voters": rows}).encode()


def _unpack(data: bytes | None) -> dict[Entry, Voter]:
    if data is None:
        return {}
    try:
        document = json.loads(data)
        if need(document, "version", int) != 1:
            raise CheckpointError(f"version {document['version']}")
        return dict(_read_row(row) for row in need(document, "voters", list))
    except (ValueError, AttributeError, TypeError, DistqatError) as error:
        # To forget a promise is what must never happen: say so instead of starting afresh.
        raise CheckpointError(
            f"the ledger of ballots cannot be read: {error}; fix: stop this daemon for a minute,"
            " delete ballots.json in its state directory, and start it with a new identity.key"
        ) from error


def _read_row(row: Any) -> tuple[Entry, Voter]:
    stage, outer_step, anchor = need(row, "key", list)
    key = StepKey(str(stage), int(outer_step), str(anchor))
    voter = Voter(
        read_ballot(row, "promised"),
        read_ballot(row, "accepted"),
        read_value(row, "value"),
        is_decided=need(row, "decided", bool),
    )
    return (ExpertUid(need(row, "uid", str)), key), voter
