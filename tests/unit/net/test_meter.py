"""The meter: busy streams are measured, waits and what the kernel took at once are not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distqatd.net.meter import SPAN_BYTES, Meter, Span, Speed, fast_rate

KIB = 1 << 10


def sending(meter: Meter, num: int = 1) -> list[Span]:
    return [Span(meter.up, 0.005) for _ in range(num)]


def test_three_streams_that_share_a_line_are_measured_together() -> None:
    meter = Meter()
    streams = sending(meter, 3)
    with meter.watching():
        for tick in range(100):  # 64 KiB on each of three streams in every 10 ms
            for stream in streams:
                stream.begin(tick * 0.01)
                stream.moved(64 * KIB, (tick + 1) * 0.01)
    assert meter.speed().up == pytest.approx(3 * 64 * KIB / 0.01, rel=0.25)
    assert meter.speed().down == 0.0


def test_what_the_kernel_took_before_it_was_full_does_not_count() -> None:
    meter = Meter()
    (stream,) = sending(meter)
    with meter.watching():
        stream.moved(10_000 * KIB, 0.0)  # at once: nobody had to wait
        stream.begin(0.0)
        for tick in range(1, 9):
            stream.moved(64 * KIB, tick * 0.1)
    assert meter.speed().up == pytest.approx(640 * KIB)


def test_a_pause_is_no_part_of_a_sample() -> None:
    meter = Meter()
    (stream,) = sending(meter)
    with meter.watching():
        for begin in (0.0, 100.0):
            stream.resume(begin)
            stream.begin(begin)
            for tick in range(1, 4):
                stream.moved(64 * KIB, begin + tick * 0.01)
    assert meter.speed() == Speed()  # neither half was a whole sample


def test_waits_for_a_slow_peer_do_not_hide_how_fast_the_others_are() -> None:
    """Bursts of 1 MiB at 25 MB/s to one peer, while another takes 1 MB/s all the time."""
    meter = Meter()
    fast, slow = sending(meter, 2)
    now = 0.0
    with meter.watching():
        slow.begin(now)
        for _ in range(10):
            fast.resume(now)
            fast.begin(now)
            for _ in range(16):
                now += 0.0025
                fast.moved(64 * KIB, now)
            slow.moved(40 * KIB, now)
            for _ in range(10):
                now += 0.05
                slow.resume(now - 0.05)
                slow.moved(50 * KIB, now)
    assert 20e6 < meter.speed().up < 30e6


def test_nothing_is_kept_of_an_earlier_exchange() -> None:
    meter = Meter()
    (stream,) = sending(meter)
    with meter.watching():
        stream.begin(0.0)
        stream.moved(SPAN_BYTES, 1.0)
    assert meter.speed().up == SPAN_BYTES
    with meter.watching():
        assert meter.is_on
    assert meter.speed() == Speed()
    assert not meter.is_on


@given(st.lists(st.tuples(st.integers(1, 1 << 20), st.floats(1.0, 1e9)), min_size=1))
def test_a_quarter_of_the_bytes_were_that_fast(samples) -> None:
    rate = fast_rate(samples)
    total = sum(size for size, _ in samples)
    assert sum(size for size, each in samples if each >= rate) >= total / 4
    assert sum(size for size, each in samples if each > rate) < total / 4
