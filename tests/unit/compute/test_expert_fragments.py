"""An expert whose outer steps take one fragment after the other."""

import pytest
import torch

from distqatd.base.intervals import IntervalSet
from distqatd.config.schedules import RunSchedule
from distqatd.config.sections import DilocoConfig, InnerOptimConfig
from tests.support.experts import (
    assert_same_state,
    chain_step,
    make_batch,
    make_expert,
    state_of,
)

INNER = InnerOptimConfig(type="adamw")


def make(family="mlp", **diloco):
    config = DilocoConfig(
        **{"inner_optim": INNER, "inner_steps": 2, "outer_steps": 5, "fragments": 2, **diloco}
    )
    return make_expert(
        f"{family}.full",
        inner=config.inner_optim,
        outer=config.outer_optim,
        schedule=RunSchedule(config),
    )


def train(expert, *numbers, family="mlp"):
    for number in numbers:
        inputs, targets = make_batch(family, number)
        expert.loss_backward(0, (inputs,), (targets,), 1.0, number)
        expert.apply(len(inputs), number)


def local(expert):
    return expert.layout.gather(expert.stage)


def anchor(expert):
    return expert.snapshot().tensors["anchor"]


def commit(*experts):
    """Have replicas take an outer step together, by their weights; return what they brought."""
    given = [expert.contribution() for expert in experts]
    total = sum(each.samples for each in given)
    mean = sum(each.pseudo_gradient * (each.samples / total) for each in given)
    batches = IntervalSet()
    for each in given:
        batches = batches.union(each.batches)
    ints = given[0].int_buffers
    digests = {e.commit_outer(mean, e.outer_step + 1, ints, batches) for e in experts}
    assert len(digests) == 1
    return given


def test_an_outer_step_moves_one_fragment_of_the_anchor_and_leaves_the_rest_local() -> None:
    expert = make()
    first, second = (slice(*span) for span in expert._anchored.fragments.spans)
    train(expert, 0, 1)
    before, trained = anchor(expert), local(expert)
    commit(expert)
    assert torch.equal(anchor(expert)[second], before[second])
    assert not torch.equal(anchor(expert)[first], before[first])
    assert torch.equal(local(expert)[first], anchor(expert)[first])
    assert torch.equal(local(expert)[second], trained[second])
    momentum = expert.snapshot().tensors["momentum"]
    assert momentum[first].any()
    assert not momentum[second].any()


def test_contributions_are_half_as_long_and_weigh_what_their_fragment_has_seen() -> None:
    expert = make()
    weights, sizes = [], []
    for k in range(5):
        train(expert, 2 * k, 2 * k + 1)
        (given,) = commit(expert)
        weights.append(given.samples)
        sizes.append(given.num_coded)
    num_params = expert.layout.num_params
    assert weights == [16, 32, 32, 32, 32]  # the last one takes all: since the one before last
    assert sizes[0] + sizes[1] == num_params == sizes[-1]
    assert max(sizes[:4]) <= num_params * 5 / 8 + 1
    assert torch.equal(local(expert), anchor(expert))
    assert (expert.samples_since_anchor, expert.steps_since_anchor) == (0, 0)


@pytest.mark.parametrize("family", ["mlp", "resnet18"])
def test_replicas_share_an_anchor_and_each_fragment_in_its_turn(family) -> None:
    left, right = make(family), make(family)
    for k in range(5):
        train(left, 10 * k, 10 * k + 1, family=family)
        train(right, 10 * k + 2, family=family)
        commit(left, right)
        assert torch.equal(anchor(left), anchor(right))
        assert left.book == right.book
        num_params = left.layout.num_params
        assert torch.equal(local(left)[num_params:], local(right)[num_params:])
    assert torch.equal(local(left), local(right))


def test_a_batch_is_committed_with_the_first_fragment_that_takes_it() -> None:
    expert = make()
    train(expert, 0, 1)
    commit(expert)
    assert expert.book.anchor == IntervalSet().add(0, 2)
    assert not expert.book.local
    assert expert.samples_since_anchor == 16


def test_with_inner_state_a_snapshot_goes_on_bit_for_bit() -> None:
    expert, resumed = make("resnet18"), make("resnet18")
    expert.keep_inner_state()
    for k in range(3):
        train(expert, 2 * k, 2 * k + 1, family="resnet18")
        commit(expert)
    resumed.load(expert.snapshot())
    assert resumed.samples_since_anchor == expert.samples_since_anchor > 0
    for each in (expert, resumed):
        train(each, 6, 7, family="resnet18")
        commit(each)
    assert_same_state(state_of(expert), state_of(resumed))
    assert expert.anchor_digest == resumed.anchor_digest


def test_one_that_missed_an_outer_step_carries_all_fragments_along() -> None:
    left, right = make(), make()
    train(left, 0)
    train(right, 1)
    commit(left, right)
    mine = local(right) - anchor(right)
    train(left, 2)
    commit(left)
    carried = right.catch_up(left.snapshot())
    assert not carried.kept
    assert not carried.dropped
    torch.testing.assert_close(local(right) - anchor(right), mine)
    assert right.anchor_digest == left.anchor_digest
    assert right.samples_since_anchor == 8


def test_what_was_committed_unknown_to_us_is_not_brought_again() -> None:
    left, right = make(), make()
    train(left, 0)
    train(right, 1)
    given = [left.contribution(), right.contribution()]
    mean = (given[0].pseudo_gradient + given[1].pseudo_gradient) / 2
    batches = given[0].batches.union(given[1].batches)
    before = local(right) - anchor(right)
    left.commit_outer(mean, 1, {}, batches)
    right.catch_up(left.snapshot())
    first, second = (slice(*span) for span in right._anchored.fragments.spans)
    assert not (local(right) - anchor(right))[first].abs().max() > 1e-6
    torch.testing.assert_close((local(right) - anchor(right))[second], before[second])
    assert right._tally.work.samples == (0, 8)


def test_an_earlier_contribution_that_was_chosen_leaves_the_later_work_on_top() -> None:
    expert = make()
    first, second = (slice(*span) for span in expert._anchored.fragments.spans)
    train(expert, 1)
    inside = expert.contribution()
    train(expert, 2)
    made, trained = expert.contribution(), local(expert)
    expert.commit_outer(inside.pseudo_gradient, 1, inside.int_buffers, inside.batches)
    expert.train_on(made, inside)
    since = (made.pseudo_gradient - inside.pseudo_gradient)[: made.num_coded]
    torch.testing.assert_close((anchor(expert) - local(expert))[first], since)
    assert torch.equal(local(expert)[second], trained[second])
    assert expert._tally.work.samples == (8, 16)
    assert expert.book.local == IntervalSet().add(2, 3)


def test_a_chain_of_stages_cuts_each_of_them() -> None:
    stages = [make_chain(name) for name in ("front", "back")]
    chain_step(stages, *make_batch("mlp", 0))
    for stage in stages:
        (given,) = commit(stage)
        assert 0 < given.num_coded < stage.layout.num_params


def make_chain(name):
    config = DilocoConfig(outer_steps=5, fragments=2)
    return make_expert(f"mlp.{name}", schedule=RunSchedule(config))
