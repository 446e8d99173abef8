"""Integers as bytes, and files that are not what they say."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from distqatd.base.errors import CheckpointError
from distqatd.config.quant import QuantConfig, WeightQuantConfig
from distqatd.models.gpt2 import Conv1D
from distqatd.quant.levels import signed_range
from distqatd.quant.packed import PackedForm, PackedWeight, bake, set_packed_weight
from distqatd.quant.packing import pack, packed_bytes, unpack
from distqatd.quant.prepare import quantise, weight_quantizer


@given(st.integers(2, 8), st.integers(0, 70), st.integers(0, 1000))
def test_packing_is_undone_and_takes_no_bit_too_many(bits, size, seed):
    low, high = signed_range(bits)
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(low, high + 1, (size,), generator=generator).to(torch.int8)
    packed = pack(codes, bits)
    assert packed.numel() == packed_bytes(size, bits) == -(-size // 8) * bits
    assert torch.equal(unpack(packed, bits, size), codes)


def test_the_first_integer_is_in_the_lowest_bits():
    assert pack(torch.tensor([1, -2, -2, -2]), 2).tolist() == [0b00000011, 0]


@pytest.mark.parametrize("packed", [torch.zeros(3, dtype=torch.uint8), torch.zeros(4)])
def test_bytes_that_are_missing_are_an_error(packed):
    with pytest.raises(CheckpointError):
        unpack(packed, 4, 8)


FORM = {"bits": 4, "shape": [6, 5], "granularity": "group", "axis": 0, "group_size": 4}


@pytest.mark.parametrize(
    "change",
    [
        {"bits": 9},
        {"bits": True},
        {"shape": []},
        {"shape": [6, -5]},
        {"shape": [1 << 60, 1 << 60]},
        {"axis": 2},
        {"axis": -1},
        {"group_size": 0},
        {"granularity": "row"},
        {"granularity": ["row"]},
        {"more": 1},
    ],
)
def test_hostile_forms_are_refused(change):
    assert PackedForm.read(FORM).num_codes == 6 * 8
    with pytest.raises(CheckpointError):
        PackedForm.read({**FORM, **change})
    with pytest.raises(CheckpointError):
        PackedForm.read([change])


def quantised_layer():
    layer = nn.Linear(5, 6)
    weights = WeightQuantConfig(bits=3, granularity="group", group_size=4)
    quantise([("layer", layer)], QuantConfig(weights=weights), "full")
    return layer, bake(layer, weight_quantizer(layer))


def test_a_packed_layer_computes_the_same_with_its_integers():
    layer, packed = quantised_layer()
    other = nn.Linear(5, 6)
    other.bias = layer.bias
    set_packed_weight(other, packed)
    values = torch.randn(3, 5)
    assert torch.equal(other(values), layer(values))
    assert packed.codes.nbytes == 6 * 8 * 3 // 8
    assert not any(parameter.ndim == 2 for parameter in other.parameters())


LAYERS = {
    "Linear": (lambda: nn.Linear(5, 6), (3, 5)),
    "Conv1d": (lambda: nn.Conv1d(4, 6, 3, padding=1, groups=2), (3, 4, 7)),
    "Conv2d": (lambda: nn.Conv2d(2, 6, (3, 2), stride=2), (3, 2, 8, 8)),
    "Conv1D": (lambda: Conv1D(5, 6, 0.1), (3, 5)),
    "Embedding": (lambda: nn.Embedding(6, 5), None),
}


@pytest.mark.parametrize("granularity", ["tensor", "channel", "group"])
@pytest.mark.parametrize("kind", LAYERS)
def test_every_class_of_layer_is_rounded_and_computes_the_same_with_its_integers(kind, granularity):
    make, shape = LAYERS[kind]
    layer, other = make(), make()
    other.load_state_dict(layer.state_dict())
    inputs = torch.randn(shape) if shape else torch.arange(6)
    exact = layer(inputs)
    weights = WeightQuantConfig(bits=2, granularity=granularity, group_size=4)
    quantise([("layer", layer)], QuantConfig(weights=weights), "full")
    set_packed_weight(other, bake(layer, weight_quantizer(layer)))
    assert not torch.allclose(layer(inputs), exact)
    assert torch.equal(other(inputs), layer(inputs))


@pytest.mark.parametrize("what", ["shape", "step", "codes"])
def test_a_packed_weight_must_fit_its_module(what):
    _, packed = quantised_layer()
    wrong = {
        "shape": (nn.Linear(6, 5), packed),
        "step": (nn.Linear(5, 6), PackedWeight(packed.form, packed.codes, packed.step[1:])),
        "codes": (nn.Linear(5, 6), PackedWeight(packed.form, packed.codes[1:], packed.step)),
    }
    with pytest.raises(CheckpointError):
        set_packed_weight(*wrong[what])
