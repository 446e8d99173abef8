"""An expert whose outer steps take one fragment after the other."""

from dataclasses import replace

import pytest
import torch

from distqatd.base.errors import ComputeError
from distqatd.base.intervals import IntervalSet
from distqatd.compute.book import BatchBook
from distqatd.compute.taking_over import TakingOver
from distqatd.config.schedules import RunSchedule
from distqatd.config.sections import DilocoConfig, InnerOptimConfig
from distqatd.optim.flat import FlatLayout
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


def overlapping(**diloco):
    return make(**{"inner_steps": 4, "overlap_steps": 2, "mix_alpha": 0.25, **diloco})


def fly(expert, *numbers):
    """Commit an outer step while steps go on; return the parameters before it is taken over."""
    given = expert.contribution(goes_on=True)
    train(expert, *numbers[:1])
    inputs, _ = make_batch("mlp", numbers[1])
    expert.forward(0, (inputs,), 0)  # a step is open
    expert.commit_outer(
        given.pseudo_gradient, given.outer_step + 1, given.int_buffers, given.batches
    )
    expert.abort()
    train(expert, *numbers[1:])
    return local(expert)


def test_steps_go_on_beside_a_round_and_its_anchor_is_mixed_in_later() -> None:
    expert = overlapping()
    first, second = (slice(*span) for span in expert._anchored.fragments.spans)
    train(expert, 0)
    before = fly(expert, 1, 2)
    assert (expert.outer_step, expert.steps_since_anchor) == (1, 2)
    assert expert.book == BatchBook(IntervalSet().add(0, 1), IntervalSet().add(1, 3))
    assert expert._tally.work.samples == (16, 24)
    expert.take_over()
    mixed = before[first] * 0.25 + anchor(expert)[first] * 0.75
    assert torch.equal(local(expert)[first], mixed)
    assert torch.equal(local(expert)[second], before[second])
    after = local(expert)
    expert.take_over()
    assert torch.equal(local(expert), after)


def test_an_outer_step_is_taken_over_before_the_next_contribution_at_the_latest() -> None:
    expert, other = overlapping(), overlapping()
    for each in (expert, other):
        train(each, 0)
        fly(each, 1, 2)
    other.take_over()
    given, wanted = expert.contribution(), other.contribution()
    assert torch.equal(given.pseudo_gradient, wanted.pseudo_gradient)


def test_one_that_went_on_and_was_loaded_does_not_commit_what_it_brought() -> None:
    expert, other = overlapping(), overlapping()
    train(expert, 0)
    train(other, 1)
    commit(other)
    given = expert.contribution(goes_on=True)
    expert.load(make().snapshot())
    with pytest.raises(ComputeError, match="has loaded another state"):
        expert.commit_outer(given.pseudo_gradient, 1, {}, given.batches)
    expert.load(other.snapshot())
    assert expert.outer_step == 1


def test_an_anchor_that_is_not_taken_over_yet_is_before_a_newer_one() -> None:
    expert, other = overlapping(), overlapping()
    train(expert, 0)
    given = expert.contribution(goes_on=True)
    for each in (expert, other):
        each.commit_outer(given.pseudo_gradient, 1, given.int_buffers, given.batches)
    train(expert, 1)
    train(other, 2)
    commit(other)
    carried = expert.catch_up(other.snapshot())
    assert carried.kept == IntervalSet().add(1, 2)
    assert not expert._anchored.is_ahead
    assert expert.anchor_digest == other.anchor_digest


def test_ranges_widen_statistics_stay_and_counts_add_up_when_taken_over() -> None:
    layout = FlatLayout(Buffers())
    views = layout.views(mine := torch.tensor([1.0, 8.0, 2.0, 3.0, -1.0, 5.0]))
    assert set(views) == {"weight", "other", "norm.running_mean", "norm.running_var", *RANGES}
    theirs = torch.tensor([0.0, 4.0, 9.0, 9.0, -2.0, 4.0])
    layout.take_over(mine, theirs, 0.25)
    assert mine.tolist() == [1.0, 5.0, 2.0, 3.0, -2.0, 5.0]
    stage = Buffers()
    stage.norm.num_batches_tracked.fill_(7)
    taking = TakingOver(slice(0, 1), {"norm.num_batches_tracked": 9}, {})
    own = replace(taking, own_ints={"norm.num_batches_tracked": 5})
    own.apply(layout, stage, torch.zeros(6), 0.5)
    assert stage.norm.num_batches_tracked == 11


RANGES = ("range_min", "range_max")


class Buffers(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.norm = torch.nn.BatchNorm1d(1, affine=False)
        for name in ("other", *RANGES):
            self.register_buffer(name, torch.zeros(1))


def test_with_inner_state_a_snapshot_taken_over_goes_on_bit_for_bit() -> None:
    expert, resumed = overlapping(), overlapping()
    expert.keep_inner_state()
    train(expert, 0)
    fly(expert, 1, 2)
    assert not expert.snapshot().has_inner
    expert.take_over()
    resumed.load(expert.snapshot())
    assert (resumed.steps_since_anchor, resumed.book) == (2, expert.book)
    for each in (expert, resumed):
        train(each, 3, 4)
        commit(each)
    assert_same_state(state_of(expert), state_of(resumed))


def test_a_chain_of_stages_cuts_each_of_them() -> None:
    stages = [make_chain(name) for name in ("front", "back")]
    chain_step(stages, *make_batch("mlp", 0))
    for stage in stages:
        (given,) = commit(stage)
        assert 0 < given.num_coded < stage.layout.num_params


def make_chain(name):
    config = DilocoConfig(outer_steps=5, fragments=2)
    return make_expert(f"mlp.{name}", schedule=RunSchedule(config))
