"""Which experts should serve another stage, and why it pays. Pure functions of a view.

Every expert is in one pipeline at most, so the stage with the fewest experts bounds how many
pipelines there are, and the slowest expert of a pipeline its speed. A plan therefore either fills
a gap, or raises all stages that are short to one more pipeline with experts of stages that have
more than enough. It is carried out until nothing pays any more; planning again after that finds
nothing to do.

    gap: at once, the expert that is missed least            cost: loading the state
    gain: (after - before) x horizon > what the move costs, and at least MIN_GAIN more
"""

from collections.abc import Collection
from dataclasses import dataclass, replace
from statistics import median

from distqatd.base.decision import Decision
from distqatd.base.ids import ExpertUid, PeerId, make_uid
from distqatd.swarm.records import SERVING, ExpertRecord
from distqatd.swarm.routes import MAX_PIPELINES
from distqatd.swarm.view import ExpertInfo, SwarmView, build_stage

MIN_GAIN = 0.2
"""A move must add this share to the swarm's throughput: speeds are estimates."""

HORIZON_S = 600.0
"""A gain is counted for so long: swarms change, and what pays later than this may never do."""

MOVE_S = 20.0
"""Draining, claiming and building take about so long, seconds; loading comes on top."""

LOAD_BYTES_PER_S = 10e6
"""Assumed speed of loading a state: 80 Mbit/s, a slow home connection."""

MAX_MOVES = 256


@dataclass(frozen=True, slots=True)
class Move:
    """One expert is to serve another stage.

    Attributes:
        gain: why it pays, with numbers.
        is_for_gap: the stage has no expert; a reason to hurry, and to stop when another comes.
    """

    uid: ExpertUid
    peer_id: PeerId
    from_stage: str
    to_stage: str
    gain: str
    is_for_gap: bool = False


@dataclass(frozen=True, slots=True)
class Limits:
    """What a plan must respect.

    Attributes:
        in_use: experts that are part of a route; the others are spares, which move first.
        denied_gaps: stages without an expert in this view in which other peers see one.
        max_pipelines: pipelines the run forms at most.
        max_index: replicas of a stage at most.
    """

    in_use: Collection[ExpertUid] = ()
    denied_gaps: Collection[str] = ()
    max_pipelines: int = MAX_PIPELINES
    max_index: int = 128


def throughput(view: SwarmView, max_pipelines: int = MAX_PIPELINES) -> float:
    """Return samples/s that the serving experts can make, the fast ones in pipelines together.

    One that was not measured yet counts like the median of its stage.
    """
    speeds = [sorted(_speeds(view, stage.name), reverse=True) for stage in view.stages]
    pipelines: list[tuple[float, ...]] = [*zip(*speeds, strict=False)]
    return sum(min(pipeline) for pipeline in pipelines[:max_pipelines])


def plan_moves(view: SwarmView, limits: Limits | None = None) -> Decision[tuple[Move, ...]]:
    """Return the moves that pay, in the order in which to make them; the reason names the rest.

    No move is planned while a joiner is on its way, and none but into gaps while an expert drains:
    they change the picture. A stage never loses its last expert.
    """
    limits = limits or Limits()
    if joining := _joining(view):
        return Decision((), f"nothing moves while {joining} is joining")
    moves: list[Move] = []
    while len(moves) < MAX_MOVES:
        decision = _gap_move(view, limits) if view.gaps else _gain_moves(view, limits)
        if not decision.value:
            return Decision(tuple(moves), _summary(moves, decision.reason))
        for move in decision.value:
            moves.append(move)
            view = moved(view, move, limits.max_index)
    return Decision(tuple(moves), _summary(moves, f"{MAX_MOVES} moves are enough for one plan"))


def moved(view: SwarmView, move: Move, max_index: int = 128) -> SwarmView:
    """Return the view as it should be after a move."""
    expert = view.expert(move.uid)
    if expert is None:
        return view
    taken = {other.index for other in view.stage(move.to_stage).experts}
    index = next(i for i in range(max_index + 1) if i not in taken)
    uid = make_uid(move.to_stage, index)
    speed = predicted_speed(view, expert, move.to_stage)
    record = replace(
        _with_memory_of(view, expert, move.to_stage), uid=uid, state=SERVING, samples_per_s=speed
    )
    there = ExpertInfo(expert.peer_id, uid, move.to_stage, index, record)
    experts = [e for stage in view.stages for e in stage.experts if e.uid != move.uid]
    stages = tuple(build_stage(name, [*experts, there]) for name in view.stage_names)
    return replace(view, stages=stages)


def _with_memory_of(view: SwarmView, expert: ExpertInfo, stage: str) -> ExpertRecord:
    """Return the expert's record with the memory it will take and leave in another stage."""
    record, needed = expert.record, view.stage(stage).memory_needed
    if not record.memory_free:
        return replace(record, memory_used=needed)
    free = record.memory_free + record.memory_used - needed
    return replace(record, memory_used=needed, memory_free=max(free, 1))


def predicted_speed(view: SwarmView, expert: ExpertInfo, stage: str) -> float:
    """Return the samples/s to expect of an expert in another stage; 0.0 if nothing is known.

    Its own speed, scaled by how fast the two stages are for those who serve them.
    """
    own = expert.record.samples_per_s
    here, there = _measured(view, expert.stage), _measured(view, stage)
    if own <= 0:
        return 0.0
    return own * median(there) / median(here) if here and there else own


def move_cost_s(view: SwarmView, stage: str) -> float:
    """Return for about how many seconds an expert that moves to `stage` serves nothing."""
    return MOVE_S + view.stage(stage).memory_needed / LOAD_BYTES_PER_S


# --- gaps


def _gap_move(view: SwarmView, limits: Limits) -> Decision[tuple[Move, ...]]:
    """Return the move of the expert that is missed least into the first gap."""
    reason = ""
    for gap in view.gaps:
        if gap in limits.denied_gaps:
            reason = f"{gap} has no expert as we see it, but others do not confirm that"
            continue
        donors = [stage for stage in view.stages if len(stage.serving) > 1]
        donors.sort(key=lambda stage: (-len(stage.serving), view.stage_names.index(stage.name)))
        for donor in donors:
            expert = _cheapest(view, donor.name, gap, limits, ())
            if expert is None:
                continue
            gain = (
                f"{gap} has no expert; {donor.name} keeps {len(donor.serving) - 1} of "
                f"{len(donor.serving)}; {_who(expert, limits)}"
            )
            return Decision((_move(expert, gap, gain, is_for_gap=True),), "")
        reason = f"{gap} has no expert and no other stage can spare one"
        if donors:
            reason += " whose machine has the memory, and whose owner leaves its stage open"
    return Decision((), reason)


# --- one more pipeline


def _gain_moves(view: SwarmView, limits: Limits) -> Decision[tuple[Move, ...]]:
    """Return the moves that together complete one more pipeline, if they pay."""
    now = view.num_complete
    leaving = [e.uid for stage in view.stages for e in stage.members if not e.is_serving]
    if leaving:
        return Decision((), f"nothing moves for gain while {leaving[0]} drains")
    if now >= limits.max_pipelines:
        return Decision((), f"{now} pipelines are as many as there may be")
    short = [stage for stage in view.stages if len(stage.serving) <= now]
    num_extra = sum(max(0, len(stage.serving) - now - 1) for stage in view.stages)
    if num_extra < len(short):
        needed = f"{len(short)} more experts are needed for another pipeline"
        return Decision((), f"{needed}, {num_extra} could be spared")
    # The stage that needs most memory chooses first: fewest fit it.
    short.sort(key=lambda stage: -stage.memory_needed)
    chosen: list[tuple[ExpertInfo, str]] = []
    for stage in short:
        expert = _spared(view, stage.name, now + 1, limits, [e.uid for e, _ in chosen])
        if expert is None:
            return Decision((), f"no expert that could be spared fits {stage.name}")
        chosen.append((expert, stage.name))
    return _if_it_pays(view, limits, chosen)


def _spared(
    view: SwarmView, to: str, keep: int, limits: Limits, chosen: list[ExpertUid]
) -> ExpertInfo | None:
    """Return the expert to take from the stage with most to spare above `keep`."""

    def left(name: str) -> int:
        return sum(expert.uid not in chosen for expert in view.stage(name).serving)

    donors = [name for name in view.stage_names if left(name) > keep]
    for donor in sorted(donors, key=lambda name: (-left(name), view.stage_names.index(name))):
        expert = _cheapest(view, donor, to, limits, chosen)
        if expert is not None:
            return expert
    return None


def _if_it_pays(
    view: SwarmView, limits: Limits, chosen: list[tuple[ExpertInfo, str]]
) -> Decision[tuple[Move, ...]]:
    before = throughput(view, limits.max_pipelines)
    moving = {expert.uid for expert, _ in chosen}
    during_view, after_view = view.where(lambda expert: expert.uid not in moving), view
    for expert, to in chosen:
        after_view = moved(after_view, _move(expert, to, ""), limits.max_index)
    during = throughput(during_view, limits.max_pipelines)
    after = throughput(after_view, limits.max_pipelines)
    cost_s = max(move_cost_s(view, to) for _, to in chosen)
    gained = (after - before) * (HORIZON_S - cost_s)
    lost = (before - during) * cost_s
    text = (
        f"{before:.0f} to {after:.0f} samples/s, {view.num_complete} to "
        f"{after_view.num_complete} pipelines; {gained:.0f} samples more in "
        f"{HORIZON_S:.0f} s against {lost:.0f} lost in {cost_s:.0f} s of moving"
    )
    if before == 0 and after == 0:
        return Decision((), "no expert was measured yet")
    if after < before * (1 + MIN_GAIN):
        return Decision((), f"too little to gain: {text}")
    if gained <= lost:
        return Decision((), f"moving costs more than it gains: {text}")
    return Decision(tuple(_move(e, to, f"{text}; {_who(e, limits)}") for e, to in chosen), "")


# --- who


def _cheapest(
    view: SwarmView, donor: str, to: str, limits: Limits, chosen: Collection[ExpertUid]
) -> ExpertInfo | None:
    """Return the expert of a stage that is missed least: a spare, then the slowest."""
    needed = view.stage(to).memory_needed
    fitting = [
        expert
        for expert in view.stage(donor).serving
        if expert.uid not in chosen and not expert.record.is_pinned and _fits(expert, needed)
        # Of a gap nobody says what it needs; the machines know it, from the configuration.
        if to not in view.unfit(expert)
    ]
    return min(
        fitting,
        key=lambda e: (e.uid in limits.in_use, e.record.samples_per_s, -e.index),
        default=None,
    )


def _fits(expert: ExpertInfo, needed: int) -> bool:
    """Return whether an expert's device holds another stage once it has let go of its own."""
    record = expert.record
    return record.memory_free == 0 or needed <= record.memory_free + record.memory_used


def _who(expert: ExpertInfo, limits: Limits) -> str:
    role = "part of a pipeline" if expert.uid in limits.in_use else "a spare"
    speed = expert.record.samples_per_s
    return f"{expert.uid} is {role} ({speed:.0f} samples/s)" if speed else f"{expert.uid} is {role}"


def _move(expert: ExpertInfo, to: str, gain: str, *, is_for_gap: bool = False) -> Move:
    return Move(expert.uid, expert.peer_id, expert.stage, to, gain, is_for_gap)


def _joining(view: SwarmView) -> str:
    """Return one who has no slot yet, or claimed one and does not serve; "" if there is none."""
    names = sorted(expert.uid or expert.peer_id for expert in view.joiners)
    return next((name for name in names if view.expert(ExpertUid(name)) is None), "")


def _summary(moves: list[Move], rest: str) -> str:
    if not moves:
        return rest
    steps = "; ".join(f"{m.uid} to {m.to_stage}: {m.gain}" for m in moves)
    return f"{steps}; then {rest}"


def _speeds(view: SwarmView, stage: str) -> list[float]:
    known = _measured(view, stage)
    middle = median(known) if known else 0.0
    return [e.record.samples_per_s or middle for e in view.stage(stage).serving]


def _measured(view: SwarmView, stage: str) -> list[float]:
    return [e.record.samples_per_s for e in view.stage(stage).serving if e.record.samples_per_s > 0]
