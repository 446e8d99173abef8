from typing import Any

import pytest

from distqatd.base.rng import seeded_rng
from distqatd.dht.contact import Contact
from distqatd.dht.limits import DhtLimits
from distqatd.dht.messages import FindReply
from distqatd.dht.record import Record, Verifier
from distqatd.dht.search import Collector, Search
from distqatd.identity.keys import Identity

RNG = seeded_rng("search")
LIMITS = DhtLimits()
TARGET = 0
CONTACTS = sorted(
    (Contact(RNG.randbytes(32), f"10.0.0.{number}", 4000) for number in range(1, 31)),
    key=lambda contact: contact.long_id,
)
ALICE = Identity.generate(seeded_rng("alice"))
TOKEN = b"t" * 8


def search(count: int, width: int = 8) -> Search:
    made = Search(TARGET, b"o" * 20, width, LIMITS)
    made.learn(CONTACTS[:count], 0)
    return made


def test_the_nearest_are_asked_first_and_only_so_many_at_once() -> None:
    made = search(20)
    assert made.next_to_ask() == CONTACTS[:4]
    assert made.next_to_ask() == []
    made.answered(CONTACTS[0])
    assert made.next_to_ask() == [CONTACTS[4]]


def test_record_sets_in_hand_take_the_place_of_queries() -> None:
    made = search(20)
    for contact in made.next_to_ask()[:2]:
        made.answered(contact)
    assert made.next_to_ask(num_in_hand=2) == []
    assert made.next_to_ask(num_in_hand=1) == [CONTACTS[4]]


def test_it_ends_when_the_nearest_have_answered() -> None:
    made = search(20, width=3)
    for contact in made.next_to_ask():
        made.answered(contact)
    assert made.finished
    assert made.nearest()[:3] == CONTACTS[:3]


def test_nearer_nodes_named_on_the_way_are_asked_too() -> None:
    made = Search(TARGET, b"o" * 20, 3, LIMITS)
    made.learn(CONTACTS[10:13], 0)
    for contact in made.next_to_ask():
        depth = made.answered(contact)
        made.learn(CONTACTS[:3], depth)
    assert not made.finished
    assert made.next_to_ask() == CONTACTS[:3]
    for contact in CONTACTS[:3]:
        made.answered(contact)
    assert (made.finished, made.depth) == (True, 1)


def test_once_a_quorum_has_answered_one_timeout_is_enough_to_go_on_without_a_peer() -> None:
    made = search(4)
    slow, *quick = made.next_to_ask()
    for contact in quick:
        made.answered(contact)
    assert not made.finished
    made.slow(slow, 1)
    assert made.finished


def test_with_one_answer_a_peer_gets_a_second_try() -> None:
    made = search(2)
    slow, quick = made.next_to_ask()
    made.answered(quick)
    made.slow(slow, 1)
    assert not made.finished
    made.slow(slow, 2)
    assert made.finished


def test_without_any_answer_nobody_is_given_up_before_the_last_try() -> None:
    made = search(1)
    (only,) = made.next_to_ask()
    made.slow(only, 3)
    assert not made.finished
    made.failed(only)
    assert made.finished
    assert made.nearest() == []


def test_peers_that_are_all_slow_do_not_hold_up_the_next_ones() -> None:
    made = search(20)
    for contact in made.next_to_ask():
        made.slow(contact, 1)
    assert made.next_to_ask() == CONTACTS[4:8]


def test_a_slow_peer_does_not_hold_up_the_next_one() -> None:
    made = search(20)
    asked = made.next_to_ask()
    for contact in asked[:3]:
        made.answered(contact)
    made.next_to_ask()
    made.slow(asked[3], 1)
    assert len(made.next_to_ask()) == 1


def test_a_late_answer_still_counts() -> None:
    made = search(4)
    slow, *quick = made.next_to_ask()
    for contact in quick:
        made.answered(contact)
    made.slow(slow, 1)
    made.answered(slow)
    assert made.nearest()[0] == slow


def test_nobody_to_ask_is_the_end() -> None:
    assert search(0).finished


def page(values: list[bytes], digest: bytes, next_page: bytes = b"", **fields: Any) -> FindReply:
    records = [
        Record.sign(ALICE, b"d", ("k", value.decode()), value, seq=1, ttl_s=9).wire(9)
        for value in values
    ]
    return FindReply(TOKEN, (), digest, next_page, fields.get("junk", []) + records)


def collector(max_records: int = 100, max_pages: int = 10) -> Collector:
    return Collector("k", Verifier(b"d", 100), max_records, max_pages)


def subkeys(made: Collector) -> set[str]:
    return {record.subkey for record in made.records.values()}


def test_record_sets_of_several_holders_are_merged() -> None:
    made = collector()
    made.add(CONTACTS[0], page([b"a", b"b"], b"digest-1"))
    made.add(CONTACTS[1], page([b"b", b"c"], b"digest-2"))
    made.add(CONTACTS[2], page([], b""))
    assert subkeys(made) == {"a", "b", "c"}
    assert made.num_complete == 2


def test_a_bad_record_is_left_out_and_the_rest_of_the_page_stays() -> None:
    made = collector()
    forged = Record.sign(ALICE, b"other", ("k", "f"), b"f", seq=1, ttl_s=9).wire(9)
    made.add(CONTACTS[0], page([b"a"], b"digest-1", junk=[7, [], [None] * 7, forged]))
    assert subkeys(made) == {"a"}


def test_one_set_is_fetched_from_one_holder_only() -> None:
    made = collector()
    wanted = made.add(CONTACTS[0], page([b"a"], b"digest-1", b"cursor-1"))
    assert wanted is not None
    assert made.add(CONTACTS[1], page([b"a"], b"digest-1", b"cursor-1")) is None
    assert made.add(CONTACTS[0], page([b"b"], b"digest-1"), wanted) is None
    assert subkeys(made) == {"a", "b"}
    assert made.num_complete == 2


def test_a_page_of_nothing_that_promises_more_is_the_last_one() -> None:
    made = collector()
    assert made.add(CONTACTS[0], page([], b"digest-1", b"cursor-1")) is None
    assert made.num_complete == 0


def test_a_page_that_does_not_come_is_asked_of_another_holder() -> None:
    made = collector()
    wanted = made.add(CONTACTS[0], page([b"a"], b"digest-1", b"cursor-1"))
    made.add(CONTACTS[1], page([b"a"], b"digest-1", b"cursor-1"))
    instead = made.add(CONTACTS[0], None, wanted)
    assert instead is not None
    assert instead.holder is CONTACTS[1]
    assert made.add(CONTACTS[1], None, instead) is None


@pytest.mark.parametrize(
    ("max_records", "max_pages", "num_pages", "num_records"), [(100, 5, 5, 5), (3, 100, 4, 3)]
)
def test_pages_and_records_of_a_hostile_holder_are_bounded(
    max_records: int, max_pages: int, num_pages: int, num_records: int
) -> None:
    made = collector(max_records, max_pages)
    wanted, asked = None, 0
    while asked < 100:
        reply = page([b"%d" % asked], b"digest-1", b"%08d" % asked)
        wanted = made.add(CONTACTS[0], reply, wanted)
        asked += 1
        if wanted is None:
            break
    assert asked == num_pages
    assert len(made.records) == num_records
