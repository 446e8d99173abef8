"""Plans: slices cover everything once, weights are by samples, hostile plans are refused."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distqatd.averaging.messages import Ready
from distqatd.averaging.plan import Plan, Terms, make_plan
from distqatd.base.errors import RemoteProtocolError
from distqatd.base.ids import PeerId, make_uid
from distqatd.base.intervals import IntervalSet
from distqatd.wire.payload import pack_body, unpack_body

TERMS = Terms(24.0, 12.0, 0.5, "fp32", chunk_bytes=4096)


def entry(index: int, samples: int = 1, bandwidth: float = 0.0, size: int = 9000, **ints: int):
    ready = Ready(make_uid("tail", index), "tail", 3, "a", samples, size, bandwidth, ints)
    return ready, PeerId(f"peer{index}")


@given(
    st.integers(1, 20_000),
    st.lists(
        st.tuples(st.integers(0, 9), st.sampled_from([0.0, 1.0, 20.0])), min_size=1, max_size=6
    ),
    st.randoms(),
)
def test_a_plan_covers_every_element_once_and_survives_the_wire(size, members, random) -> None:
    members[0] = (members[0][0] + 1, members[0][1])
    entries = [entry(i, n, b, size) for i, (n, b) in enumerate(members)]
    plan = make_plan("r", entries, TERMS)
    random.shuffle(entries)
    assert make_plan("r", entries, TERMS) == plan
    spans = [chunk for index in range(len(members)) for chunk in plan.chunks_of(index)]
    assert [start for start, _ in spans] + [size] == [0] + [stop for _, stop in spans]
    assert all(0 < stop - start <= 1024 for start, stop in spans)
    assert sum(plan.weights.values()) == pytest.approx(1.0)
    assert Plan.from_body(unpack_body(pack_body(plan.to_body()))) == plan


def test_slices_follow_bandwidth_when_all_are_known_and_are_equal_otherwise() -> None:
    known = make_plan("r", [entry(i, 1, b, 90_000) for i, b in enumerate((9.0, 1.0, 9.0))], TERMS)
    sizes = [m.stop - m.start for m in known.members]
    assert sizes[0] > 10 * sizes[1]
    unknown = make_plan("r", [entry(i, 1, b, 90_000) for i, b in enumerate((9.0, 0.0, 9.0))], TERMS)
    assert max(m.stop - m.start for m in unknown.members) < 32_000


def test_integer_buffers_are_the_largest_of_all_members() -> None:
    plan = make_plan("r", [entry(0, seen=3), entry(1, seen=9, other=1)], TERMS)
    assert plan.int_buffers == {"seen": 9, "other": 1}


def test_a_plan_names_all_batches_and_counts_those_that_were_trained_twice() -> None:
    spans = [((0, 10),), ((8, 20), (30, 40)), ((9, 12),)]
    entries = [
        (replace(entry(index)[0], batches=IntervalSet(pairs)), PeerId(f"peer{index}"))
        for index, pairs in enumerate(spans)
    ]
    plan = make_plan("r", entries, TERMS)
    assert plan.batches == IntervalSet(((0, 20), (30, 40)))
    assert plan.duplicated == 5  # 8, 9, 9 again, 10, 11
    assert Plan.from_body(unpack_body(pack_body(plan.to_body()))) == plan


def good_body() -> dict:
    return make_plan("r", [entry(0), entry(1)], TERMS).to_body()


@pytest.mark.parametrize(
    "change",
    [
        {"members": []},
        {"members": [["tail.0.0.0", "p", 1, 0, 5, 0.0, True]]},
        {"members": [["tail.0.0.0", "p", 1, 0, 9001, 0.0, True]]},
        {"members": [["tail.0.0.0", "p", 0, 0, 9000, 0.0, True]]},
        {"members": [["tail.0.0.0", "p", -1, 0, 9000, 0.0, True]]},
        {"members": [["b", "p", 1, 0, 4096, 0.0, True], ["a", "p", 1, 4096, 9000, 0.0, True]]},
        {"members": [["a", "p", 1, 0, 4096, 0.0, True], ["a", "p", 1, 4096, 9000, 0.0, True]]},
        {"members": [["a", "p", 1, 0, 4096, 0.0, True], ["b", "p", 1, 5000, 9000, 0.0, True]]},
        {"members": [["a", "p", 1, 0, 9000, 0.0, True], ["b", "p", 1, 9000, 8000, 0.0, True]]},
        {"members": ["a"]},
        {"members": [["a", "p", 1, 0, 9000]]},
        {"members": [["a", "p", 1, 0, 9000, float("nan"), True]]},
        {"members": [["a", "p", 1, 0, 9000, float("inf"), True]]},
        {"members": [["a", "p", 1, 0, 9000, -1.0, True]]},
        {"members": [["a", "p", 1, 0, 9000, 1e-300, True]]},
        {"members": [["a", "p", "1", 0, 9000, 0.0, True]]},
        {"chunk": 16},
        {"chunk": 1 << 30},
        {"chunk": 4098},
        {"numel": "9000"},
        {"ints": {"seen": "x"}},
        {"round": None},
    ],
)
def test_a_plan_that_does_not_hold_together_is_refused(change: dict) -> None:
    with pytest.raises(RemoteProtocolError):
        Plan.from_body({**good_body(), **change})


def test_a_stranger_has_no_place_in_a_plan() -> None:
    with pytest.raises(RemoteProtocolError, match=r"tail\.0\.7\.0 is not a member"):
        make_plan("r", [entry(0)], TERMS).index_of(make_uid("tail", 7))
