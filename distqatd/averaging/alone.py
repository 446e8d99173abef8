"""The outer step of the only replica of a stage: plain, but on the ledger like any other."""

from dataclasses import dataclass

from distqatd.averaging.ballots import Accept, Learn, StepKey, Value, voter_id
from distqatd.averaging.keeping import KeptMeans
from distqatd.averaging.records import Committed, ContributionLike
from distqatd.averaging.tools import Tools
from distqatd.base.errors import RoundAborted
from distqatd.base.ids import ExpertUid
from distqatd.optim.digest import digest


@dataclass(frozen=True, slots=True)
class Alone:
    """A step that one replica took by itself."""

    committed: Committed
    chosen: Learn


async def go_alone(
    tools: Tools, uid: ExpertUid, stage: str, contribution: ContributionLike, kept: KeptMeans
) -> Alone:
    """Take an outer step by ourselves, or finish the one that others died over.

    If it turns out later that others are alive, cut off from us, they find a ballot above theirs.

    Raises:
        RoundAborted: there is nothing to average.
        CheckpointError: the ledger cannot be written.
    """
    key = StepKey(stage, contribution.outer_step, contribution.anchor_digest)
    own = voter_id(uid, tools.rpc.peer_id)
    pending = (await tools.ledger.look(uid, key)).value
    if pending is not None and (left := kept.find(pending)) is not None:
        return await _accept(tools, uid, own, pending, left.committed(pending, 0, 0.0))
    if not contribution.samples:
        raise RoundAborted("nothing to average: the only replica has not trained")
    mean = contribution.pseudo_gradient
    held = await tools.executor.run(lambda: digest(mean))
    round_id = f"{stage}/{key.outer_step + 1}/{uid}/{tools.rng.getrandbits(48):012x}"
    value = Value(key, round_id, (own,), held)
    committed = Committed(
        mean=mean,
        outer_step=key.outer_step + 1,
        members=(uid,),
        weights={uid: 1.0},
        int_buffers=dict(contribution.int_buffers),
        digest=held,
        bytes_sent=0,
        seconds=0.0,
        batches=contribution.batches,
        voters=(own,),
        contribution=contribution,
    )
    return await _accept(tools, uid, own, value, committed)


async def _accept(
    tools: Tools, uid: ExpertUid, own: str, value: Value, committed: Committed
) -> Alone:
    ballot = await tools.ledger.reserve(uid, value.key, own, 0)
    await tools.ledger.react(uid, value.key, Accept(ballot, value))
    return Alone(committed, Learn(ballot, value))
