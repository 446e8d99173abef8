import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kademlia.node import Node

from distqatd.base.rng import seeded_rng
from distqatd.dht.contact import Contact
from distqatd.dht.limits import DhtLimits
from distqatd.dht.routing import MAX_ID, Table

OWN = Node(b"\x55" * 20)
RNG = seeded_rng("routing")
CONTACTS = [
    Contact(RNG.randbytes(32), f"10.{number >> 8}.{number & 255}.1", 4000) for number in range(600)
]


class Time:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def table(now: Time | None = None, contacts: Any = (), **limits: Any) -> Table:
    made = Table(None, OWN, DhtLimits(**limits), now or Time())
    for contact in contacts:
        made.add_contact(Contact(contact.public_key, contact.ip, contact.port))
    return made


FULL = table(contacts=CONTACTS)


@settings(max_examples=100)
@given(st.binary(min_size=20, max_size=20), st.integers(1, 40))
def test_the_nearest_are_exactly_the_nearest(target: bytes, count: int) -> None:
    node = Node(target)
    wanted = sorted(FULL, key=lambda contact: contact.long_id ^ node.long_id)[:count]
    assert [c.id for c in FULL.find_neighbors(node, count)] == [c.id for c in wanted]


@pytest.mark.parametrize("number", [0, 1, 2**159, 2**159 - 1, MAX_ID])
def test_every_id_has_exactly_one_bucket(number: int) -> None:
    index = FULL.get_bucket_for(Node(number.to_bytes(20, "big")))
    low, high = FULL.buckets[index].range
    assert low <= number <= high


def test_the_buckets_cover_the_id_space_without_gap_or_overlap() -> None:
    edges = [bucket.range for bucket in FULL.buckets]
    assert edges[0][0] == 0
    assert edges[-1][1] == MAX_ID
    assert all(high + 1 == low for (_, high), (low, _) in itertools.pairwise(edges))
    assert all(len(bucket) <= 20 for bucket in FULL.buckets)
    assert len(FULL.buckets) < 100


def test_one_unanswered_request_evicts_nobody_and_two_do() -> None:
    made = table(contacts=CONTACTS[:3])
    contact = next(iter(made))
    made.failed(contact)
    assert len(made) == 3
    made.failed(contact)
    assert len(made) == 2
    assert made.failed_lately(contact)


def test_a_word_from_a_contact_clears_its_failures() -> None:
    made = table(contacts=CONTACTS[:1])
    contact = next(iter(made))
    made.failed(contact)
    assert made.heard(contact.id, contact.endpoint)
    made.failed(contact)
    assert len(made) == 1


def test_a_word_from_another_address_proves_nothing() -> None:
    made = table(contacts=CONTACTS[:1])
    assert not made.heard(CONTACTS[0].id, ("10.9.9.9", 1))


def test_who_failed_is_not_wanted_for_a_while() -> None:
    now = Time()
    made = table(now)
    made.failed(CONTACTS[0])
    assert not made.wants(CONTACTS[0].id, CONTACTS[0].endpoint)
    now.now_s += 31
    assert made.wants(CONTACTS[0].id, CONTACTS[0].endpoint)


def test_a_contact_that_answers_is_not_replaced_by_another_address() -> None:
    now = Time()
    made = table(now, CONTACTS[:1])
    elsewhere = Contact(CONTACTS[0].public_key, "10.9.9.9", 1)
    assert not made.add_contact(elsewhere)
    assert next(iter(made)).endpoint == CONTACTS[0].endpoint


def test_a_contact_that_has_failed_or_is_silent_may_move() -> None:
    now = Time()
    made = table(now, CONTACTS[:2])
    made.failed(CONTACTS[0])
    assert made.add_contact(Contact(CONTACTS[0].public_key, "10.9.9.9", 1))
    now.now_s += 61
    assert made.add_contact(Contact(CONTACTS[1].public_key, "10.9.9.8", 1))
    assert {contact.ip for contact in made} == {"10.9.9.9", "10.9.9.8"}
    assert sum(made._per_source.values()) == 2


def test_contacts_of_one_source_are_bounded() -> None:
    made = table(contacts_per_source=5)
    for contact in CONTACTS:
        made.add_contact(Contact(contact.public_key, "10.0.0.1", contact.port))
    assert len(made) == 5
    assert made.add_contact(Contact(b"p" * 32, "10.0.0.2", 1))


def test_the_memory_of_failures_is_bounded() -> None:
    made = table()
    for _ in range(600):
        made.failed(Contact(RNG.randbytes(32), "10.0.0.1", 1))
    assert len(made._failed) == 512


def test_we_are_not_our_own_contact() -> None:
    made = table()
    assert not made.wants(OWN.id, ("10.0.0.1", 1))


def test_buckets_nobody_looked_into_become_lonely() -> None:
    now = Time()
    made = table(now)
    now.now_s += 601
    assert len(made.lonely_buckets()) == 1
    made.touch_bucket(OWN)
    assert made.lonely_buckets() == []
