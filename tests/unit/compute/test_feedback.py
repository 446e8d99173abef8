"""Error feedback: what a codec leaves out of one round is in the next one, and never twice."""

import pytest
import torch

from distqatd.averaging.packing import Packing
from distqatd.base.errors import CheckpointError
from distqatd.compute.feedback import NAME, ErrorFeedback
from distqatd.optim.codecs import codec
from tests.support.experts import make_expert


def test_over_many_rounds_all_is_delivered_but_for_one_rest() -> None:
    generator = torch.Generator().manual_seed(0)
    gradient = torch.randn(512, generator=generator) * torch.logspace(-4, 0, 512)
    packing, feedback = Packing(codec("int4", 64)), ErrorFeedback(512)
    delivered = torch.zeros(512)
    for _ in range(40):
        values, rest = gradient.clone(), torch.empty(512)
        feedback.add_to(values)
        delivered += packing.unpack(packing.pack("values", values, rest), 512)
        feedback.settle(rest)
    plain = packing.unpack(packing.pack("values", gradient), 512) * 40
    error, without = (delivered - 40 * gradient).norm(), (plain - 40 * gradient).norm()
    assert error < without / 20


def trained(steps: int = 1):
    expert = make_expert("mlp.full")
    for _ in range(steps):
        step(expert)
    return expert


def step(expert) -> None:
    for param in expert.stage.parameters():
        param.data += 0.01
    expert._tally.applied(4, None)


def test_a_rest_is_in_every_contribution_until_a_round_commits() -> None:
    expert = trained()
    first = expert.contribution()
    rest = torch.full((first.num_coded,), 0.5)
    mean = first.pseudo_gradient.clone()
    expert.commit_outer(mean, 1, first.int_buffers, rest=rest)
    for _ in range(2):  # the first of these rounds aborts
        again = expert.contribution().pseudo_gradient[: first.num_coded]
        assert torch.equal(again, rest)
    expert.commit_outer(mean, 2, first.int_buffers)
    assert not expert.contribution().pseudo_gradient[: first.num_coded].any()


def test_a_state_from_elsewhere_has_no_rest_and_a_checkpoint_of_ones_own_has() -> None:
    expert = trained()
    expert.keep_inner_state()
    mine = expert.contribution()
    rest = torch.full((mine.num_coded,), 0.5)
    expert.commit_outer(mine.pseudo_gradient, 1, mine.int_buffers, rest=rest)
    snapshot = expert.snapshot()
    assert NAME not in snapshot.committed().tensors
    restored, joiner = make_expert("mlp.full"), make_expert("mlp.full")
    restored.load(snapshot)
    joiner.load(snapshot.committed())
    assert torch.equal(restored.contribution().pseudo_gradient[: mine.num_coded], rest)
    assert not joiner.contribution().pseudo_gradient[: mine.num_coded].any()


def test_a_rest_of_another_stage_is_refused() -> None:
    with pytest.raises(CheckpointError, match="rest"):
        ErrorFeedback(3).read({NAME: torch.zeros(4)})
