"""The stash: bytes counted, budget kept, graphs measured."""

import gc
import weakref

import pytest
import torch
from torch import nn

from distqatd.base.errors import ComputeError, StepAborted
from distqatd.compute.stash import Kept, Stash, measure_graph
from tests.support.experts import make_batch, make_expert


class Canary:
    """Something that lives exactly as long as the graph node that holds it."""


def test_bytes_are_counted_in_and_out():
    stash = Stash(100)
    stash.put(1, Kept((), 0, 60))
    assert (stash.used_bytes, len(stash)) == (60, 1)
    assert stash.fits(40)
    assert not stash.fits(41)
    stash.pop(1)
    assert (stash.used_bytes, len(stash)) == (0, 0)


def test_a_microbatch_is_taken_out_once():
    stash = Stash(100)
    stash.put(1, Kept((), 0, 1))
    with pytest.raises(ComputeError, match="already"):
        stash.check_new(1)
    stash.pop(1)
    stash.check_new(1)
    with pytest.raises(StepAborted):
        stash.pop(1)


def test_clearing_forgets_everything():
    stash = Stash(100)
    stash.put(1, Kept((), 0, 60))
    stash.clear()
    assert (stash.used_bytes, len(stash)) == (0, 0)


def test_a_graph_counts_activations_once_and_no_parameters():
    module = nn.Sequential(nn.Linear(100, 50), nn.ReLU(), nn.Linear(50, 10))
    inputs = torch.randn(8, 100, requires_grad=True)
    _, nbytes = measure_graph(module, lambda: (module(inputs),))
    wanted = inputs.nbytes + 8 * 50 * 4 + 8 * 10 * 4  # input, ReLU's result, output
    assert wanted <= nbytes <= wanted + 8 * 50 * 4


def test_measuring_does_not_keep_the_graph_alive_nor_change_the_gradients():
    module = nn.Sequential(nn.Linear(4, 4), nn.Sigmoid(), nn.Softmax(1))
    inputs = torch.randn(2, 4)
    grads = []
    for run in (
        lambda: (module(inputs),),
        lambda: measure_graph(module, lambda: (module(inputs),))[0],
    ):
        module.zero_grad()
        (output,) = run()
        output.square().sum().backward()
        grads.append(module[0].weight.grad)
    assert torch.equal(*grads)
    gc.collect()
    gc.disable()
    try:
        (output,), _ = measure_graph(module, lambda: (module(inputs),))
        canary = Canary()
        output.grad_fn.metadata["canary"] = canary
        alive = weakref.ref(canary)
        del output, canary
        assert alive() is None
    finally:
        gc.enable()


def test_an_expert_keeps_graphs_up_to_its_budget_and_inputs_above_it():
    inputs = (make_batch("resnet18", 0)[0],)
    roomy = make_expert("resnet18.front")
    roomy.forward(0, inputs, 0)
    graph_bytes = roomy.stash_bytes
    tight = make_expert("resnet18.front", stash_bytes=2 * graph_bytes)
    used = []
    for number in range(4):
        tight.forward(number, inputs, 0)
        used.append(tight.stash_bytes)
    assert used[:2] == [graph_bytes, 2 * graph_bytes]
    small = used[2] - used[1]
    assert used[3] - used[2] == small
    assert inputs[0].nbytes <= small < graph_bytes / 5


def test_microbatches_beyond_the_budget_have_the_same_gradients():
    batches = [make_batch("resnet18", number)[0] for number in range(4)]
    probe = make_expert("resnet18.front")
    probe.forward(0, (batches[0],), 0)
    grads = []
    for stash_bytes in (1 << 30, 2 * probe.stash_bytes):
        expert = make_expert("resnet18.front", stash_bytes=stash_bytes)
        outputs = [expert.forward(n, (batch,), n)[0] for n, batch in enumerate(batches)]
        for number in (2, 0, 3, 1):
            expert.backward(number, (outputs[number].cos(),))
        grads.append([param.grad for param in expert.stage.parameters()])
        statistics = expert.stage.state_dict()
        grads[-1] += [
            statistics[name] for name in statistics if "running" in name or "num_" in name
        ]
    assert all(map(torch.equal, *grads))
