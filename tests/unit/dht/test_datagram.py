import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distqatd.base.errors import LocalProtocolError, RemoteProtocolError
from distqatd.dht.datagram import MAX_BODY, REPLY, REQUEST, pack, seal, unpack, unseal
from distqatd.dht.limits import MAX_DATAGRAM

KEY = b"k" * 32
SENDER = b"s" * 32


@settings(max_examples=50)
@given(
    st.sampled_from([REQUEST, REPLY]),
    st.binary(min_size=8, max_size=8),
    st.binary(min_size=1, max_size=MAX_BODY),
)
def test_what_is_sealed_is_unsealed(kind: int, message_id: bytes, body: bytes) -> None:
    assert unseal(KEY, seal(KEY, kind, message_id, body)) == (kind, message_id, body)


@settings(max_examples=100)
@given(st.integers(0, 44), st.integers(1, 255))
def test_changing_any_byte_breaks_the_seal(position: int, change: int) -> None:
    datagram = bytearray(seal(KEY, REQUEST, b"12345678", b"b" * 20))
    datagram[position] ^= change
    with pytest.raises(RemoteProtocolError):
        unseal(KEY, bytes(datagram))


def test_another_swarms_datagram_is_refused_before_it_is_parsed() -> None:
    with pytest.raises(RemoteProtocolError, match="swarm"):
        unseal(KEY, seal(b"x" * 32, REQUEST, b"12345678", b"body"))


def test_no_datagram_is_longer_than_1232_bytes() -> None:
    assert len(seal(KEY, REPLY, b"12345678", bytes(MAX_BODY))) == MAX_DATAGRAM
    with pytest.raises(LocalProtocolError):
        seal(KEY, REPLY, b"12345678", bytes(MAX_BODY + 1))


@settings(max_examples=200)
@given(st.binary(max_size=300))
def test_any_bytes_are_a_body_or_refused(body: bytes) -> None:
    try:
        fields = unpack(body)
    except RemoteProtocolError:
        return
    assert len(fields[0]) == 32


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\x91" * 1000,
        pack([SENDER]),
        pack(["text" * 8, 1]),
        pack([SENDER, {1: 2}]),
        pack([SENDER, "text"]),
        pack([SENDER, [0] * 65]),
        pack([SENDER, 1]) + b"more",
    ],
    ids=lambda body: repr(body[:12]),
)
def test_a_body_of_another_protocol_is_refused(body: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        unpack(body)
