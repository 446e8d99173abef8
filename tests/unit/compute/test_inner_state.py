"""A stopped expert goes on exactly where it was, and a diverged one goes back to its anchor."""

import dataclasses
import math

import pytest
import torch

from distqatd.averaging.manifest import ALL, COMMITTED
from distqatd.averaging.state import pack, unpack
from distqatd.base.errors import CheckpointError, NonFinite
from distqatd.config.sections import InnerOptimConfig
from tests.support.experts import (
    assert_same_state,
    chain_step,
    make_batch,
    make_expert,
    outer_step,
    state_of,
)

OPTIMIZERS = {
    "sgd": InnerOptimConfig(type="sgd", sgd_lr=0.05, sgd_momentum=0.0),
    "momentum": InnerOptimConfig(type="sgd", sgd_lr=0.05, sgd_momentum=0.9, sgd_nesterov=True),
    "adam": InnerOptimConfig(type="adam", adam_lr=0.01),
    "adamw": InnerOptimConfig(type="adamw", adam_lr=0.01),
    "rmsprop": InnerOptimConfig(type="RMSprop", kwargs={"lr": 0.01, "momentum": 0.9}),
    "adagrad": InnerOptimConfig(type="Adagrad", kwargs={"lr": 0.01}),
    "clipped": InnerOptimConfig(
        adam_lr=0.01, max_grad_norm=0.1, lr_schedule="cosine", warmup_steps=3
    ),
}


def train(expert, family, first, num):
    """Train on batches of the run; return the losses."""
    losses = []
    for number in range(first, first + num):
        inputs, labels = make_batch(family, number)
        result, _ = expert.loss_backward(0, (inputs,), (labels,), 1.0, number)
        expert.apply(len(inputs), number)
        losses.append(result.loss)
    return losses


def over_the_wire(snapshot):
    """Return what arrives: copies, through bytes."""
    state = pack(snapshot, ALL)
    copies = tuple(memoryview(bytearray(data)) for data in state.data)
    return unpack(dataclasses.replace(state, data=copies, made_of=None))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("family", ["mlp", "resnet18"])
def test_a_stopped_expert_goes_on_bit_for_bit(family, optimizer):
    def fresh(seed):
        return make_expert(f"{family}.full", inner=OPTIMIZERS[optimizer], seed=seed)

    whole = fresh(0)
    whole.keep_inner_state()
    train(whole, family, 0, 4)
    outer_step(whole)
    stopped = over_the_wire(whole.snapshot())
    losses = train(whole, family, 4, 4)
    outer_step(whole)

    resumed = fresh(5)
    resumed.load(stopped)
    assert resumed.inner_step == 4
    assert train(resumed, family, 4, 4) == losses
    outer_step(resumed)
    assert resumed.anchor_digest == whole.anchor_digest
    assert_same_state(state_of(resumed), state_of(whole))
    assert resumed.inner_step == whole.inner_step
    assert resumed.book.anchor == whole.book.anchor


def test_without_inner_state_an_adam_expert_goes_on_differently():
    whole = make_expert("mlp.full", inner=OPTIMIZERS["adam"])
    train(whole, "mlp", 0, 4)
    outer_step(whole)
    other = make_expert("mlp.full", inner=OPTIMIZERS["adam"])
    other.load(unpack(pack(whole.snapshot())))
    assert train(other, "mlp", 4, 4) != train(whole, "mlp", 4, 4)


def test_inner_state_is_kept_only_while_somebody_wants_it():
    now = [0.0]
    expert = make_expert("mlp.full", inner=OPTIMIZERS["adam"], timer=lambda: now[0])
    assert pack(expert.snapshot(), ALL).meta["inner_step"] == 0  # nothing yet, and that is all
    train(expert, "mlp", 0, 1)
    outer_step(expert)
    with pytest.raises(CheckpointError, match="it will be from the next one on"):
        pack(expert.snapshot(), ALL)
    expert.keep_inner_state()
    train(expert, "mlp", 1, 1)
    outer_step(expert)
    assert "inner.exp_avg" in pack(expert.snapshot(), ALL).tensors()
    assert "inner.exp_avg" not in pack(expert.snapshot(), COMMITTED).tensors()
    assert not {"inner", "inner_step"} & pack(expert.snapshot(), COMMITTED).meta.keys()
    now[0] += 601.0
    train(expert, "mlp", 2, 1)
    outer_step(expert)
    assert not expert.snapshot().has_inner


def test_replicas_that_trained_on_other_data_have_the_same_committed_bytes():
    first, second = (make_expert("mlp.full", inner=OPTIMIZERS["adam"]) for _ in range(2))
    for number, expert in enumerate((first, second)):
        expert.keep_inner_state()
        train(expert, "mlp", number, 1 + number)
    mine = first.contribution()
    for expert in (first, second):
        expert.commit_outer(mine.pseudo_gradient, 1, {})
    one, two = (pack(expert.snapshot()) for expert in (first, second))
    assert dict(one.meta) == dict(two.meta)
    assert one.tensors().keys() == {"anchor", "momentum"}
    assert [bytes(data) for data in one.data] == [bytes(data) for data in two.data]


@pytest.mark.parametrize(
    ("meta", "message"),
    [
        ({"inner": {"momentum_buffer": [0]}}, "another kind of optimizer"),
        ({"inner": []}, "another kind of optimizer"),
        ({"inner": {"exp_avg": [0, 99]}}, "parameters we have not"),
        ({"inner": {"exp_avg": "all"}}, "parameters we have not"),
        ({"inner": {"exp_avg": [0]}}, "no inner exp_avg of"),
        ({"inner": {"exp_avg": [0, 0]}}, "no inner exp_avg of"),
        ({"inner_step": -1}, "inner steps"),
        ({"inner_step": "7"}, "inner steps"),
    ],
)
def test_inner_state_that_does_not_fit_changes_nothing(meta, message):
    expert = make_expert("mlp.full", inner=OPTIMIZERS["adam"])
    expert.keep_inner_state()
    train(expert, "mlp", 0, 2)
    outer_step(expert)
    snapshot = expert.snapshot()
    train(expert, "mlp", 2, 1)
    before = state_of(expert)
    bad = dataclasses.replace(snapshot, meta={**snapshot.meta, **meta})
    with pytest.raises(CheckpointError, match=message):
        expert.load(bad)
    assert_same_state(state_of(expert), before)


def test_parameters_that_diverged_go_back_to_the_anchor_when_their_step_is_aborted():
    front, back = make_expert("mlp.front"), make_expert("mlp.back")
    healthy = state_of(back)
    inputs, labels = make_batch("mlp", 0)
    with torch.no_grad():
        next(front.stage.parameters()).fill_(math.inf)
    with pytest.raises(NonFinite):
        chain_step([front, back], inputs, labels)
    for expert in (front, back):
        expert.abort()
    assert (front.num_divergences, back.num_divergences) == (1, 0)
    assert_same_state(state_of(back), healthy)
    assert math.isfinite(chain_step([front, back], inputs, labels))


def test_a_step_with_bad_data_does_not_send_a_healthy_expert_back():
    expert = make_expert("mlp.full")
    train(expert, "mlp", 0, 2)
    before = state_of(expert)
    inputs, labels = make_batch("mlp", 2)
    with pytest.raises(NonFinite):
        expert.loss_backward(0, (inputs * math.nan,), (labels,), 1.0, 0)
    expert.abort()
    assert expert.num_divergences == 0
    assert_same_state(state_of(expert), before)
