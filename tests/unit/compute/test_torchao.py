"""A quantised model as torchao's tensors: which layers there are, and that outputs are the same."""

import sys
import warnings

import pytest
import torch
from torch import nn

from distqatd.base.errors import CheckpointError
from distqatd.compute.stages import build_whole_model
from distqatd.compute.torchao import _block, _weight_obstacle, convert, flatten
from distqatd.quant.grouping import Grouping
from tests.support.experts import make_batch
from tests.unit.compute.test_stages import config_of


@pytest.mark.parametrize(
    ("shape", "granularity", "block"),
    [
        ((6, 8), "tensor", (6, 8)),
        ((6, 8), "channel", (1, 8)),
        ((6, 8), "group", (1, 4)),
        ((6, 10), "group", None),
        ((6, 3, 5, 5), "channel", (1, 3, 5, 5)),
        ((6, 8, 1, 1), "group", (1, 4, 1, 1)),
        ((6, 8, 3, 3), "group", None),
    ],
)
def test_a_block_is_what_shares_a_step(shape, granularity, block):
    grouping = Grouping(shape, granularity, 0, 4)
    assert _block(grouping) == block
    if block is not None:
        weight = torch.arange(float(torch.Size(shape).numel())).view(shape)
        first = weight[tuple(slice(0, size) for size in block)]
        assert torch.equal(grouping.split(weight)[0], first.flatten())


def test_layers_that_torchao_has_nothing_for_are_told():
    fine, odd = Grouping((6, 8), "channel"), Grouping((6, 10), "group", 0, 4)
    assert _weight_obstacle(nn.Linear(8, 6), fine) is None
    assert "Conv1d" in _weight_obstacle(nn.Conv1d(8, 6, 1), fine)
    assert "groups of 4" in _weight_obstacle(nn.Linear(10, 6), odd)


def test_without_torchao_the_error_says_how_to_get_it(monkeypatch):
    support = "torchao.prototype.safetensors.safetensors_support"
    for name in ("torchao", "torchao.quantization", support):
        monkeypatch.setitem(sys.modules, name, None)
    model = build_whole_model(config_of("mlp", quant={"weights": {"bits": 4}}))
    with pytest.raises(CheckpointError, match=r"fix: pip install 'distqat\[torchao\]'"):
        convert(model)
    with pytest.raises(CheckpointError, match=r"distqat\[torchao\]"):
        flatten({})


@pytest.fixture(scope="module")
def unflatten():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("torchao")
        from torchao.prototype.safetensors import safetensors_support

        return safetensors_support.unflatten_tensor_state_dict


def through_a_file(converted, unflatten):
    """Return the state as who has torchao, but nothing of ours, reads it."""
    tensors, metadata = flatten(converted.state)
    assert all(type(tensor) is torch.Tensor for tensor in tensors.values())
    state, rest = unflatten(tensors, metadata)
    assert rest == {}
    return state


def trained(family, quant):
    """Return a quantised model that has taken a step, and the same model without quantizers."""
    model = build_whole_model(config_of(family, quant=quant))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    model.train()(make_batch(family, 0)[0])[0].square().mean().backward()
    optimizer.step()
    return model.eval(), build_whole_model(config_of(family, quant={})).eval()


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("granularity", ["tensor", "channel", "group"])
@pytest.mark.parametrize("family", ["mlp", "resnet18", "gpt2"])
def test_plain_layers_with_torchaos_weights_have_the_outputs_of_training(
    unflatten, family, bits, granularity
):
    quant = {"weights": {"bits": bits, "granularity": granularity, "group_size": 4}}
    model, plain = trained(family, quant)
    converted = convert(model)
    state = through_a_file(converted, unflatten)
    own = {name: state[plain.global_name(name)] for name in plain.state_dict()}
    plain.requires_grad_(False).load_state_dict(own, assign=True)
    inputs = make_batch(family, 3)[0]
    assert torch.equal(plain(inputs)[0], model(inputs)[0])
    kinds = {name: type(tensor).__name__ for name, tensor in state.items()}
    taken = {name for name, kind in kinds.items() if kind == "IntxUnpackedToInt8Tensor"}
    assert taken
    assert not taken & {f"{name}.weight" for name in converted.left}


def test_what_could_not_be_taken_is_told_by_module(unflatten):
    quant = {"weights": {"bits": 4}, "activations": {"bits": 8}}
    model, _ = trained("gpt2", quant)
    left = convert(model).left
    conv1d, inputs = left["transformer.h.0.attn.c_attn"]
    assert "torchao has no Conv1D" in conv1d
    assert "inputs are not rounded" in inputs
    assert left["lm_head"] == (inputs,)
    assert "transformer.wte" not in left
