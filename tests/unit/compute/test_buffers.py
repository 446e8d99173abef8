"""Buffers as one state."""

import torch
from torch import nn

from distqatd.compute.buffers import BufferState


def network():
    made = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    made.register_buffer("table", torch.ones(2), persistent=False)
    return made


def test_restoring_undoes_forwards():
    module = network()
    state = BufferState(module)
    saved = state.save()
    module(torch.randn(4, 3) + 5)
    moved = module[1].running_mean.clone()
    state.restore(saved)
    assert module[1].num_batches_tracked == 0
    assert not torch.equal(module[1].running_mean, moved)
    assert torch.equal(module[1].running_mean, torch.zeros(3))


def test_constant_tables_are_not_copied():
    assert len(BufferState(network()).save()) == 3


def test_swapped_buffers_take_the_changes_and_the_real_ones_stay():
    module = network()
    state = BufferState(module)
    own = module[1].running_mean
    saved = state.save()
    with state.swapped(saved):
        module(torch.randn(4, 3) + 5)
        assert module[1].running_mean is not own
    assert module[1].running_mean is own
    assert torch.equal(own, torch.zeros(3))
    assert torch.equal(saved[0], torch.zeros(3))
    assert "1.running_mean" in module.state_dict()
