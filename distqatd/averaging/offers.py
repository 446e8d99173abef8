"""What donors have: their manifests, and which state a joiner takes."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from distqatd.averaging.manifest import COMMITTED, Manifest
from distqatd.averaging.serving import MANIFEST
from distqatd.base.errors import CheckpointError, DistqatError
from distqatd.base.events import EventLog
from distqatd.base.ids import PeerId
from distqatd.net.rpc import Rpc
from distqatd.wire.payload import Message

MAX_DONORS = 8
"""Donors used at most; with two chunks of 4 MiB each this bounds what is in flight to 64 MiB."""

MANIFEST_TIMEOUT_S = 60.0
"""A donor that is asked for a new state hashes it first: 1 GB takes one to three seconds."""

STRAGGLER_S = 5.0
"""After the first offer the other donors have this long: one may be dead and not known to be."""

MAX_STATE_BYTES = 1 << 36

Donor = tuple[str, PeerId]
"""The name under which a state is served, an expert's uid for instance, and by which peer."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a joiner is ready to take.

    Attributes:
        parts: COMMITTED or ALL.
        max_bytes: a larger state is refused before memory is taken.
        layout_digest: the state must have this layout; "" is any.
    """

    parts: str = COMMITTED
    max_bytes: int = MAX_STATE_BYTES
    layout_digest: str = ""


@dataclass(frozen=True, slots=True)
class Offer:
    """A state, and who holds it."""

    manifest: Manifest
    holders: tuple[Donor, ...]


async def ask_donors(
    rpc: Rpc, donors: Sequence[Donor], events: EventLog, wanted: Wanted
) -> tuple[Offer, ...]:
    """Ask donors for their newest states, all at once; donors with the same state are one offer.

    What is offered is held by its donors for two minutes, also if they take outer steps meanwhile.

    Raises:
        CheckpointError: no donor has one; says why for each.
    """
    offers: dict[str, Offer] = {}
    refusals: list[str] = []

    async def ask(donor: Donor) -> None:
        uid, peer_id = donor
        message = Message({"to": uid, "parts": wanted.parts})
        try:
            answer = await rpc.call(peer_id, MANIFEST, message, timeout_s=MANIFEST_TIMEOUT_S)
            manifest = Manifest.from_message(answer, wanted.max_bytes)
            _check_layout(manifest, wanted)
        except DistqatError as error:
            events.emit("state.donor_dropped", degraded=True, donor=uid, reason=str(error))
            refusals.append(f"{uid}: {error}")
        else:
            digest = manifest.state_digest
            known = offers[digest].holders if digest in offers else ()
            offers[digest] = Offer(manifest, (*known, donor))
            if patience.when() is None:
                patience.reschedule(asyncio.get_running_loop().time() + STRAGGLER_S)

    try:
        async with asyncio.timeout(None) as patience, asyncio.TaskGroup() as tasks:
            for donor in donors[:MAX_DONORS]:
                tasks.create_task(ask(donor), name=f"state.manifest.{donor[0]}")
    except TimeoutError:
        pass
    if not offers:
        raise CheckpointError(f"no donor has state for us: {'; '.join(refusals) or 'none asked'}")
    return tuple(offers.values())


def best_offer(offers: Sequence[Offer]) -> Offer:
    """Return the newest state; of several the one that most hold, then the one trained longest."""

    def rank(offer: Offer) -> tuple[int, int, int, str]:
        manifest = offer.manifest
        inner_step = manifest.meta.get("inner_step")
        trained = inner_step if isinstance(inner_step, int) else 0
        return manifest.outer_step, len(offer.holders), trained, manifest.state_digest

    return max(offers, key=rank)


def _check_layout(manifest: Manifest, wanted: Wanted) -> None:
    if wanted.layout_digest not in ("", manifest.layout_digest):
        found, own = manifest.layout_digest[:12], wanted.layout_digest[:12]
        raise CheckpointError(f"its state has layout {found}, ours is {own}; model options differ")
