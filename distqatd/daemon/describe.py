"""What the API says about a view of the swarm: pure functions from views to schemas."""

from distqatd.api import schema as s
from distqatd.base.ids import ExpertUid, PeerId, nickname
from distqatd.config.sections import Config
from distqatd.pipeline.syncs import Syncs
from distqatd.roles.monitor import fleet_metrics
from distqatd.swarm.records import DRAINING, LeaseRecord
from distqatd.swarm.view import StageView, SwarmView


def lease_of(view: SwarmView) -> LeaseRecord | None:
    """Return the record of whoever holds the client's duty."""
    holder = holder_of(view)
    return view.leases[holder] if holder is not None else None


def holder_of(view: SwarmView) -> PeerId | None:
    """Return who holds the client's duty: the highest term, then the lowest id, if several."""
    return min(view.leases, key=lambda peer: (-view.leases[peer].term, peer), default=None)


def duty(view: SwarmView) -> s.Duty | None:
    """Return who holds the client's duty, for people."""
    holder = holder_of(view)
    if holder is None:
        return None
    return s.Duty(peer_id=holder, nickname=nickname(holder), term=view.leases[holder].term)


def evaluation(lease: LeaseRecord | None) -> s.Eval | None:
    """Return the anchor's evaluation, if there is one."""
    if lease is None or lease.eval_loss < 0:
        return None
    accuracy = lease.eval_accuracy if lease.eval_accuracy >= 0 else None
    earned = lease.eval_return if lease.eval_return >= 0 else None
    step = lease.eval_outer_step if lease.eval_outer_step >= 0 else None
    return s.Eval(loss=lease.eval_loss, accuracy=accuracy, mean_return=earned, outer_step=step)


def batches(lease: LeaseRecord | None) -> s.Batches:
    """Return what became of the training batches."""
    if lease is None:
        return s.Batches()
    return s.Batches(
        committed=lease.committed,
        replayed=lease.replayed,
        lost=lease.lost,
        duplicated=lease.duplicated,
        overflowed=lease.overflows,
    )


def identical(digests: set[tuple[int, str]], num_serving: int) -> bool | None:
    """Return whether all replicas hold one anchor; None while that cannot be said."""
    if num_serving < 2 or len({step for step, _ in digests}) > 1:
        return None
    return len(digests) == 1


def gaps(view: SwarmView) -> tuple[s.Gap, ...]:
    """Return the stages nobody serves, and what to do."""
    has_spare = any(len(stage.serving) > 1 for stage in view.stages)
    return tuple(
        s.Gap(
            stage=stage,
            reason=f"no expert serves {stage}",
            suggestion=(
                "distqatctl reassign --auto --dry-run"
                if has_spare
                else f"start one: distqatd --role expert --stage {stage} --join PEER"
            ),
        )
        for stage in view.gaps
    )


def _hop(uid: ExpertUid, owners: dict[ExpertUid, PeerId]) -> s.Hop:
    peer_id = owners.get(uid, PeerId(""))
    return s.Hop(
        stage=uid.split(".")[0],
        uid=uid,
        peer_id=peer_id,
        nickname=nickname(peer_id) if peer_id else "lost",
    )


def training(view: SwarmView, config: Config) -> s.Training:
    """Return how the run of `config` goes."""
    metrics = fleet_metrics(view)
    return s.Training(
        state=training_state(view),
        outer_step=metrics.outer_step,
        outer_steps=config.diloco.outer_steps,
        inner_step=metrics.inner_steps,
        loss=metrics.loss if metrics.loss >= 0 else None,
        samples_per_s=metrics.samples_per_s,
        num_pipelines=min(view.num_complete, config.model_pipeline.max_pipelines),
        eval=evaluation(lease_of(view)),
    )


def training_state(view: SwarmView) -> s.TrainingState:
    """Return where the run is, in one word."""
    lease = lease_of(view)
    if lease is not None and lease.is_finished:
        return "finished"
    if view.num_complete == 0:
        return "waiting"
    return "training"


def sync_costs(syncs: Syncs) -> s.Syncs:
    """Return what an expert's outer steps have cost."""
    return s.Syncs(
        committed=syncs.num_committed,
        aborted=syncs.num_aborted,
        seconds=round(syncs.seconds, 3),
        bytes_sent=syncs.bytes_sent,
        mbit_per_s=round(syncs.mbit_per_s, 3),
    )


def stage_row(stage: StageView, age_s: float | None) -> s.Stage:
    """Return one stage and who serves it; `age_s` is since its last outer step."""
    experts = stage.experts
    digests = {(e.record.outer_step, e.record.anchor_digest) for e in stage.serving}
    return s.Stage(
        name=stage.name,
        num_replicas=len(stage.serving),
        state="ok" if stage.serving else "gap",
        last_outer_step_age_s=age_s,
        replicas_identical=identical(digests, len(stage.serving)),
        num_draining=sum(e.record.state == DRAINING for e in experts),
        experts=tuple(
            s.StageExpert(
                uid=e.uid,
                peer_id=e.peer_id,
                nickname=nickname(e.peer_id),
                state=e.record.state,
                outer_step=e.record.outer_step,
                anchor_digest=e.record.anchor_digest,
            )
            for e in experts
        ),
    )


def pipeline_rows(view: SwarmView) -> tuple[s.Pipeline, ...]:
    """Return the routes in use."""
    owners = {e.uid: e.peer_id for stage in view.stages for e in stage.experts}
    return tuple(
        s.Pipeline(
            trainer_peer_id=info.peer_id,
            trainer=nickname(info.peer_id),
            hops=tuple(_hop(ExpertUid(uid), owners) for uid in info.record.route),
            inner_step=info.record.step,
            loss=info.record.loss if info.record.loss >= 0 else None,
            samples_per_s=info.record.samples_per_s,
            link_bytes=info.record.link_bytes,
            loss_scale=info.record.loss_scale or None,
        )
        for info in view.trainers
        if info.is_training
    )
