"""Life of an expert: steps that are applied, aborted or refused; outer steps; joining."""

import dataclasses
import math

import pytest
import torch

from distqatd.base.errors import (
    CheckpointError,
    ComputeError,
    NonFinite,
    StepAborted,
)
from distqatd.config.sections import InnerOptimConfig
from tests.support.experts import (
    assert_same_state,
    chain_step,
    make_batch,
    make_expert,
    outer_step,
    state_of,
)


def train(expert, num_steps, first=0, family="resnet18"):
    for number in range(first, first + num_steps):
        chain_step([expert], *make_batch(family, number), 2)


@pytest.fixture
def expert():
    return make_expert("resnet18.full")


def begin_step(expert, number=99):
    inputs, targets = make_batch("resnet18", number)
    return expert.loss_backward(0, (inputs,), (targets,), 1.0, 0)


def test_every_replica_starts_at_the_same_anchor():
    first, second = make_expert("resnet18.full"), make_expert("resnet18.full")
    assert first.anchor_digest == second.anchor_digest
    assert first.anchor_digest != make_expert("resnet18.full", seed=1).anchor_digest
    assert (first.outer_step, first.inner_step, first.samples_since_anchor) == (0, 0, 0)


def test_counters_follow_the_steps(expert):
    train(expert, 3)
    assert (expert.inner_step, expert.steps_since_anchor) == (3, 3)
    assert expert.samples_since_anchor == 24
    outer_step(expert)
    assert (expert.inner_step, expert.steps_since_anchor) == (3, 0)
    assert (expert.samples_since_anchor, expert.outer_step) == (0, 1)


def test_an_aborted_step_leaves_no_trace(expert):
    untouched = make_expert("resnet18.full")
    for one in (expert, untouched):
        train(one, 3)
    before = state_of(expert)
    begin_step(expert)
    expert.abort()
    assert_same_state(state_of(expert), before)
    assert all(param.grad is None for param in expert.stage.parameters())
    assert not expert.step_is_open
    for one in (expert, untouched):
        train(one, 3, first=3)
    assert_same_state(state_of(expert), state_of(untouched))


@pytest.mark.parametrize("stash_bytes", [0, 1 << 30])
def test_a_step_aborted_between_forward_and_backward_leaves_no_trace(stash_bytes):
    front = make_expert("resnet18.front", stash_bytes=stash_bytes)
    before = state_of(front)
    inputs, _ = make_batch("resnet18", 0)
    front.forward(0, (inputs,), 0)
    (output,) = front.forward(1, (inputs,), 0)
    front.backward(1, (torch.ones_like(output),))
    front.abort()
    assert front.stash_bytes == 0
    assert_same_state(state_of(front), before)
    with pytest.raises(StepAborted, match="microbatch 0"):
        front.backward(0, (torch.ones_like(output),))


def test_aborting_without_a_step_does_nothing(expert):
    train(expert, 1)
    before = state_of(expert)
    expert.abort()
    expert.abort()
    assert_same_state(state_of(expert), before)


def test_backwards_may_come_in_any_order_between_forwards():
    orders = {}
    for order in ("gpipe", "1f1b"):
        chain = [make_expert("resnet18.front"), make_expert("resnet18.back")]
        for number in range(3):
            chain_step(chain, *make_batch("resnet18", number), 4, order=order)
        orders[order] = [state_of(expert) for expert in chain]
    for first, second in zip(*orders.values(), strict=True):
        assert_same_state(first, second)


def test_a_non_finite_loss_is_refused_before_any_gradient(expert):
    inputs, targets = make_batch("resnet18", 0)
    before = state_of(expert)
    with pytest.raises(NonFinite, match="loss is nan"):
        expert.loss_backward(0, (inputs * math.nan,), (targets,), 1.0, 0)
    assert all(param.grad is None for param in expert.stage.parameters())
    expert.abort()
    assert_same_state(state_of(expert), before)


def test_a_non_finite_gradient_drops_the_step_and_the_expert_trains_on(expert):
    before = state_of(expert)
    begin_step(expert)
    next(expert.stage.parameters()).grad.view(-1)[0] = math.inf
    with pytest.raises(NonFinite, match="step dropped"):
        expert.apply(8)
    assert_same_state(state_of(expert), before)
    assert (expert.inner_step, expert.samples_since_anchor) == (0, 0)
    train(expert, 1)
    assert expert.inner_step == 1


def test_large_but_finite_gradients_are_applied():
    expert = make_expert("mlp.full", inner=InnerOptimConfig(type="sgd", sgd_lr=1e-30))
    inputs, targets = make_batch("mlp", 0)
    expert.loss_backward(0, (inputs,), (targets,), 1e25, 0)
    assert expert.apply(8).grad_norm == math.inf
    assert expert.inner_step == 1


def test_the_gradient_norm_is_that_of_all_gradients_together(expert):
    begin_step(expert)
    grads = torch.cat([param.grad.flatten() for param in expert.stage.parameters()])
    assert expert.apply(8).grad_norm == pytest.approx(grads.norm().item(), rel=1e-5)


def test_applying_nothing_or_half_a_step_is_refused(expert):
    with pytest.raises(ComputeError, match="no open inner step"):
        expert.apply(8)
    front = make_expert("resnet18.front")
    front.forward(0, (make_batch("resnet18", 0)[0],), 0)
    with pytest.raises(ComputeError, match="1 microbatches"):
        front.apply(8)


def test_a_microbatch_sent_twice_is_refused():
    front = make_expert("resnet18.front")
    inputs = (make_batch("resnet18", 0)[0],)
    front.forward(3, inputs, 0)
    with pytest.raises(ComputeError, match="microbatch 3"):
        front.forward(3, inputs, 0)


def test_gradients_that_do_not_fit_are_refused():
    front = make_expert("resnet18.front")
    inputs = (make_batch("resnet18", 0)[0],)
    (output,) = front.forward(0, inputs, 0)
    with pytest.raises(ComputeError, match="2 gradients for 1 outputs"):
        front.backward(0, (output, output))
    front.forward(1, inputs, 0)
    with pytest.raises(ComputeError, match="shape"):
        front.backward(1, (output[:1],))


def test_data_gets_no_gradient_and_hidden_states_do():
    head, tail = make_expert("gpt2.front"), make_expert("gpt2.back")
    tokens, targets = make_batch("gpt2", 0)
    (hidden,) = head.forward(0, (tokens,), 0)
    assert not hidden.requires_grad
    _, (grad,) = tail.loss_backward(0, (hidden,), (targets,), 1.0, 0)
    assert grad.shape == hidden.shape
    assert not hidden.requires_grad
    assert head.backward(0, (grad,)) == (None,)


def test_an_expert_without_a_task_has_no_loss():
    expert = make_expert("mlp.full")
    expert._task = None
    inputs, targets = make_batch("mlp", 0)
    with pytest.raises(ComputeError, match="no task"):
        expert.loss_backward(0, (inputs,), (targets,), 1.0, 0)


def test_the_loss_result_is_unscaled_and_its_sums_add_up(expert):
    result, _ = begin_step(expert)
    assert result.sums["count"] == 8
    assert result.sums["loss"] / 8 == pytest.approx(result.loss)


def test_the_anchor_is_evaluated_without_disturbing_training(expert):
    inputs, _ = make_batch("resnet18", 50)
    fresh = make_expert("resnet18.full")
    wanted = fresh.evaluate((inputs,), anchor=False)[0]
    train(expert, 3)
    begin_step(expert)
    before = state_of(expert)
    grads = [param.grad.clone() for param in expert.stage.parameters()]
    at_anchor = expert.evaluate((inputs,))[0]
    local = expert.evaluate((inputs,), anchor=False)[0]
    assert torch.equal(at_anchor, wanted)
    assert not torch.equal(local, wanted)
    assert not at_anchor.requires_grad
    assert_same_state(state_of(expert), before)
    for param, grad in zip(expert.stage.parameters(), grads, strict=True):
        assert torch.equal(param.grad, grad)
    assert expert.stage.training
    expert.apply(8)


def test_after_an_outer_step_the_anchor_is_the_local_state(expert):
    train(expert, 3)
    digest = outer_step(expert)
    assert digest == expert.anchor_digest
    inputs, _ = make_batch("resnet18", 50)
    assert torch.equal(expert.evaluate((inputs,))[0], expert.evaluate((inputs,), anchor=False)[0])


def test_two_replicas_that_commit_the_same_mean_are_identical():
    replicas = [make_expert("resnet18.full") for _ in range(2)]
    for round_number in range(3):
        for index, replica in enumerate(replicas):
            train(replica, 2, first=100 * index + 10 * round_number)
        parts = [replica.contribution() for replica in replicas]
        mean = sum(part.pseudo_gradient * 0.5 for part in parts)
        ints = dict.fromkeys(parts[0].int_buffers, 7)
        digests = {replica.commit_outer(mean, round_number + 1, ints) for replica in replicas}
        assert len(digests) == 1
    assert_same_state(*map(state_of, replicas))
    assert set(replicas[0].contribution().int_buffers.values()) == {7}


def test_statistics_after_an_outer_step_are_those_of_the_pooled_replicas():
    replicas = [make_expert("resnet18.full") for _ in range(2)]
    for index, replica in enumerate(replicas):
        train(replica, 4 + index, first=100 * index)
    states = [state_of(replica) for replica in replicas]
    weights = [replica.samples_since_anchor / 72 for replica in replicas]
    parts = [replica.contribution().pseudo_gradient for replica in replicas]
    mean = sum(weight * part for weight, part in zip(weights, parts, strict=True))
    replicas[0].commit_outer(mean, 1, {})
    pooled = state_of(replicas[0])
    for name in (name for name in pooled if name.endswith("running_mean")):
        of_var = name.replace("running_mean", "running_var")
        mean = sum(w * s[name] for w, s in zip(weights, states, strict=True))
        square = sum(w * (s[of_var] + s[name] ** 2) for w, s in zip(weights, states, strict=True))
        torch.testing.assert_close(pooled[name], mean)
        torch.testing.assert_close(pooled[of_var], square - mean**2, rtol=1e-4, atol=1e-5)


def test_a_round_that_fails_costs_nothing(expert):
    with_failure, without = expert, make_expert("resnet18.full")
    train(with_failure, 2)
    with_failure.contribution()
    train(with_failure, 2, first=2)
    train(without, 4)
    assert outer_step(with_failure) == outer_step(without)
    assert_same_state(state_of(with_failure), state_of(without))


def test_the_inner_optimizer_keeps_its_state_across_an_outer_step(expert):
    train(expert, 2)
    outer_step(expert)
    state = expert._anchored.inner._optimizer.state[next(expert.stage.parameters())]
    assert state["step"] == 2


def test_only_the_next_outer_step_commits_and_only_between_inner_steps(expert):
    mine = expert.contribution()
    for wrong in (0, 2):
        with pytest.raises(ComputeError, match=f"cannot commit {wrong}"):
            expert.commit_outer(mine.pseudo_gradient, wrong, {})
    begin_step(expert)
    with pytest.raises(ComputeError, match="open inner step"):
        expert.commit_outer(mine.pseudo_gradient, 1, {})
    expert.abort()
    expert.commit_outer(mine.pseudo_gradient, 1, {})


def test_a_non_finite_or_short_mean_changes_nothing(expert):
    before, digest = state_of(expert), expert.anchor_digest
    mean = expert.contribution().pseudo_gradient
    with pytest.raises(CheckpointError):
        expert.commit_outer(mean[:-1], 1, {})
    mean[3] = math.nan
    with pytest.raises(NonFinite, match="outer step 1"):
        expert.commit_outer(mean, 1, {})
    assert_same_state(state_of(expert), before)
    assert (expert.anchor_digest, expert.outer_step) == (digest, 0)


def test_a_diverged_replica_has_no_contribution_and_goes_back_to_its_snapshot(expert):
    train(expert, 1)
    with torch.no_grad():
        next(expert.stage.parameters()).fill_(math.nan)
    with pytest.raises(NonFinite, match=r"full\.0\.0\.0 went back to its anchor.*diverged"):
        expert.contribution()
    assert (expert.num_divergences, expert.samples_since_anchor) == (1, 0)
    assert_same_state(state_of(expert), state_of(make_expert("resnet18.full")))


def test_statistics_that_overflowed_are_not_contributed(expert):
    expert.stage.state_dict()["units.stem.embedder.normalization.running_mean"].fill_(1e30)
    with pytest.raises(NonFinite, match="buffers have NaN"):
        expert.contribution()
    expert.contribution()  # they went back to the anchor


def test_a_snapshot_does_not_change_while_training_goes_on(expert):
    train(expert, 2)
    outer_step(expert)
    snapshot = expert.snapshot()
    copies = {name: tensor.clone() for name, tensor in snapshot.tensors.items()}
    train(expert, 2, first=2)
    outer_step(expert)
    for name, tensor in snapshot.tensors.items():
        assert torch.equal(tensor, copies[name])
    assert expert.snapshot().outer_step == 2


def test_a_joiner_continues_exactly_as_the_donor_would(expert):
    train(expert, 3)
    outer_step(expert)
    joiner = make_expert("resnet18.full", seed=5)
    train(joiner, 1)
    begin_step(joiner)
    joiner.load(expert.snapshot())
    assert_same_state(state_of(joiner), state_of(expert))
    assert (joiner.outer_step, joiner.anchor_digest) == (1, expert.anchor_digest)
    assert joiner.contribution().samples == 0
    assert not joiner.step_is_open
    expert.load(expert.snapshot())  # a fresh inner optimizer, as the joiner has
    for one in (expert, joiner):
        train(one, 3, first=3)
    assert outer_step(joiner) == outer_step(expert)


def corrupted(snapshot):
    anchor = snapshot.tensors["anchor"].clone()
    anchor[0] += 1
    return {**snapshot.tensors, "anchor": anchor}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: {"layout_digest": "0" * 64}, "model options differ"),
        (lambda s: {"tensors": corrupted(s)}, "has digest"),
        (lambda s: {"tensors": {"momentum": s.tensors["momentum"]}}, "no anchor"),
        (lambda s: {"tensors": {"anchor": s.tensors["anchor"]}}, "no momentum"),
    ],
)
def test_a_snapshot_that_is_not_of_this_stage_changes_nothing(expert, change, message):
    snapshot = expert.snapshot()
    train(expert, 1)
    before = state_of(expert)
    with pytest.raises(CheckpointError, match=message):
        expert.load(dataclasses.replace(snapshot, **change(snapshot)))
    assert_same_state(state_of(expert), before)
    assert expert.samples_since_anchor == 8


def test_the_rate_counts_computing_only_and_is_zero_until_measured():
    seconds = iter(range(10_000))
    expert = make_expert("mlp.full", timer=lambda: next(seconds))
    assert expert.samples_per_s == 0.0
    chain_step([expert], *make_batch("mlp", 0))
    assert expert.samples_per_s == 8 / 2  # one second of loss_backward, one of apply
    still = make_expert("mlp.full", timer=lambda: 0.0)
    chain_step([still], *make_batch("mlp", 0))
    assert still.samples_per_s == 0.0


def test_dropout_depends_on_the_request_and_leaves_the_generator_alone():
    options = {"dropout": 0.5}
    tokens = (make_batch("gpt2", 0)[0],)
    before = torch.get_rng_state()
    outputs = [
        make_expert("gpt2.front", options=options, **keywords).forward(0, tokens, seed)[0]
        for keywords, seed in [({}, 1), ({"stash_bytes": 0}, 1), ({}, 2)]
    ]
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])
