import math

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distqatd.base.errors import LocalProtocolError, RemoteProtocolError
from distqatd.wire import limits
from distqatd.wire.payload import (
    DTYPES,
    Message,
    TensorSpec,
    WireTensor,
    check_message,
    pack_body,
    spec_fault,
    unpack_body,
)

scalars = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text() | st.binary()
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@settings(max_examples=100)
@given(st.dictionaries(st.text(), values, max_size=5))
def test_a_body_comes_back_as_it_was(body):
    assert unpack_body(pack_body(body)) == body


@settings(max_examples=200)
@given(st.binary(max_size=200))
def test_any_bytes_are_a_body_or_a_typed_refusal(data):
    try:
        body = unpack_body(data)
    except RemoteProtocolError:
        return
    assert isinstance(body, dict)


@given(st.sampled_from(sorted(DTYPES)), st.lists(st.integers(0, 9), max_size=8))
def test_a_consistent_description_has_no_fault(dtype, shape):
    nbytes = math.prod(shape) * DTYPES[dtype]
    assert spec_fault(TensorSpec("x", dtype, tuple(shape), nbytes)) is None
    assert spec_fault(TensorSpec("x", dtype, tuple(shape), nbytes + 1)) is not None


@pytest.mark.parametrize(
    "spec",
    [
        TensorSpec("x", "object", (1,), 8),
        TensorSpec("x", "float32", (1,) * 9, 4),
        TensorSpec("x", "float32", (-1, -1), 4),
        TensorSpec("x", "float32", (0, 1 << 50), 0),
        TensorSpec("x" * 300, "float32", (1,), 4),
        TensorSpec("x", "float32", (1,), 4, codec="c" * 300),
        TensorSpec("x", "uint8", ((1 << 40) + 1,), (1 << 40) + 1),
    ],
)
def test_a_bad_description_has_a_fault(spec):
    assert spec_fault(spec) is not None


def nested(depth):
    value = {}
    for _ in range(depth):
        value = {"a": value}
    return value


@pytest.mark.parametrize(
    "data",
    [
        b"\xc1",
        b"\x93\x01\x02\x03",
        msgpack.packb(nested(limits.MAX_DEPTH + 1)),
        b"\x81\xa1a" * 5000 + b"\x01",
        msgpack.packb({"a": [[[]] * 10000, [[]] * 10000]}),
        msgpack.packb({"a": msgpack.Timestamp(1, 2)}),
        msgpack.packb({"a": msgpack.ExtType(3, b"x")}),
        msgpack.packb({b"a": 1}),
        msgpack.packb({1: 1}),
        msgpack.packb({"a": 1}) + b"\x00",
    ],
    ids=range(10),
)
def test_a_body_out_of_bounds_is_refused(data):
    with pytest.raises(RemoteProtocolError):
        unpack_body(data)


def test_what_may_not_travel_is_our_own_fault():
    with pytest.raises(LocalProtocolError, match="cannot be encoded"):
        pack_body({"a": object()})
    with pytest.raises(LocalProtocolError, match="send it as a tensor"):
        pack_body({"a": bytes(limits.MAX_PAYLOAD_BYTES)})


def test_a_tensor_must_fit_its_description_before_it_is_sent():
    spec = TensorSpec("x", "float32", (2,), 8)
    check_message(Message({}, (WireTensor(spec, memoryview(bytes(8))),)))
    with pytest.raises(LocalProtocolError, match="buffer has 4 bytes"):
        check_message(Message({}, (WireTensor(spec, memoryview(bytes(4))),)))
    with pytest.raises(LocalProtocolError, match="1025 tensors"):
        check_message(Message({}, (WireTensor(spec, memoryview(bytes(8))),) * 1025))
