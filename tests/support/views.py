"""Views of a swarm, made by hand."""

from distqatd.swarm.records import ExpertRecord, LeaseRecord
from distqatd.swarm.view import SwarmView, build_stage, expert_info


def record(uid, *, state="serving", speed=10.0, epoch=1, outer_step=0, **fields):
    return ExpertRecord(
        uid=uid,
        state=state,
        addresses=("/ip4/10.0.0.1/tcp/1",),
        boot_epoch=epoch,
        outer_step=outer_step,
        inner_step=0,
        anchor_digest="",
        samples_per_s=speed,
        session=0,
        **fields,
    )


def info(peer, uid, **fields):
    return expert_info(peer, record(uid, **fields))


def view_of(stages, *experts):
    return SwarmView(tuple(build_stage(name, experts) for name in stages))


def lease(*, term=1):
    """Return the record of a client that holds the duty."""
    numbers = {"next_batch": 0, "num_pipelines": 0, "num_gaps": 0, "committed": 0}
    numbers |= {"replayed": 0, "lost": 0, "duplicated": 0}
    ends = {"finished_unix_s": 0.0, "eval_loss": -1.0, "eval_accuracy": -1.0}
    address = ("/ip4/10.0.0.1/tcp/1",)
    return LeaseRecord(address, 1, term, **numbers, is_finished=False, **ends)
