"""Which stage a joining expert hosts: gaps first, then the stage that needs it most.

All joiners are placed together, in the order of their peer ids, so that every peer with the same
view computes the same assignment and two joiners do not fill one gap. Views can differ for a
moment: `keeps_claim` settles two claims of one slot in favour of the lower peer id.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from distqatd.base.decision import Decision
from distqatd.base.errors import SwarmError
from distqatd.base.ids import ExpertUid, PeerId, make_uid
from distqatd.swarm.view import ExpertInfo, StageView, SwarmView

NO_NEEDS: Mapping[str, int] = MappingProxyType({})
"""Nothing is known of what stages need."""


@dataclass(frozen=True, slots=True)
class Slot:
    """A place in the swarm: replica `index` of `stage`."""

    stage: str
    index: int

    @property
    def uid(self) -> ExpertUid:
        """Return the uid of the expert in this slot."""
        return make_uid(self.stage, self.index)


@dataclass(frozen=True, slots=True)
class Joiner:
    """Who looks for a slot.

    Attributes:
        peer_id: its peer.
        boot_epoch: of the peer's present life: what it announced in an earlier one is void.
        memory_free: bytes that its device has left; 0 if unknown, which fits everything.
        wanted_stage: the stage its owner or an order names.
        unfit: stages that it has tried to host, in vain: they do not fit into its memory.
    """

    peer_id: PeerId
    boot_epoch: int
    memory_free: int = 0
    wanted_stage: str | None = None
    unfit: frozenset[str] = frozenset()


def place(
    view: SwarmView, me: Joiner, *, max_index: int, needs: Mapping[str, int] = NO_NEEDS
) -> Decision[Slot]:
    """Choose the slot for `me`, given everybody who serves, claimed or is joining.

    What an expert of a stage needs is what `needs` says, or those that serve it if they take more.

    Args:
        view: the swarm, ourselves among the joiners or not.
        me: who looks for a slot.
        max_index: replicas of a stage at most.
        needs: bytes that an expert of each stage takes at least, by name; the same for all.

    Raises:
        SwarmError: the wanted stage does not exist, or does not fit into the joiner's memory;
            every replica index is taken; or no stage fits.
    """
    wanted = me.wanted_stage
    if wanted is not None and wanted not in view.stage_names:
        raise SwarmError(
            f"there is no stage {wanted!r} in this run; it has {', '.join(view.stage_names)}"
        )
    taken = {
        (stage.name, expert.index)
        for stage in view.stages
        for expert in stage.experts
        if not is_former_life(expert, me)
    }
    leaving = {(s.name, e.index) for s in view.stages for e in s.members if not e.is_serving}
    for joiner in _in_order(view, me):
        try:
            decision = _neediest(view, taken, leaving, max_index, joiner, needs)
        except SwarmError:
            if joiner.peer_id == me.peer_id:
                raise
            continue  # it finds no slot, so it takes none from us
        if joiner.peer_id == me.peer_id:
            return decision
        taken.add((decision.value.stage, decision.value.index))
    raise SwarmError("no slot was found")


def is_former_life(expert: ExpertInfo, me: Joiner) -> bool:
    """Return whether a record is ours from before a restart: what it says is void."""
    return expert.peer_id == me.peer_id and expert.record.boot_epoch != me.boot_epoch


def _in_order(view: SwarmView, me: Joiner) -> list[Joiner]:
    """Return everybody without a slot by peer id, each once."""
    waiting = {
        e.peer_id: Joiner(e.peer_id, e.record.boot_epoch, e.record.memory_free, unfit=view.unfit(e))
        for e in view.joiners
        if not e.uid
    }
    return [joiner for _, joiner in sorted({**waiting, me.peer_id: me}.items())]


def _neediest(
    view: SwarmView,
    taken: set[tuple[str, int]],
    leaving: set[tuple[str, int]],
    max_index: int,
    joiner: Joiner,
    needs: Mapping[str, int],
) -> Decision[Slot]:
    if joiner.wanted_stage in joiner.unfit:
        raise SwarmError(
            f"{joiner.wanted_stage} was tried, and does not fit into this machine's memory; choose "
            "a smaller stage (--stage), or none"
        )
    if joiner.wanted_stage is not None:
        _check_fits(joiner, joiner.wanted_stage, needs.get(joiner.wanted_stage, 0))
        reason = f"{joiner.wanted_stage} was asked for"
        return Decision(_free_slot(joiner.wanted_stage, taken, max_index), reason)
    needed = {s.name: max(s.memory_needed, needs.get(s.name, 0)) for s in view.stages}
    fitting = [stage for stage in view.stages if _fits(joiner, stage.name, needed[stage.name])]
    too_big = [name for name in view.stage_names if name not in {s.name for s in fitting}]
    if not fitting:
        tried = f"; {', '.join(sorted(joiner.unfit))} did not when tried" if joiner.unfit else ""
        raise SwarmError(
            f"no stage fits into this machine's memory: {_mib(joiner.memory_free)} are free, the "
            f"smallest stage needs {_mib(min(needed.values()))}{tried}; free some memory"
        )
    counts = {s.name: sum(name == s.name for name, _ in taken - leaving) for s in fitting}
    order = {stage.name: i for i, stage in enumerate(view.stages)}
    best = min(fitting, key=lambda s: (counts[s.name], capacity(s), order[s.name]))
    if counts[best.name] == 0:
        reason = f"{best.name} has no expert"
    else:
        speed = f"{capacity(best):.0f} samples/s"
        reason = f"{best.name} has the fewest replicas ({counts[best.name]}; {speed})"
    if too_big:
        reason += f"; {', '.join(too_big)} would not fit into {_mib(joiner.memory_free)}"
    return Decision(_free_slot(best.name, taken, max_index), reason)


def _check_fits(joiner: Joiner, stage: str, needed: int) -> None:
    """Refuse a stage that was asked for and cannot fit.

    Not by what others take for it, who may have more in flight, but by its parameters alone.
    """
    if joiner.memory_free and needed > joiner.memory_free:
        raise SwarmError(
            f"{stage} was asked for, and does not fit into this machine's memory: it needs "
            f"{_mib(needed)} at least, {_mib(joiner.memory_free)} are free; free some, choose a "
            "smaller stage (--stage), or none"
        )


def _fits(joiner: Joiner, stage: str, needed: int) -> bool:
    has_room = joiner.memory_free == 0 or needed <= joiner.memory_free
    return has_room and stage not in joiner.unfit


def capacity(stage: StageView) -> float:
    """Return the stage's throughput, samples/s; replicas not measured yet count as the others."""
    speeds = [expert.record.samples_per_s for expert in stage.serving]
    known = [speed for speed in speeds if speed > 0]
    return sum(known) / len(known) * len(speeds) if known else 0.0


def _mib(num_bytes: int) -> str:
    return f"{num_bytes / 2**20:.0f} MiB"


def _free_slot(stage: str, taken: set[tuple[str, int]], max_index: int) -> Slot:
    for index in range(max_index):
        if (stage, index) not in taken:
            return Slot(stage, index)
    raise SwarmError(f"all {max_index} replica indices of {stage} are taken (max_expert_index)")


def keeps_claim(experts: Sequence[ExpertInfo], me: PeerId, uid: ExpertUid) -> Decision[bool]:
    """Decide whether `me` keeps its claim of `uid` against the others in `experts`."""
    for other in experts:
        if other.uid != uid or other.peer_id == me:
            continue
        if other.is_member:
            return Decision(False, f"{uid} is served by {other.peer_id} already")  # noqa: FBT003
        if other.peer_id < me:
            return Decision(False, f"{uid} was claimed by {other.peer_id} too, a lower id")  # noqa: FBT003
    return Decision(True, f"nobody else claims {uid}")  # noqa: FBT003


def is_still_gap(stage: StageView, me: PeerId) -> Decision[bool]:
    """Decide whether `me` should go on to fill a gap: nobody else serves or claimed the stage.

    Of two that claim different slots of it, the lower peer id goes on.
    """
    for other in stage.experts:
        is_claim = not other.is_member and other.peer_id < me
        if other.peer_id != me and (other.is_serving or is_claim):
            what = "serves" if other.is_serving else "claimed"
            return Decision(False, f"{other.peer_id} {what} {other.uid} by now")  # noqa: FBT003
    return Decision(True, f"nobody else serves or claimed {stage.name}")  # noqa: FBT003
