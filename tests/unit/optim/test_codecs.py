"""Codecs keep their stated error bound and decode to the same bits everywhere."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distqatd.base.errors import ConfigError
from distqatd.optim.codecs import CODECS, codec

finite = st.floats(
    width=32, allow_nan=False, allow_infinity=False, min_value=-(2.0**120), max_value=2.0**120
)


@pytest.mark.parametrize("name", sorted(CODECS))
@settings(max_examples=100, deadline=None)
@given(values=st.lists(finite, max_size=50))
def test_a_decoded_value_is_within_the_stated_bound(name, values):
    one = codec(name)
    flat = torch.tensor(values, dtype=torch.float32)
    decoded = one.decode(one.encode(flat))
    # Subnormal values have fewer bits; their error is absolute.
    limit = flat.abs() * one.error_bound + 2.0**-133
    assert decoded.dtype == torch.float32
    assert bool(((decoded - flat).abs() <= limit).all())
    if one.error_bound == 0:
        assert torch.equal(decoded, flat)


@pytest.mark.parametrize("name", sorted(CODECS))
def test_an_encoding_of_a_decoding_is_the_same_bits(name):
    one = codec(name)
    encoded = one.encode(torch.randn(1000, generator=torch.Generator().manual_seed(0)))
    again = one.encode(one.decode(encoded))
    assert torch.equal(encoded.view(torch.uint8), again.view(torch.uint8))
    assert encoded.dtype == one.dtype


def test_fp32_shares_memory():
    flat = torch.ones(4)
    assert codec("fp32").encode(flat).data_ptr() == flat.data_ptr()


def test_an_unknown_codec_is_a_config_error_that_lists_those_there_are():
    with pytest.raises(ConfigError, match="fp32, bf16"):
        codec("int3")
