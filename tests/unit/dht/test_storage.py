import functools
import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distqatd.base.errors import LocalProtocolError
from distqatd.base.rng import seeded_rng
from distqatd.dht.limits import DhtLimits
from distqatd.dht.messages import Status
from distqatd.dht.record import Record, Verifier, key_id
from distqatd.dht.storage import OWN, RecordStore
from distqatd.identity.keys import Identity

DOMAIN = b"d"
PEERS = [Identity.generate(seeded_rng("peer", number)) for number in range(8)]


class Time:
    """A clock that tests set."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@functools.cache
def signed(
    peer: int, subkey: str, value: bytes | None, seq: int, ttl_s: float = 30.0, key: str = "k"
) -> Record:
    return Record.sign(PEERS[peer], DOMAIN, (key, subkey), value, seq=seq, ttl_s=ttl_s)


def store(now: Time | None = None, **limits: Any) -> RecordStore:
    return RecordStore(DhtLimits(**limits), Verifier(DOMAIN, 1000), now or Time())


def contents(records: RecordStore) -> set[Record]:
    return {held.record for held in records.get(key_id("k"), ())}


some_records = st.lists(
    st.builds(
        signed,
        st.integers(0, 2),
        st.sampled_from(["a", "b"]),
        st.sampled_from([None, b"x", b"y"]),
        st.integers(0, 3),
    ),
    max_size=8,
)


@settings(max_examples=60)
@given(some_records, st.randoms(use_true_random=False))
def test_the_order_and_number_of_merges_do_not_matter(records: list[Record], rng: Any) -> None:
    in_order, shuffled = store(), store()
    for record in records:
        in_order.merge(record, 30, "x")
    again = [*records, *records]
    rng.shuffle(again)
    for record in again:
        shuffled.merge(record, 30, "y")
    assert contents(in_order) == contents(shuffled)
    assert in_order.digest(key_id("k")) == shuffled.digest(key_id("k"))


@settings(max_examples=60)
@given(some_records, some_records)
def test_merging_two_stores_either_way_gives_the_same(
    ones: list[Record], others: list[Record]
) -> None:
    left, right = store(), store()
    for record in itertools.chain(ones, others):
        left.merge(record, 30, "x")
    for record in itertools.chain(others, ones):
        right.merge(record, 30, "x")
    assert contents(left) == contents(right)


def test_the_highest_seq_wins_and_an_older_one_is_stale() -> None:
    records = store()
    assert records.merge(signed(0, "s", b"new", 2), 30, "x") is Status.STORED
    assert records.merge(signed(0, "s", b"old", 1), 30, "x") is Status.STALE
    assert contents(records) == {signed(0, "s", b"new", 2)}


def test_publishers_do_not_touch_each_others_slots() -> None:
    records = store()
    for peer in range(3):
        records.merge(signed(peer, "s", b"v", peer), 30, "x")
    assert len(contents(records)) == 3


def test_a_forged_record_is_refused() -> None:
    records = store()
    real = signed(0, "s", b"v", 1)
    forged = Record("k", "s", b"evil", real.publisher, 9, real.ttl_ms, real.signature)
    assert records.merge(forged, 30, "x") is Status.REFUSED
    assert records.num_records == 0


def test_a_record_dies_when_what_was_left_of_it_has_passed() -> None:
    now = Time()
    records = store(now)
    records.merge(signed(0, "s", b"v", 1), 5.0, "x")
    now.now_s += 4.9
    assert len(contents(records)) == 1
    now.now_s += 0.2
    assert contents(records) == set()
    assert records.digest(key_id("k")) == b""


def test_sending_a_record_again_does_not_make_it_live_longer() -> None:
    now = Time()
    records = store(now)
    records.merge(signed(0, "s", b"v", 1), 30, "x")
    now.now_s += 20
    assert records.merge(signed(0, "s", b"v", 1), 30, "x") is Status.STORED
    now.now_s += 10.1
    assert contents(records) == set()


def test_a_record_served_on_and_on_dies_with_the_first_copy() -> None:
    now = Time()
    stores = [store(now) for _ in range(5)]
    stores[0].merge(signed(0, "s", b"v", 1), 30, "x")
    for giver, taker in itertools.pairwise(stores):
        now.now_s += 5
        (fields,) = giver.page(key_id("k"), b"", 1200).records
        taker.merge(*Record.parse("k", fields), "x")
    now.now_s += 10.1
    assert [contents(each) for each in stores] == [set()] * 5


def test_a_replay_of_an_expired_record_is_stale_and_a_new_one_is_not() -> None:
    now = Time()
    records = store(now)
    records.merge(signed(0, "s", b"v", 5), 30, "x")
    now.now_s += 31
    assert records.merge(signed(0, "s", b"v", 5), 30, "x") is Status.STALE
    assert records.merge(signed(0, "s", b"v", 6), 30, "x") is Status.STORED


def test_a_tombstone_beats_the_record_and_its_replay() -> None:
    records = store()
    records.merge(signed(0, "s", b"v", 1), 30, "x")
    assert records.merge(signed(0, "s", None, 2), 30, "x") is Status.STORED
    assert records.merge(signed(0, "s", b"v", 1), 30, "x") is Status.STALE
    assert [held.record.deleted for held in records.get(key_id("k"))] == [True]


@pytest.mark.parametrize(
    "limits",
    [
        {"records": 3},
        {"records_per_key": 3},
        {"records_per_source": 3},
        {"records_per_publisher": 3},
    ],
    ids=lambda limits: next(iter(limits)),
)
def test_a_full_store_refuses_and_keeps_what_it_has(limits: dict[str, int]) -> None:
    records = store(**limits)
    statuses = [records.merge(signed(0, f"s{n}", b"v", 1), 30, "x") for n in range(5)]
    assert statuses == [Status.STORED] * 3 + [Status.FULL] * 2
    assert records.num_records == 3
    assert records.merge(signed(0, "s0", b"w", 2), 30, "x") is Status.STORED


def test_quotas_free_up_when_records_expire() -> None:
    now = Time()
    records = store(now, records=2)
    for number in range(20):
        assert records.merge(signed(number % 3, f"s{number}", b"v", 1), 1.0, "x") is Status.STORED
        now.now_s += 0.6
    assert sum(records._per_publisher.values()) == records.num_records
    assert sum(records._per_source.values()) == records.num_records


def test_our_own_records_are_exempt_from_quotas() -> None:
    records = store(records=1)
    records.merge(signed(0, "s", b"v", 1), 30, "x")
    assert records.merge(signed(1, "s", b"v", 1), 30, OWN) is Status.STORED
    assert [record.publisher for record in records.own_records()] == [PEERS[1].public_key]


def test_updating_one_slot_for_ever_does_not_grow_the_expiry_queue() -> None:
    records = store()
    for seq in range(300):
        records.merge(signed(0, "s", b"v", seq), 30, "x")
    assert len(records._expiries) <= 2 * 1 + 64


def test_the_memory_of_expired_slots_is_bounded() -> None:
    now = Time()
    records = store(now, spent_slots=4)
    for number in range(12):
        records.merge(signed(number % 3, f"s{number}", b"v", 1), 0.5, "x")
        now.now_s += 1
    records.drop_expired()
    assert len(records._spent) == 4


def test_pages_together_are_the_whole_set_and_each_fits() -> None:
    records = store()
    for number in range(40):
        records.merge(signed(number % 3, f"s{number}", b"v" * 200, 1), 30, "x")
    seen, after, num_pages = set(), b"", 0
    while True:
        page = records.page(key_id("k"), after, 1100)
        seen |= {Record.parse("k", fields)[0] for fields in page.records}
        num_pages += 1
        if not page.next_page:
            break
        after = page.next_page
    assert seen == contents(records)
    assert num_pages > 5


def test_kademlias_storage_interface_is_kept_where_it_makes_sense() -> None:
    records = store()
    records.merge(signed(0, "s", b"v", 1), 30, "x")
    assert [key for key, _ in records] == [key_id("k")]
    assert len(records[key_id("k")]) == 1
    assert records.get(b"none", "default") == "default"
    assert records.iter_older_than(0) == []
    with pytest.raises(KeyError):
        records[b"none"]
    with pytest.raises(LocalProtocolError):
        records[key_id("k")] = b"overwritten"
