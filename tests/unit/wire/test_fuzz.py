"""Hostile bytes: nothing but RemoteProtocolError comes out, and memory stays bounded.

DISTQAT_FUZZ_CASES raises the number of cases (500_000 takes some minutes).
"""

import os
import random
import struct
import tracemalloc
from typing import get_args

import msgpack

from distqatd.base.errors import RemoteProtocolError
from distqatd.wire import limits
from distqatd.wire.budget import Budget
from distqatd.wire.events import Event
from distqatd.wire.frame import MAGIC, PREFIX, FrameType, encode_frame
from distqatd.wire.messages import (
    Failure,
    data_frame,
    failure_frame,
    number_frame,
    request_frame,
    response_frame,
)
from distqatd.wire.session import Session
from tests.support.links import feed, head_of, message_of

CASES = int(os.environ.get("DISTQAT_FUZZ_CASES", "4000"))
BUDGET_BYTES = 1 << 20
HELLO = encode_frame(FrameType.HELLO, 0, msgpack.packb({"peer_id": "x"}))


def random_value(rng, depth=0):
    plain = [
        lambda: rng.choice([0, 1, -1, 2**31, 2**63, 2**64 - 1, -(2**63)]),
        lambda: rng.choice(["", "m", "float32", "raw", "x" * 300]),
        lambda: rng.randbytes(rng.randrange(20)),
        lambda: rng.choice([None, True, 1.5, float("nan")]),
        lambda: msgpack.ExtType(rng.randrange(127), rng.randbytes(3)),
        lambda: msgpack.Timestamp(rng.randrange(2**32), 0),
    ]
    nested = [
        lambda: {random_key(rng): random_value(rng, depth + 1) for _ in range(rng.randrange(4))},
        lambda: [random_value(rng, depth + 1) for _ in range(rng.randrange(6))],
    ]
    return rng.choice(plain + nested * 2 if depth < 3 else plain)()


def random_key(rng):
    return rng.choice(["a", "tensors", 1, b"k", None])


def random_spec(rng):
    shape = [rng.choice([0, 1, 3, 1 << 20, 1 << 45, -1]) for _ in range(rng.randrange(4))]
    nbytes = rng.choice([0, 4, 12, 1 << 20, 1 << 45])
    return [rng.choice(["x", 1]), rng.choice(["float32", "int8", "O"]), shape, nbytes, "raw"]


def random_request(rng, stream):
    message = message_of(bytes(rng.choice([0, 9, 30])), bytes(rng.choice([0, 0, 3])))
    return request_frame(stream, head_of(message), rng.choice([b"", b"\x80", b"\xc1"]))


def random_whole_request(rng, stream):
    data = random_request(rng, stream)
    return data + rng.choice([b"", encode_frame(FrameType.CANCEL, stream)])


def random_failure(rng, stream):
    kind, number = rng.choice([(FrameType.ERROR, stream), (FrameType.GOAWAY, 0)])
    return failure_frame(kind, number, Failure("closed", "x"))


def random_data(rng, stream):
    size = rng.choice([1, 9, 20])
    return data_frame(stream, rng.choice([0, 0, 9, 20]), size) + rng.randbytes(size)


def random_response(rng, stream):
    specs = [t.spec for t in message_of(bytes(9)).tensors]
    return response_frame(2, specs, rng.choice([b"", b"\x80"])) + rng.choice(
        [b"", data_frame(2, 0, 9) + bytes(9) + encode_frame(FrameType.END, 2)]
    )


def random_specs(rng, stream):
    header = msgpack.packb(["m", 1, 0, 0, [random_spec(rng) for _ in range(2)], False])
    return encode_frame(FrameType.REQUEST, stream, header)


def random_header(rng, stream):
    header = msgpack.packb(random_value(rng), strict_types=False)
    return encode_frame(rng.choice(list(FrameType)), stream, header)


def random_prefix(rng, stream):
    lengths = rng.choice([0, 5, 65535]), rng.choice([0, 9, 1 << 20, 1 << 31])
    return PREFIX.pack(MAGIC, 1, rng.randrange(14), 0, *lengths, stream)


def random_number(rng, stream):
    kind = rng.choice([FrameType.PING, FrameType.PONG, FrameType.WINDOW])
    return number_frame(kind, rng.choice([0, stream]), rng.choice([0, 5, 2**50]))


def random_end(rng, stream):
    return encode_frame(rng.choice([FrameType.END, FrameType.CANCEL]), stream)


def random_frame(rng):
    stream = rng.choice([0, 1, 1, 1, 2, 2, 3, 5, 2**32 - 1])
    makers = [random_request, random_data, random_response, random_specs, random_header]
    makers += [random_prefix, random_number, random_end, random_whole_request, random_failure]
    makers += [lambda rng, stream: rng.randbytes(rng.randrange(60))]
    return rng.choice(makers)(rng, stream)


def mutate(rng, data):
    data = bytearray(data)
    for _ in range(rng.choice([0, 0, 1, 3])):
        if data:
            data[rng.randrange(len(data))] = rng.randrange(256)
    if rng.random() < 0.1:
        at = rng.randrange(len(data) + 1)
        data[at:at] = struct.pack("<I", rng.randrange(2**32))
    if rng.random() < 0.1:
        del data[rng.randrange(len(data) + 1) :]
    return bytes(data)


def attack(rng, budget):
    """Feed one hostile byte stream to a session that has requests of its own open."""
    session = Session("peer", dialer=False, budget=budget, admit=lambda head, size: None)
    events = []
    try:
        feed(session, HELLO if rng.random() < 0.95 else b"", events)
        for _ in range(2):
            session.request(head_of(message_of()), message_of(), None)
        while session.next_buffers():
            pass
        for _ in range(rng.randrange(1, 12)):
            feed(session, mutate(rng, random_frame(rng)), events)
            while session.next_buffers():
                pass
    except RemoteProtocolError:
        pass
    finally:
        assert budget.used_bytes <= BUDGET_BYTES
        for event in events:
            if hasattr(event, "reservation"):
                event.reservation.release()
        session.close()
    assert budget.used_bytes == 0
    return {type(event) for event in events}


def test_hostile_bytes_raise_only_the_typed_error_and_take_bounded_memory():
    budget, reached = Budget(BUDGET_BYTES, BUDGET_BYTES), set()
    for seed in range(CASES):
        if seed == 200:
            tracemalloc.start()
        try:
            reached |= attack(random.Random(seed), budget)
        except Exception as error:
            raise AssertionError(f"fuzz case {seed}") from error
        if seed == 600:
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            # Scratch, one payload, the budget, and what a header may unfold to.
            assert peak < 8 * limits.MIB
    assert reached == set(get_args(Event))  # the attacks get deep enough
