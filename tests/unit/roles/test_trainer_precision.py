"""A trainer in fp16-mixed: steps that a stage vetoes, and batches that no loss scale helps."""

import pytest

from distqatd.compute.expert import Expert
from distqatd.config.sections import DataConfig
from distqatd.roles.trainer_steps import MAX_NON_FINITE
from tests.support.contexts import kinds
from tests.support.loops import on_virtual_time
from tests.support.trainers import TrainerWorld

FP16 = DataConfig(precision="fp16-mixed", loss_scale=8.0)


def vetoing(world, batch, times):
    """Return a patch that has the back veto the first tries of a batch."""
    patch = pytest.MonkeyPatch()
    real, left = Expert.gradients_overflow, [times]

    def gradients_overflow(expert, num_microbatches):
        overflows = real(expert, num_microbatches)
        if expert.uid == "back.0.0.0" and world.data.newest == batch and left[0]:
            left[0] -= 1
            return True
        return overflows

    patch.setattr(Expert, "gradients_overflow", gradients_overflow)
    return patch


async def trained(batch, times):
    world = TrainerWorld(data=FP16)
    patch = vetoing(world, batch, times)
    try:
        async with world.running():
            await world.train()
    finally:
        patch.undo()
    return world


def told(world, name):
    return sum(getattr(report, name) for report in world.client.reports)


@on_virtual_time
async def test_an_overflow_is_told_and_its_batch_is_trained_once():
    world = await trained(2, times=2)
    counts = [told(world, f"num_{name}") for name in ("overflows", "replayed", "skipped")]
    assert counts == [2, 0, 0]
    for hosted in world.pipeline.hosted.values():
        assert hosted.expert.inner_step == 8
        assert list(hosted.expert.book.everything().pairs) == [(0, 8)]
        assert hosted.expert.loss_scale.value == 2.0
    overflowed = [e for e in world.ctx.events.since() if e.kind == "step.overflowed"]
    assert [event.fields["vetoes"] for event in overflowed] == ["back.0.0.0"] * 2
    assert [event.fields["loss_scale"] for event in overflowed] == [4.0, 2.0]


@on_virtual_time
async def test_a_batch_that_no_loss_scale_helps_is_skipped_and_the_scale_is_as_before():
    world = await trained(2, times=3 + MAX_NON_FINITE)
    counts = [told(world, f"num_{name}") for name in ("overflows", "replayed", "skipped")]
    assert counts == [3, MAX_NON_FINITE, 1]
    assert kinds(world.ctx).count("batch.skipped") == 1
    for hosted in world.pipeline.hosted.values():
        assert 2 not in hosted.expert.book
        assert hosted.expert.inner_step == 7
        assert hosted.expert.loss_scale.value == 8.0
