import base64

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distqatd.base.errors import RecordError, RemoteProtocolError
from distqatd.base.rng import seeded_rng
from distqatd.dht.contact import node_id
from distqatd.dht.datagram import HEADER_BYTES
from distqatd.dht.limits import MAX_DATAGRAM, MAX_KEY, MAX_SUBKEY, MAX_VALUE
from distqatd.dht.messages import Store
from distqatd.dht.record import Record, Verifier
from distqatd.dht.storage import wire_bytes
from distqatd.identity.keys import Identity, verify

ALICE = Identity.generate(seeded_rng("alice"))
DOMAIN = b"swarm one"


def signed(value: bytes | None = b"v", *, seq: int = 1, ttl_s: float = 30.0) -> Record:
    return Record.sign(ALICE, DOMAIN, ("run/r/peers", "s"), value, seq=seq, ttl_s=ttl_s)


@settings(max_examples=50)
@given(
    subkey=st.text(max_size=20),
    value=st.none() | st.binary(max_size=MAX_VALUE),
    seq=st.integers(0, 2**63 - 1),
    ttl_ms=st.integers(1, 3_600_000),
)
def test_a_record_survives_the_wire(
    subkey: str, value: bytes | None, seq: int, ttl_ms: int
) -> None:
    record = Record.sign(ALICE, DOMAIN, ("k", subkey), value, seq=seq, ttl_s=ttl_ms / 1000)
    parsed, left_s = Record.parse("k", record.wire(1e9))
    assert parsed == record
    assert left_s == record.ttl_s
    assert Verifier(DOMAIN, 10).accepts(parsed)


def test_the_longest_record_fits_one_datagram_and_its_bound_holds() -> None:
    slot = ("k" * MAX_KEY, "s" * MAX_SUBKEY)
    record = Record.sign(ALICE, DOMAIN, slot, b"v" * MAX_VALUE, seq=2**63 - 1, ttl_s=3600)
    body = Store(b"t" * 8, record.key, record.wire(3600)).pack(ALICE.public_key)
    assert len(body) + HEADER_BYTES <= MAX_DATAGRAM
    assert len(body) <= wire_bytes(record) + 34 + 1 + 10 + 2 + MAX_KEY + 2


def test_a_record_cannot_claim_more_time_than_was_signed() -> None:
    fields = signed(ttl_s=30).wire(30)
    fields[-1] = 30_001
    with pytest.raises(RemoteProtocolError, match="bounds"):
        Record.parse("k", fields)


@pytest.mark.parametrize(
    ("slot", "value", "ttl_s"),
    [
        (("k" * 129, "s"), b"", 1.0),
        (("k", "s" * 97), b"", 1.0),
        (("k", "s"), b"v" * 701, 1.0),
        (("k", "s"), b"v", 3601.0),
        (("k", "s"), b"v", 0.0),
        (("k", "s"), b"v", float("nan")),
    ],
)
def test_what_is_beyond_a_limit_is_never_signed(
    slot: tuple[str, str], value: bytes, ttl_s: float
) -> None:
    with pytest.raises(RecordError):
        Record.sign(ALICE, DOMAIN, slot, value, seq=1, ttl_s=ttl_s)


@pytest.mark.parametrize("position", range(7))
@pytest.mark.parametrize("junk", [None, True, -1, 2**64, 1.5, b"", b"x" * 2000, "text", [], {}])
def test_a_field_of_the_wrong_kind_is_refused_or_fails_verification(
    position: int, junk: object
) -> None:
    fields = signed().wire(30)
    fields[position] = junk
    try:
        record, _ = Record.parse("run/r/peers", fields)
    except RemoteProtocolError:
        return
    assert not Verifier(DOMAIN, 10).accepts(record)


def test_any_change_to_a_signed_field_is_noticed() -> None:
    verifier = Verifier(DOMAIN, 10)
    record = signed()
    assert verifier.accepts(record)
    changed = {"subkey": "t", "value": b"w", "seq": 2, "ttl_ms": 31_000, "key": "other"}
    for name, value in changed.items():
        fields = {slot: getattr(record, slot) for slot in Record.__slots__} | {name: value}
        assert not verifier.accepts(Record(**fields)), name


def test_a_tombstone_is_not_an_empty_value() -> None:
    assert signed(None).deleted
    assert not signed(b"").deleted
    assert signed(None).signature != signed(b"").signature


def test_a_record_of_one_swarm_does_not_verify_in_another() -> None:
    assert not Verifier(b"swarm two", 10).accepts(signed())


def test_the_memory_of_good_signatures_is_bounded_and_forgets_the_oldest() -> None:
    verifier = Verifier(DOMAIN, 3)
    for seq in range(10):
        assert verifier.accepts(signed(seq=seq))
    assert len(verifier._good) == 3


def test_a_node_id_is_the_first_160_bits_of_the_peer_id() -> None:
    digest = base64.b32decode(ALICE.peer_id.upper() + "====")
    assert node_id(ALICE.public_key) == digest[:20]
    assert signed().peer_id == ALICE.peer_id
    assert verify(ALICE.public_key, signed().signature, signed().signed_bytes(DOMAIN))
