"""Which experts form pipelines. A pipeline keeps its experts as long as they serve.

Every expert belongs to at most one pipeline; the experts left over are spares that fill a
pipeline when one of its own is lost.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from distqatd.base.decision import Decision
from distqatd.base.errors import RemoteProtocolError
from distqatd.base.ids import ExpertUid, PeerId
from distqatd.swarm.view import ExpertInfo, SwarmView


@dataclass(frozen=True, slots=True)
class Hop:
    """One expert of a route: which expert, on which peer, in which life of that peer.

    The addresses travel along, so that its neighbours in the route need not look them up.
    """

    uid: ExpertUid
    peer_id: PeerId
    boot_epoch: int
    addresses: tuple[str, ...] = field(default=(), compare=False)


Route = tuple[Hop, ...]
"""One expert per stage, in pipeline order."""

MAX_STAGES = 64
MAX_PIPELINES = 64
MAX_ADDRESSES = 8


def route_body(route: Route) -> list[list[Any]]:
    """Return a route as it travels in messages."""
    return [[hop.uid, hop.peer_id, hop.boot_epoch, list(hop.addresses)] for hop in route]


def read_route(value: list[Any]) -> Route:
    """Check and return a route from a message.

    Raises:
        RemoteProtocolError: too long, or a hop is not `[uid, peer id, boot epoch, addresses]`.
    """
    if len(value) > MAX_STAGES:
        raise RemoteProtocolError(f"a route of {len(value)} hops, at most {MAX_STAGES}")
    return tuple(_read_hop(hop) for hop in value)


def _read_hop(value: Any) -> Hop:
    kinds = [type(part) for part in value] if isinstance(value, list) else []
    if kinds != [str, str, int, list] or not all(type(text) is str for text in value[3]):
        shown = str(value)[:60]
        raise RemoteProtocolError(f"a hop is {shown!r}, expected [uid, peer, epoch, addresses]")
    return Hop(ExpertUid(value[0]), PeerId(value[1]), value[2], tuple(value[3][:MAX_ADDRESSES]))


def plan_routes(
    view: SwarmView, current: Mapping[int, Route], max_pipelines: int = MAX_PIPELINES
) -> Decision[dict[int, Route]]:
    """Return the routes by pipeline number: current ones mended where they can be, then new ones.

    A pipeline that cannot be completed is missing from the answer; the reason names its gap.
    Experts beyond `max_pipelines` stay spares; of several the fastest fills a hole.

    An expert that drains is left out: a spare takes its place, or its pipeline ends and the other
    experts of it become spares. Only if it is the last of its stage it stays until it is gone.
    """
    free = [{expert.uid: expert for expert in stage.serving} for stage in view.stages]
    kept: dict[int, list[Hop | None]] = {}
    for number, route in sorted(current.items()):
        kept[number] = [_take(pool, hop) for pool, hop in zip(free, route, strict=True)]
    for number, hops in kept.items():
        _keep_last(view, current[number], hops)
    # Pipelines that lost the least are mended first: each spare completes as much as it can.
    order = sorted(kept, key=lambda number: (kept[number].count(None), number))
    routes: dict[int, Route] = {}
    gaps: list[str] = []
    for number in order:
        mended, missing = _mend(view, free, kept[number])
        if missing is None:
            routes[number] = mended
        else:
            gaps.append(f"pipeline {number} waits for {missing}")
    while view.stages and all(free) and len(routes) < max_pipelines:
        number = next(i for i in range(len(routes) + len(kept) + 1) if i not in routes)
        routes[number], _ = _mend(view, free, [None] * len(view.stages))
    return Decision(routes, "; ".join([*gaps, *_leaving(view)]) or f"{len(routes)} complete")


def remember(current: Mapping[int, Route], planned: Mapping[int, Route]) -> dict[int, Route]:
    """Return the routes to plan from next time: the planned ones, and what broken ones were.

    A broken pipeline takes its experts up again when it can be completed, but not those that work
    in another pipeline by now: such a route is forgotten.
    """
    used = {hop.uid for route in planned.values() for hop in route}
    broken = {
        number: route
        for number, route in current.items()
        if number not in planned and not any(hop.uid in used for hop in route)
    }
    return {**broken, **planned}


def ending(
    view: SwarmView, current: Mapping[int, Route], planned: Mapping[int, Route]
) -> dict[int, str]:
    """Return the pipelines that are to end in order, and why: an expert of theirs drains."""
    why: dict[int, str] = {}
    for number, route in current.items():
        experts = [(hop, view.expert(hop.uid)) for hop in route if number not in planned]
        leaving = [e.uid for hop, e in experts if e and not e.is_serving and hop_of(e) == hop]
        if leaving:
            why[number] = f"{', '.join(leaving)} drains and there is no spare"
    return why


def _take(pool: dict[ExpertUid, ExpertInfo], hop: Hop) -> Hop | None:
    """Take the hop's expert out of the pool if it is still the same life of the same peer."""
    expert = pool.get(hop.uid)
    if expert is None or hop_of(expert) != hop:
        return None
    del pool[hop.uid]
    return hop


def _keep_last(view: SwarmView, route: Route, hops: list[Hop | None]) -> None:
    """Put experts back that drain although nobody else serves their stage."""
    for position, (stage, hop) in enumerate(zip(view.stages, route, strict=True)):
        if hops[position] is None and not stage.serving:
            same = (expert for expert in stage.members if hop_of(expert) == hop)
            hops[position] = next((hop_of(expert) for expert in same), None)


def _leaving(view: SwarmView) -> list[str]:
    return [f"{e.uid} drains" for stage in view.stages for e in stage.members if not e.is_serving]


def _mend(
    view: SwarmView, free: list[dict[ExpertUid, ExpertInfo]], hops: list[Hop | None]
) -> tuple[Route, str | None]:
    """Fill the holes from the pools; on failure give the spares and the kept hops back."""
    for stage, hop, pool in zip(view.stages, hops, free, strict=True):
        if hop is None and not pool:
            _give_back(view, free, hops)
            return (), stage.name
    mended = [
        hop if hop is not None else hop_of(_best_of(pool))
        for hop, pool in zip(hops, free, strict=True)
    ]
    return tuple(mended), None


def _best_of(pool: dict[ExpertUid, ExpertInfo]) -> ExpertInfo:
    """Take the fastest expert out of the pool: the slowest of a pipeline sets its pace."""
    uid = min(pool, key=lambda uid: (-pool[uid].record.samples_per_s, pool[uid].index))
    return pool.pop(uid)


def _give_back(
    view: SwarmView, free: list[dict[ExpertUid, ExpertInfo]], hops: list[Hop | None]
) -> None:
    for hop, pool in zip(hops, free, strict=True):
        expert = view.expert(hop.uid) if hop is not None else None
        if expert is not None and expert.is_serving:
            pool[expert.uid] = expert


def hop_of(expert: ExpertInfo) -> Hop:
    """Return an expert as a hop of a route."""
    record = expert.record
    return Hop(expert.uid, expert.peer_id, record.boot_epoch, record.addresses)
