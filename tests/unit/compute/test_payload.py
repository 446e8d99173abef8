"""Tensors as wire bytes, zero copies where memory allows."""

import pytest
import torch

from distqatd.base.errors import LocalProtocolError, RemoteProtocolError
from distqatd.compute.payload import from_wire, to_wire, torch_sink
from distqatd.wire.payload import DTYPES, TensorSpec, WireTensor, spec_fault


@pytest.mark.parametrize("dtype", sorted(DTYPES))
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 3), (2, 3, 4)])
def test_every_dtype_and_shape_survives(dtype, shape):
    tensor = torch.randint(0, 2, shape).to(getattr(torch, dtype))
    wire = to_wire("x", tensor)
    assert spec_fault(wire.spec) is None
    assert wire.data.nbytes == wire.spec.nbytes
    back = from_wire(wire)
    assert back.dtype == tensor.dtype
    assert back.shape == tensor.shape
    assert torch.equal(back, tensor)


def test_a_contiguous_tensor_is_not_copied_on_either_side():
    tensor = torch.zeros(4)
    back = from_wire(to_wire("x", tensor))
    tensor[0] = 5
    assert back[0] == 5


def test_a_strided_tensor_and_one_that_requires_grad_travel():
    tensor = torch.arange(6.0).view(2, 3).t().requires_grad_()
    assert torch.equal(from_wire(to_wire("x", tensor)), tensor.detach())


def test_the_wire_keeps_the_memory_alive():
    wire = to_wire("x", torch.full((1000,), 7.0))
    assert bool((from_wire(wire) == 7).all())


@pytest.mark.parametrize("shape", [(0,), (), (5, 2)])
def test_what_is_received_into_a_sink_is_a_tensor_without_a_copy(shape):
    sent = to_wire("x", torch.randn(shape))
    memory = torch_sink(sent.spec)
    memory[:] = sent.data
    received = from_wire(WireTensor(sent.spec, memory))
    assert torch.equal(received, from_wire(sent))
    if memory.nbytes:
        memory[:] = bytes(memory.nbytes)
        assert not received.any()


def test_read_only_bytes_are_copied_so_that_nobody_writes_through_them():
    data = bytes(8)
    received = from_wire(WireTensor(TensorSpec("x", "float32", (2,), 8), memoryview(data)))
    received.fill_(1)
    assert data == bytes(8)


def test_bytes_at_an_odd_offset_are_read_right():
    values = torch.arange(3.0)
    data = bytearray(b"x") + bytearray(to_wire("x", values).data)
    wire = WireTensor(TensorSpec("x", "float32", (3,), 12), memoryview(data)[1:])
    assert torch.equal(from_wire(wire) + 0, values)


@pytest.mark.parametrize(
    "spec",
    [
        TensorSpec("x", "float32", (3,), 8),
        TensorSpec("x", "complex64", (1,), 8),
        TensorSpec("x", "float32", (2,), 8, codec="zstd"),
    ],
)
def test_bytes_that_do_not_fit_their_description_blame_the_peer(spec):
    with pytest.raises(RemoteProtocolError, match="'x'"):
        from_wire(WireTensor(spec, memoryview(bytearray(8))))


def test_a_dtype_that_may_not_travel_is_refused():
    with pytest.raises(LocalProtocolError, match="complex64"):
        to_wire("x", torch.zeros(1, dtype=torch.complex64))
