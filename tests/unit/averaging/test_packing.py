"""How chunks travel: the same values with and without zstd, and what rounding leaves out."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distqatd.averaging.packing import ZSTD, Packing
from distqatd.base.errors import RemoteProtocolError
from distqatd.optim.codecs import CODEC_NAMES, codec
from distqatd.wire.payload import TensorSpec, WireTensor


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(CODEC_NAMES), st.booleans(), st.integers(1, 3000), st.integers(0, 99))
def test_values_come_back_as_the_codec_rounds_them(name, compressed, size, seed) -> None:
    values = torch.randn(size, generator=torch.Generator().manual_seed(seed)) * 1e-3
    packing, rest = Packing(codec(name), compressed), torch.empty(size)
    tensor = packing.pack("values", values, rest)
    again = Packing(codec(name)).unpack(tensor, size)
    assert torch.equal(again, codec(name).decode(codec(name).encode(values), size))
    assert torch.equal(rest, values - again)
    assert tensor.spec.nbytes == len(tensor.data) <= codec(name).num_bytes(size)


@pytest.mark.parametrize(("name", "share"), [("bf16", 0.8), ("fp32", 0.95)])
def test_compression_makes_gradients_smaller(name: str, share: float) -> None:
    values = torch.randn(65_536, generator=torch.Generator().manual_seed(0)) * 1e-3
    tensor = Packing(codec(name), compressed=True).pack("values", values)
    assert tensor.spec.codec == ZSTD
    assert tensor.spec.nbytes < share * codec(name).num_bytes(65_536)


@pytest.mark.parametrize("name", CODEC_NAMES)
def test_hostile_bytes_are_refused(name: str) -> None:
    packing = Packing(codec(name), compressed=True)
    for junk in (b"", b"junk", bytes(40)):
        spec = TensorSpec("values", "uint8", (len(junk),), len(junk), ZSTD)
        with pytest.raises(RemoteProtocolError):
            packing.unpack(WireTensor(spec, memoryview(junk)), 100)
