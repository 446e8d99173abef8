"""Which stage a joining expert hosts: gaps first, then the stage that needs it most.

All joiners are placed together, in the order of their peer ids, so that every peer with the same
view computes the same assignment and two joiners do not fill one gap. Views can differ for a
moment: `keeps_claim` settles two claims of one slot in favour of the lower peer id.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from distqatd.base.decision import Decision
from distqatd.base.errors import SwarmError
from distqatd.base.ids import ExpertUid, PeerId, make_uid
from distqatd.swarm.view import ExpertInfo, SwarmView


@dataclass(frozen=True, slots=True)
class Slot:
    """A place in the swarm: replica `index` of `stage`."""

    stage: str
    index: int

    @property
    def uid(self) -> ExpertUid:
        """Return the uid of the expert in this slot."""
        return make_uid(self.stage, self.index)


def place(
    view: SwarmView, me: PeerId, *, max_index: int, wanted_stage: str | None = None
) -> Decision[Slot]:
    """Choose the slot for `me`, given everybody who serves, claimed or is joining.

    Raises:
        SwarmError: the wanted stage does not exist, or every replica index is taken.
    """
    if wanted_stage is not None and wanted_stage not in view.stage_names:
        raise SwarmError(
            f"there is no stage {wanted_stage!r} in this run; it has {', '.join(view.stage_names)}"
        )
    taken = {
        (stage.name, expert.index)
        for stage in view.stages
        for expert in stage.experts
        if expert.peer_id != me
    }
    waiting = sorted({e.peer_id for e in view.joiners if not e.uid} | {me})
    for peer_id in waiting:
        decision = _neediest(view, taken, max_index, wanted_stage if peer_id == me else None)
        if peer_id == me:
            return decision
        taken.add((decision.value.stage, decision.value.index))
    raise SwarmError("no slot was found")


def _neediest(
    view: SwarmView, taken: set[tuple[str, int]], max_index: int, wanted: str | None
) -> Decision[Slot]:
    counts = {name: sum(stage == name for stage, _ in taken) for name in view.stage_names}
    if wanted is not None:
        return Decision(_free_slot(wanted, taken, max_index), f"{wanted} was asked for")
    for name in view.stage_names:
        if counts[name] == 0:
            return Decision(_free_slot(name, taken, max_index), f"{name} has no expert")
    order = {name: i for i, name in enumerate(view.stage_names)}
    name = min(view.stage_names, key=lambda n: (counts[n], view.stage(n).samples_per_s, order[n]))
    speed = view.stage(name).samples_per_s
    reason = f"{name} has the fewest replicas ({counts[name]}; {speed:.0f} samples/s)"
    return Decision(_free_slot(name, taken, max_index), reason)


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
        if other.is_serving:
            return Decision(False, f"{uid} is served by {other.peer_id} already")  # noqa: FBT003
        if other.peer_id < me:
            return Decision(False, f"{uid} was claimed by {other.peer_id} too, a lower id")  # noqa: FBT003
    return Decision(True, f"nobody else claims {uid}")  # noqa: FBT003
