"""Several steps gathered into one update are one step on all of their samples."""

import pytest
import torch

from distqatd.config.sections import InnerOptimConfig
from tests.support.experts import make_batch, make_expert, outer_step, state_of

INNER = InnerOptimConfig(adam_lr=0.01, max_grad_norm=0.1)


def step(expert, inputs, labels, number):
    expert.loss_backward(0, (inputs,), (labels,), 1.0, number)
    return expert.apply(len(inputs), number)


def batches(*sizes):
    return [make_batch("mlp", number, size) for number, size in enumerate(sizes)]


def close(first, second):
    return all(torch.allclose(first[name], second[name], atol=1e-6) for name in first)


def test_three_steps_in_one_update_are_one_step_on_all_their_samples():
    gathering, whole = (make_expert("mlp.full", inner=INNER) for _ in range(2))
    gathering.pace = 3.0
    before = state_of(gathering)
    parts = batches(8, 4, 12)
    for number, (inputs, labels) in enumerate(parts):
        assert close(state_of(gathering), before)
        step(gathering, inputs, labels, number)
    step(whole, *(torch.cat(tensors) for tensors in zip(*parts, strict=True)), 0)
    assert close(state_of(gathering), state_of(whole))
    assert not close(state_of(gathering), before)
    assert (gathering.steps_since_anchor, gathering.samples_since_anchor) == (3, 24)


def test_what_is_left_goes_into_the_next_round():
    gathering, whole = (make_expert("mlp.full", inner=INNER) for _ in range(2))
    gathering.pace = 5.0
    (inputs, labels), (more, others) = batches(8, 8)
    step(gathering, inputs, labels, 0)
    step(gathering, more, others, 1)
    step(whole, torch.cat([inputs, more]), torch.cat([labels, others]), 0)
    mine, theirs = gathering.contribution(), whole.contribution()
    assert torch.allclose(mine.pseudo_gradient, theirs.pseudo_gradient, atol=1e-6)
    assert mine.samples == theirs.samples == 16
    outer_step(gathering)
    assert close(
        state_of(gathering), gathering.layout.views(gathering.snapshot().tensors["anchor"])
    )


def test_a_step_that_is_aborted_takes_nothing_with_it_and_loading_drops_all():
    gathering, whole = (make_expert("mlp.full", inner=INNER) for _ in range(2))
    gathering.pace = 2.0
    (inputs, labels), (bad, wrong), (more, others) = batches(8, 8, 8)
    step(gathering, inputs, labels, 0)
    gathering.loss_backward(0, (bad,), (wrong,), 1.0, 1)
    gathering.abort()
    step(gathering, more, others, 2)
    step(whole, torch.cat([inputs, more]), torch.cat([labels, others]), 0)
    assert close(state_of(gathering), state_of(whole))
    step(gathering, inputs, labels, 3)
    gathering.load(gathering.snapshot())
    assert gathering.contribution().pseudo_gradient.abs().max() == 0


@pytest.mark.parametrize("pace", [0.2, 1.0, 1.4])
def test_paces_below_two_gather_nothing(pace):
    paced, plain = (make_expert("mlp.full", inner=INNER) for _ in range(2))
    paced.pace = pace
    for number, (inputs, labels) in enumerate(batches(8, 8)):
        step(paced, inputs, labels, number)
        step(plain, inputs, labels, number)
        assert close(state_of(paced), state_of(plain))
