"""Codecs keep their stated error bound for any finite input and decode to the same bits."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distqatd.base.errors import ConfigError, RemoteProtocolError
from distqatd.optim.codecs import CODEC_NAMES, codec

finite = st.floats(width=32, allow_nan=False, allow_infinity=False, allow_subnormal=True)
small_blocks = st.sampled_from([2, 4, 16])
names = pytest.mark.parametrize("name", CODEC_NAMES)


@st.composite
def vectors(draw) -> list[float]:
    """Values of any size, mixed with runs of one magnitude, as gradients have them."""
    scale = draw(st.sampled_from([1.0, 1e-3, 1e-30, 1e-44, 1e30, 3e38]))
    ordinary = st.floats(-1.0, 1.0, width=32).map(lambda value: value * scale)
    return draw(st.lists(st.one_of(finite, ordinary), max_size=40))


@names
@settings(max_examples=200, deadline=None)
@given(values=vectors(), block_size=small_blocks)
def test_a_decoded_value_is_within_the_stated_bound(name, values, block_size):
    one = codec(name, block_size)
    flat = torch.tensor(values, dtype=torch.float32)
    encoded = one.encode(flat)
    decoded = one.decode(encoded, len(values))
    assert encoded.nbytes == one.num_bytes(len(values))
    assert decoded.dtype == torch.float32
    assert decoded.shape == flat.shape
    assert bool(decoded.isfinite().all())
    error = (decoded.double() - flat.double()).abs()
    assert bool((error <= one.bound(flat)).all()), (flat, decoded)


@names
@settings(max_examples=200, deadline=None)
@given(values=vectors(), block_size=small_blocks)
def test_an_encoding_of_a_decoding_is_the_same_bytes(name, values, block_size):
    one = codec(name, block_size)
    encoded = one.encode(torch.tensor(values, dtype=torch.float32))
    again = one.encode(one.decode(encoded, len(values)))
    assert torch.equal(encoded.view(torch.uint8), again.view(torch.uint8))


@names
def test_the_bound_says_what_the_codec_is_good_for(name):
    flat = torch.randn(100_000, generator=torch.Generator().manual_seed(0))
    relative = float(codec(name).bound(flat).norm() / flat.norm())
    assert relative <= {"fp32": 0, "fp16": 5e-4, "bf16": 4e-3, "int8": 0.02, "int4": 0.3}[name]


@names
def test_zeros_stay_zeros_and_nothing_is_nothing(name):
    one = codec(name)
    assert torch.equal(one.decode(one.encode(torch.zeros(5)), 5), torch.zeros(5))
    assert one.decode(one.encode(torch.zeros(0)), 0).shape == (0,)


@pytest.mark.parametrize(("name", "share"), [("fp16", 0.5), ("int8", 0.251), ("int4", 0.127)])
def test_an_encoding_is_as_small_as_its_name_says(name, share):
    assert codec(name).num_bytes(1 << 20) <= share * (4 << 20)


@names
@pytest.mark.parametrize("change", [-1, 1])
def test_bytes_of_another_length_are_refused(name, change):
    one = codec(name)
    encoded = one.encode(torch.ones(100))
    wrong = torch.zeros(encoded.numel() + change, dtype=encoded.dtype)
    with pytest.raises(RemoteProtocolError, match="100 values"):
        one.decode(wrong, 100)


@names
def test_any_bytes_of_the_right_length_decode(name):
    """What a peer sends may be nonsense, but is never an exception of another kind."""
    one = codec(name)
    generator = torch.Generator().manual_seed(1)
    for num_values in (1, 2, 7, 257, 1025):
        raw = torch.randint(
            0, 256, (one.num_bytes(num_values),), dtype=torch.uint8, generator=generator
        )
        assert one.decode(raw.view(one.dtype), num_values).shape == (num_values,)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@names
def test_a_gpu_encodes_to_the_same_bytes(name):
    flat = torch.randn(5000, generator=torch.Generator().manual_seed(0))
    one = codec(name)
    there = one.encode(flat.cuda())
    assert torch.equal(there.cpu().view(torch.uint8), one.encode(flat).view(torch.uint8))
    assert torch.equal(one.decode(there, 5000).cpu(), one.decode(one.encode(flat), 5000))


def test_fp32_shares_memory():
    flat = torch.ones(4)
    assert codec("fp32").encode(flat).data_ptr() == flat.data_ptr()


def test_an_unknown_codec_is_a_config_error_that_lists_those_there_are():
    with pytest.raises(ConfigError, match="fp32, fp16, bf16, int8, int4"):
        codec("int3")


def test_an_odd_block_size_is_refused():
    with pytest.raises(ConfigError, match="blocks of 3"):
        codec("int8", 3)
