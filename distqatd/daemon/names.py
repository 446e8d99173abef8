"""From what people type to whom they mean: a nickname, a peer id or its beginning, an expert."""

from collections.abc import Collection
from dataclasses import dataclass

from distqatd.base.errors import NotFound
from distqatd.base.ids import PeerId, nickname
from distqatd.swarm.view import SwarmView

MIN_PREFIX = 6
"""Letters of a peer id that name it, at least."""


@dataclass(frozen=True, slots=True)
class Named:
    """A peer, and which of its experts is meant; empty: all of them."""

    peer_id: PeerId
    scope: tuple[str, ...] = ()


def find(text: str, view: SwarmView, me: PeerId, others: Collection[PeerId]) -> Named:
    """Return whom `text` names; empty text is this daemon.

    Nicknames are for people: two peers can have the same, and then it names nobody.

    Args:
        text: as typed.
        view: the swarm, for the uids of experts.
        me: this daemon.
        others: peers it knows.

    Raises:
        NotFound: nobody, or several.
    """
    if not text:
        return Named(me)
    owners = {e.peer_id for stage in view.stages for e in stage.experts if e.uid == text}
    if owners:
        return Named(_only(text, owners), (text,))
    known = {me, *others, *view.peers}
    found = {peer for peer in known if text in (peer, nickname(peer))}
    if not found and len(text) >= MIN_PREFIX:
        found = {peer for peer in known if peer.startswith(text)}
    if not found:
        raise NotFound(f"no peer or expert {text!r} is known here; see: distqatctl peers")
    return Named(_only(text, found))


def _only(text: str, found: set[PeerId]) -> PeerId:
    if len(found) > 1:
        raise NotFound(f"{text!r} fits several peers: {', '.join(sorted(found))}; use one of these")
    return next(iter(found))
