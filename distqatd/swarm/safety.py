"""Whether an expert may leave: training stops if it is the last one of its stage."""

from distqatd.base.decision import Decision
from distqatd.base.ids import ExpertUid, PeerId
from distqatd.swarm.view import SwarmView


def may_leave(view: SwarmView, who: PeerId | ExpertUid) -> Decision[bool]:
    """Decide whether an expert, or all experts of a peer, may leave without opening a gap.

    Experts that drain already do not count as those who stay. One that does not serve may leave.

    Args:
        view: the swarm as it is known.
        who: the uid of an expert, or the id of its peer.
    """
    lone: list[str] = []
    num_leaving = 0
    for stage in view.stages:
        leaving = [e for e in stage.serving if who in (e.uid, e.peer_id)]
        num_leaving += len(leaving)
        if leaving and len(leaving) == len(stage.serving):
            lone.append(f"{leaving[0].uid} is the last serving replica of {stage.name}")
    if lone:
        return Decision(False, "; ".join(lone))  # noqa: FBT003
    kept = f"{num_leaving} leave, every stage keeps a replica"
    return Decision(True, kept if num_leaving else "it serves no stage")  # noqa: FBT003
