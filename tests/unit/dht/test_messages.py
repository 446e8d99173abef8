from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distqatd.base.errors import RemoteProtocolError
from distqatd.dht.contact import Contact
from distqatd.dht.datagram import HEADER_BYTES, pack, unpack
from distqatd.dht.limits import MAX_DATAGRAM
from distqatd.dht.messages import (
    AMPLIFICATION,
    Find,
    Hello,
    Request,
    Status,
    Store,
    parse_find_reply,
    parse_hello_reply,
    parse_request,
    parse_store_reply,
)

SENDER = b"s" * 32
TOKEN = b"t" * 8


@pytest.mark.parametrize(
    "request_",
    [
        Hello(b"n" * 16, b"\x7f\x00\x00\x01", 80),
        Find(b"t" * 20, values=False),
        Find(b"t" * 20, values=True, after=b"a" * 8, have=b"h" * 8),
        Store(TOKEN, "key", [1, 2]),
    ],
    ids=lambda request_: type(request_).__name__,
)
def test_a_request_survives_the_wire(request_: Request) -> None:
    assert parse_request(unpack(request_.pack(SENDER))) == request_


@pytest.mark.parametrize("have", [b"", b"h" * 8])
def test_a_find_is_padded_so_that_a_full_reply_is_at_most_three_times_as_long(have: bytes) -> None:
    length = HEADER_BYTES + len(Find(b"t" * 20, values=True, have=have).pack(SENDER))
    assert MAX_DATAGRAM <= AMPLIFICATION * length <= MAX_DATAGRAM + 6


junk = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.binary(max_size=40),
    lambda children: st.lists(children, max_size=4),
    max_leaves=8,
)
messages = st.builds(lambda kind, rest: [SENDER, kind, *rest], junk, st.lists(junk, max_size=7))
near_misses = st.builds(
    lambda request, position, value: [
        value if index == position else field
        for index, field in enumerate(unpack(request.pack(SENDER)))
    ],
    st.sampled_from([Hello(b"n" * 16, b"1234", 8), Find(b"t" * 20, values=True)]),
    st.integers(1, 6),
    junk,
)


@settings(max_examples=300)
@given(messages | near_misses)
def test_any_fields_are_a_message_or_refused(fields: list[Any]) -> None:
    parsers = [parse_request, parse_hello_reply, parse_store_reply, parse_find_reply]
    for parse in parsers:
        try:
            parse(fields, 20) if parse is parse_find_reply else parse(fields)
        except RemoteProtocolError:
            continue


def test_a_contact_that_cannot_exist_spoils_no_other() -> None:
    good = Contact(SENDER, "10.0.0.1", 80).wire()
    entries = [good, 7, [SENDER, b"\x7f\x00\x00\x01", 99999], good]
    reply = parse_find_reply([SENDER, TOKEN, entries, b"", b"", []], 20)
    assert [contact.ip for contact in reply.contacts] == ["10.0.0.1"] * 2


def test_a_reply_names_no_more_contacts_than_were_asked_for() -> None:
    entries = [Contact(SENDER, "10.0.0.1", 80).wire()] * 60
    assert len(parse_find_reply([SENDER, TOKEN, entries, b"", b"", []], 20).contacts) == 20


def test_a_store_reply_has_a_status_we_know() -> None:
    assert parse_store_reply([SENDER, 0, None]).status is Status.STORED
    with pytest.raises(RemoteProtocolError):
        parse_store_reply([SENDER, 9, None])


def test_a_key_that_is_not_utf8_is_refused() -> None:
    fields = unpack(pack([SENDER, 3, TOKEN, b"\xff\xfe", []]))
    with pytest.raises(RemoteProtocolError, match="UTF-8"):
        parse_request(fields)
