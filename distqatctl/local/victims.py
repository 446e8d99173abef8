"""Whom a drill kills, and when the swarm is over it: pure functions of what was seen."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from distqatctl.local.timeline import Said
from distqatd.base.decision import Decision

Role = Literal["expert", "trainer", "client", "monitor"]

DUTY_KINDS = ("duty.taken", "pipeline.staffed")
"""What only the client that has the duty says."""


@dataclass(frozen=True, slots=True)
class Member:
    """A living daemon: its name here, its peer id, the uids of its serving experts."""

    daemon: str
    role: str
    peer_id: str
    uids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Driven:
    """A pipeline: who drives it over which experts."""

    trainer: str
    route: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Victim:
    """Who is killed: `pipelines` break by it; with `has_spare` somebody stands by for it."""

    role: Role
    daemon: str
    peer_id: str
    uid: str
    pipelines: tuple[int, ...]
    has_spare: bool


def driven_pipelines(said: Iterable[Said]) -> dict[int, Driven]:
    """Return the pipelines as their trainers last opened them, oldest event first."""
    found: dict[int, Driven] = {}
    for one in said:
        if one.event.kind == "pipeline.opened" and one.pipeline is not None:
            route = tuple(str(one.event.fields.get("route", "")).split())
            found[one.pipeline] = Driven(one.daemon, route)
    return found


def choose(
    role: Role,
    members: Sequence[Member],
    said: Sequence[Said],
    pipeline: int | None = None,
    hop: int = -1,
) -> Decision[Victim | None]:
    """Choose a victim that matters: one that a pipeline, or the whole run, cannot do without.

    Args:
        role: what it does.
        members: the living daemons.
        said: events so far, oldest first.
        pipeline: break this one; the lowest if None.
        hop: at this place of its route, if an expert is to go.
    """
    pipelines = driven_pipelines(said)
    number = min(pipelines, default=None) if pipeline is None else pipeline
    if number not in pipelines:
        return Decision(None, "no pipeline was opened yet")
    if role == "expert":
        return _expert(members, pipelines, pipelines[number].route[hop])
    if role == "trainer":
        return _one(role, members, pipelines, pipelines[number].trainer)
    if role == "client":
        holders = [one.daemon for one in said if one.event.kind in DUTY_KINDS]
        return _one(role, members, {}, holders[-1] if holders else "")
    return _one(role, members, {}, next((m.daemon for m in members if m.role == role), ""))


def _expert(
    members: Sequence[Member], pipelines: Mapping[int, Driven], uid: str
) -> Decision[Victim | None]:
    """Return the expert's daemon; a spare is an expert of its stage that no pipeline has."""
    host = next((member for member in members if uid in member.uids), None)
    if host is None:
        return Decision(None, f"nobody serves {uid}")
    used = {used for driven in pipelines.values() for used in driven.route}
    free = {u for m in members for u in m.uids if m is not host} - used
    spares = sorted(u for u in free if stage_of(u) == stage_of(uid))
    broken = tuple(n for n, driven in pipelines.items() if uid in driven.route)
    reason = f"spares of {stage_of(uid)}: {', '.join(spares) or 'none'}"
    victim = Victim("expert", host.daemon, host.peer_id, uid, broken, bool(spares))
    return Decision(victim, reason)


def _one(
    role: Role, members: Sequence[Member], pipelines: Mapping[int, Driven], daemon: str
) -> Decision[Victim | None]:
    member = next((member for member in members if member.daemon == daemon), None)
    if member is None:
        return Decision(None, f"no {role} is at work")
    broken = tuple(n for n, driven in pipelines.items() if driven.trainer == daemon)
    others = any(other.role == role and other is not member for other in members)
    victim = Victim(role, daemon, member.peer_id, "", broken, others)
    return Decision(victim, f"{role} {daemon} is at work")


def recovered_at(
    victim: Victim, said: Sequence[Said], killed_unix_s: float
) -> Decision[float | None]:
    """Return when the swarm had got over the loss, in Unix seconds; None while it has not.

    A broken pipeline is over it at its first committed step on a new session; the client's duty
    when another client has it; a monitor when the new one has joined.
    """
    after = [one for one in said if one.at_unix_s >= killed_unix_s and one.daemon != victim.daemon]
    if victim.role == "client":
        return _first(after, "duty.taken", "took over the client's duty")
    if victim.role == "monitor":
        joined = [one for one in after if one.daemon.startswith("monitor")]
        return _first(joined, "swarm.joined", "is the new monitor")
    ends: list[Said] = []
    for number in victim.pipelines:
        running = [s for s in after if s.event.kind == "pipeline.running" and s.pipeline == number]
        if not running:
            return Decision(None, f"pipeline {number} has not committed a step since")
        ends.append(running[0])
    if not ends:
        return Decision(killed_unix_s, f"no pipeline needed {victim.uid or victim.daemon}")
    last = max(ends, key=lambda one: one.at_unix_s)
    return Decision(last.at_unix_s, _how(victim, said, last))


def _first(said: Sequence[Said], kind: str, does: str) -> Decision[float | None]:
    found = next((one for one in said if one.event.kind == kind), None)
    if found is None:
        return Decision(None, f"nobody {does}")
    return Decision(found.at_unix_s, f"{found.daemon} {does}")


def _how(victim: Victim, said: Sequence[Said], end: Said) -> str:
    """Return what brought the pipeline back."""
    opened = [s for s in said if s.event.kind == "pipeline.opened" and s.pipeline == end.pipeline]
    route = str(opened[-1].event.fields.get("route", "")) if opened else ""
    if victim.role == "trainer":
        return f"{end.daemon} took pipeline {end.pipeline} over"
    return f"pipeline {end.pipeline} goes on over {route}"


def stage_of(uid: str) -> str:
    """Return the name of the stage that an expert serves."""
    return uid.split(".")[0]
