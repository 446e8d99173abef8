"""Slices and chunks by what lines carry: unknown lines, hostile claims, and the reason in words."""

import pytest

from distqatd.averaging.slicing import chunk_bytes, explain, slices

SIZE = 90_000


def sizes(*bandwidths: float) -> list[int]:
    return [stop - start for start, stop in slices(SIZE, bandwidths, [True] * len(bandwidths))]


@pytest.mark.parametrize(
    ("mbit_per_s", "kib"),
    [((0, 0, 0, 0), 1024), ((200,) * 4, 512), ((200, 200, 200, 20), 64), ((1e5,) * 4, 4096)],
)
def test_slow_links_get_small_chunks(mbit_per_s, kib) -> None:
    assert chunk_bytes([mbit * 1e6 / 8 for mbit in mbit_per_s]) == kib << 10


def test_an_unknown_bandwidth_counts_as_the_usual_one() -> None:
    known = sizes(30.0, 15.0, 0.0, 20.0)
    assert known[2] == pytest.approx(known[3], abs=2048)
    assert known[0] > known[3] > known[1]
    assert max(sizes(9.0, 0.0, 9.0)) < 32_000


def test_lines_that_are_measured_almost_alike_own_as_much() -> None:
    assert max(sizes(209.0, 208.0, 218.0, 192.0)) - min(sizes(209.0, 208.0, 218.0, 192.0)) <= 1024
    assert sizes(200.0, 200.0, 200.0, 150.0)[3] < sizes(200.0, 200.0, 200.0, 200.0)[3] - 1024


def test_a_tenth_of_the_line_owns_nothing() -> None:
    assert sizes(200.0, 200.0, 200.0, 20.0)[3] == 0


def test_a_claim_beyond_belief_counts_as_sixteen_lines() -> None:
    assert sizes(1.0, 1.0, 1.0, 1.0, 1.0, 1e12) == sizes(1.0, 1.0, 1.0, 1.0, 1.0, 16.0)


def test_who_nobody_can_connect_to_owns_nothing_however_fast() -> None:
    bounds = slices(SIZE, [9.0, 2.0, 0.0, 2.0], [False, True, True, True])
    sizes_of = [stop - start for start, stop in bounds]
    assert sizes_of[0] == 0
    assert min(sizes_of[1:]) > 0
    assert slices(SIZE, [0.0, 0.0], [False, True]) == ((0, 0), (0, SIZE))
    assert slices(SIZE, [0.0, 0.0], [False, False])[0][1] == pytest.approx(SIZE / 2, abs=1024)


def test_the_reason_says_what_was_measured() -> None:
    shares = {"tail.0.0.0": 0.625, "tail.0.1.0": 0.0, "tail.0.2.0": 0.375}
    assert explain({"tail.0.0.0": 1.0}, {}) == ""
    assert explain(shares, {}) == "equal slices: no line has been measured yet"
    assert explain(shares, {"tail.0.0.0": 25e6, "tail.0.1.0": 2.5e6}) == (
        "slices by measured lines: tail.0.0.0 62% (200 Mbit/s), tail.0.1.0 0% (20 Mbit/s),"
        " tail.0.2.0 38% (not measured)"
    )
    assert explain(shares, {}, ["tail.0.1.0"]) == (
        "slices by measured lines: tail.0.0.0 62% (not measured), tail.0.1.0 0% (client mode),"
        " tail.0.2.0 38% (not measured)"
    )
