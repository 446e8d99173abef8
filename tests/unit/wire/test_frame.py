import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distqatd.base.errors import RemoteProtocolError
from distqatd.wire import limits
from distqatd.wire.frame import MAGIC, PREFIX, FrameDecoder, FrameType, encode_frame
from distqatd.wire.messages import (
    Failure,
    data_frame,
    failure_frame,
    number_frame,
    request_frame,
    response_frame,
)
from tests.support.links import head_of, message_of

frames = st.one_of(
    st.builds(lambda n: number_frame(FrameType.PING, 0, n), st.integers(0, 2**60)),
    st.builds(
        lambda body: request_frame(3, head_of(message_of(b"abc")), body), st.binary(max_size=300)
    ),
    st.builds(lambda body: response_frame(4, [], body), st.binary(max_size=300)),
    st.builds(lambda data: data_frame(5, 7, len(data)) + data, st.binary(min_size=1)),
    st.just(encode_frame(FrameType.END, 9)),
    st.just(failure_frame(FrameType.GOAWAY, 0, Failure("closed", "bye"))),
)


def decode(parts, place=lambda frame: None):
    decoder = FrameDecoder(place)
    return [
        (frame.kind, frame.stream, frame.head, bytes(frame.payload))
        for part in parts
        for frame in decoder.feed(part)
    ]


@settings(max_examples=150)
@given(st.lists(frames, min_size=1, max_size=5), st.data())
def test_frames_are_the_same_however_the_bytes_are_split(encoded, data):
    joined = b"".join(encoded)
    cuts = data.draw(st.lists(st.integers(0, len(joined)), max_size=8).map(sorted))
    parts = [joined[a:b] for a, b in zip([0, *cuts], [*cuts, len(joined)], strict=True)]
    whole = decode([joined])
    assert decode(parts) == whole
    assert len(whole) == len(encoded)


def test_every_single_split_of_one_message_decodes():
    data = data_frame(5, 7, 3) + b"xyz" + encode_frame(FrameType.END, 5)
    for cut in range(len(data) + 1):
        kinds = [frame[0] for frame in decode([data[:cut], data[cut:]])]
        assert kinds == [FrameType.DATA, FrameType.END]


def test_a_large_payload_lands_in_the_place_it_was_given():
    target = bytearray(limits.MAX_PAYLOAD_BYTES)
    payload = bytes(range(256)) * 4096
    decoder = FrameDecoder(lambda frame: memoryview(target))
    got = list(decoder.feed(data_frame(1, 0, len(payload)) + payload))
    assert len(got) == 1
    assert target == payload
    assert got[0].payload.obj is target


def test_a_payload_can_be_sent_elsewhere_while_it_arrives():
    target = bytearray(1 << 20)
    decoder = FrameDecoder(lambda frame: memoryview(target))
    list(decoder.feed(data_frame(1, 0, 1 << 20) + bytes([1]) * 200_000))
    decoder.discard_payload()
    got = list(decoder.feed(bytes([2]) * ((1 << 20) - 200_000)))
    assert len(got) == 1
    assert 2 not in target


def prefix(magic=MAGIC, version=1, kind=9, flags=0, header=1, payload=0, stream=0):
    return PREFIX.pack(magic, version, kind, flags, header, payload, stream)


@pytest.mark.parametrize(
    "data",
    [
        prefix(magic=0x1234),
        prefix(version=2),
        prefix(kind=0),
        prefix(kind=12),
        prefix(flags=1),
        prefix(kind=FrameType.DATA, payload=limits.MAX_PAYLOAD_BYTES + 1, stream=1),
        prefix(kind=FrameType.DATA, payload=0, stream=1),
        prefix(kind=FrameType.PING, payload=1),
        prefix(kind=FrameType.PING, header=0),
        prefix(kind=FrameType.END, header=1, stream=1),
        prefix(kind=FrameType.PING, stream=1),
        prefix(kind=FrameType.REQUEST, stream=0),
        prefix() + b"\xc1",
    ],
    ids=range(13),
)
def test_a_frame_out_of_the_rules_is_refused_by_its_prefix(data):
    with pytest.raises(RemoteProtocolError):
        decode([data])


def test_memory_stays_bounded_before_a_header_is_complete():
    decoder = FrameDecoder(lambda frame: None)
    list(decoder.feed(prefix(kind=FrameType.HELLO, header=limits.MAX_HEADER_BYTES)))
    for _ in range(60):
        assert list(decoder.feed(bytes(1000))) == []
    assert len(decoder.buffer()) < 128 * limits.KIB
