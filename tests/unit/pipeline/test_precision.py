"""A pipeline in 16 bits: the loss scale, and a step that any stage vetoes."""

import pytest
import torch

from distqatd.base.errors import NonFinite, RemoteProtocolError
from distqatd.compute.scale import LossScale
from distqatd.config.sections import DataConfig, QuantConfig
from distqatd.pipeline import messages as m
from distqatd.pipeline.outcome import read_vetoes
from distqatd.pipeline.scaling import LossScaling
from distqatd.wire.payload import Message
from tests.support.experts import assert_same_state, state_of
from tests.support.pipelines import Pipeline, batch, train_plain

SCALE = 1024.0


def mixed(**values):
    return DataConfig(precision="fp16-mixed", loss_scale=SCALE, **values)


def overflow(pipeline, uid, above):
    """Have gradients of an expert overflow while they are multiplied by more than `above`."""
    hosted = pipeline.hosted[uid]
    param = next(iter(hosted.expert.stage.parameters()))

    def spoil(grad):
        return grad * float("inf") if pipeline.scaling.scale.value > above else grad

    param.register_hook(spoil)


async def opened(*names, **keywords):
    pipeline = Pipeline(*names, **keywords)
    runner = pipeline.runner()
    await runner.open()
    return pipeline, runner


@pytest.mark.parametrize("loss_at", ["last_stage", "trainer"])
@pytest.mark.parametrize(("name", "tolerance"), [("bf16", 0.02), ("fp16-mixed", 0.002)])
async def test_losses_are_those_of_plain_torch_in_float32(name, tolerance, loss_at):
    data = DataConfig(precision=name)
    _, runner = await opened("head", "body", "tail", data=data, loss_at=loss_at, num_microbatches=4)
    losses = [(await runner.step(batch(number), number)).loss for number in range(10)]
    assert losses == pytest.approx(train_plain(range(10), 4)[0], rel=tolerance)
    assert losses != train_plain(range(10), 4)[0]


@pytest.mark.parametrize("uid", ["head.0.0.0", "body.0.0.0", "tail.0.0.0"])
@pytest.mark.parametrize("num_microbatches", [1, 4])
async def test_any_stage_vetoes_and_all_stages_drop_the_step(uid, num_microbatches):
    pipeline, runner = await opened(
        "head", "body", "tail", data=mixed(), num_microbatches=num_microbatches
    )
    overflow(pipeline, uid, above=SCALE / 4)
    before = {name: state_of(hosted.expert) for name, hosted in pipeline.hosted.items()}
    for _ in range(2):
        assert uid in (await runner.step(batch(0), 0)).vetoes
        assert runner.unconfirmed is None
    for name, hosted in pipeline.hosted.items():
        assert_same_state(state_of(hosted.expert), before[name])
        assert hosted.expert.inner_step == 0
        assert 0 not in hosted.expert.book
    assert pipeline.scaling.scale == LossScale(SCALE / 4)
    assert not (await runner.step(batch(0), 0)).vetoes
    await runner.flush()
    assert [h.expert.inner_step for h in pipeline.hosted.values()] == [1, 1, 1]
    assert all(0 in hosted.expert.book for hosted in pipeline.hosted.values())
    assert all(h.expert.loss_scale == LossScale(SCALE / 4) for h in pipeline.hosted.values())
    assert pipeline.scaling.scale == LossScale(SCALE / 4, num_good=1)


async def test_a_dropped_step_leaves_no_trace_in_what_is_trained():
    pipeline, runner = await opened("front", "back", data=mixed())
    overflow(pipeline, "front.0.0.0", above=SCALE / 2)
    vetoed = [bool((await runner.step(batch(0), 0)).vetoes) for _ in range(2)]
    await runner.step(batch(1), 1)
    await runner.flush()
    plain, other = await opened("front", "back", data=mixed())
    plain.scaling.overflowed()
    for number in range(2):
        await other.step(batch(number), number)
    await other.flush()
    assert vetoed == [True, False]
    for name, tensor in pipeline.state().items():
        assert torch.equal(tensor, plain.state()[name]), name


@pytest.mark.parametrize("uid", ["front.0.0.0", "back.0.0.0"])
async def test_without_a_loss_scale_a_veto_fails_the_step_before_it_is_decided(uid):
    pipeline, runner = await opened("front", "back")
    next(iter(pipeline.hosted[uid].expert.stage.parameters())).register_hook(
        lambda grad: grad * float("nan")
    )
    with pytest.raises(NonFinite, match=f"gradients of {uid}"):
        await runner.step(batch(0), 0)
    assert runner.unconfirmed is None
    await runner.abort("the gradients are not finite")
    assert [hosted.expert.inner_step for hosted in pipeline.hosted.values()] == [0, 0]


@pytest.mark.parametrize("loss_at", ["last_stage", "trainer"])
async def test_hidden_gradients_that_a_codec_cannot_carry_are_a_veto(loss_at):
    pipeline, runner = await opened(
        "head", "body", "tail", data=mixed(), loss_at=loss_at, quant=QuantConfig(wire="int8")
    )
    pipeline.scaling.scale = LossScale(2.0**32)  # far above what fp16 holds
    assert (await runner.step(batch(0), 0)).vetoes
    assert pipeline.scaling.scale == LossScale(2.0**31)


async def test_hidden_gradients_travel_scaled_and_in_16_bits():
    pipeline, runner = await opened("front", "back", data=mixed())
    replies = []
    pack = pipeline.links.behind(0).pack
    pipeline.links._links[0].pack = lambda tensors: replies.append(pack(tensors)) or replies[-1]
    await runner.step(batch(0), 0)
    outputs, grads = (parcels.tensors[0] for parcels in replies)
    assert outputs.dtype == grads.dtype == torch.float16
    assert grads.abs().max() > 1  # of a loss near 1, over 8 samples


async def test_a_trainer_that_takes_over_goes_on_with_the_scale_that_the_stages_had():
    pipeline, runner = await opened("front", "back", data=mixed(loss_scale_growth=3))
    for number in range(2):
        await runner.step(batch(number), number)
    await runner.flush()
    taken_over = LossScaling(mixed(loss_scale_growth=3))
    runner = pipeline.runner(fence=2)
    await runner.open()
    taken_over.adopt(standing.scale for standing in runner.standings.values())
    assert taken_over.scale == pipeline.scaling.scale == LossScale(SCALE, 2)
    taken_over.good()
    taken_over.adopt([LossScale(2.0)])  # another route: its own is newer
    assert taken_over.scale == LossScale(SCALE * 2)


def test_a_scale_that_did_not_help_a_batch_is_not_held_against_the_next_one():
    scaling = LossScaling(DataConfig(precision="fp16-mixed", loss_scale=4.0))
    assert [scaling.overflowed() for _ in range(3)] == [True, True, False]
    scaling.given_up()
    assert scaling.scale == LossScale(4.0)
    assert LossScaling(DataConfig()).scale is None


def test_messages_of_others_are_checked():
    decided = m.Decided(1, 8, 0, LossScale(2.0, 1), drops=True)
    assert m.Decided.read(decided.body()) == decided
    with pytest.raises(RemoteProtocolError, match="no loss scale"):
        m.Decided.read(decided.body() | {"scale": [0.3, 1]})
    for vetoes in (["x" * 65], [1], ["a"] * 1000):
        with pytest.raises(RemoteProtocolError):
            read_vetoes(Message({"vetoes": vetoes}))
