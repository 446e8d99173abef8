"""Which part of the vector each member of a round reduces, and in how large chunks. Pure."""

import statistics
from collections.abc import Collection, Mapping, Sequence

from distqatd.base.ids import ExpertUid
from distqatd.optim.slices import bandwidth_fractions, partition

CHUNK_BYTES = 1 << 20
"""Bytes of fp32 in one chunk of a slice while no bandwidth is known."""

MIN_CHUNK_BYTES = 1 << 12
MAX_CHUNK_BYTES = 1 << 22

CHUNKS_IN_FLIGHT = 4
"""Chunks on the way from a member to one owner; they bound the owner's memory."""

MAX_ABOVE_USUAL = 16.0
"""A member's line counts for at most so many times the median of all."""

ALIKE = 0.15
"""Lines so close to the median count as it: lines of one rate are measured a twentieth apart."""

_SMALLEST_CHOSEN_BYTES = 1 << 16
"""64 KiB chunks cost four times the CPU of 1 MiB; smaller ones are for tests."""

_IN_FLIGHT_S = 0.3
"""What a member has on the way to all owners should take its link so long, at least a round trip.

Chunks of one member arrive side by side, so the means of the last ones in flight come after
everything was sent: large chunks on a slow link end with a link that waits.
"""


def slices(
    num_elements: int, bandwidths: Sequence[float], dialable: Sequence[bool]
) -> tuple[tuple[int, int], ...]:
    """Return (start, stop) of what each member owns, for the shortest round.

    Args:
        num_elements: of the vector.
        bandwidths: of each member's line, bytes/s, 0 unknown: it counts as the median.
        dialable: whether others can connect to each member; who is not owns nothing. If nobody
            is, only members of one daemon can be in the round, and each owns as much.
    """
    filled = _filled(bandwidths)
    usable = [rate if ok else 0.0 for rate, ok in zip(filled, dialable, strict=True)]
    return partition(num_elements, bandwidth_fractions(usable))


def chunk_bytes(bandwidths: Sequence[float]) -> int:
    """Return the bytes of fp32 in a chunk, for members with these bandwidths, bytes/s, 0 unknown.

    A power of two, so that all links of the slowest member together carry what is in flight in
    _IN_FLIGHT_S.
    """
    known = [bandwidth for bandwidth in bandwidths if bandwidth > 0]
    if not known or len(bandwidths) < 2:
        return CHUNK_BYTES
    wanted = _IN_FLIGHT_S * min(known) / (CHUNKS_IN_FLIGHT * (len(bandwidths) - 1))
    largest = 1 << max(int(wanted), 1).bit_length() - 1
    return max(_SMALLEST_CHOSEN_BYTES, min(largest, MAX_CHUNK_BYTES))


def explain(
    shares: Mapping[ExpertUid, float],
    bandwidths: Mapping[ExpertUid, float],
    callers: Collection[ExpertUid] = (),
) -> str:
    """Return why slices are as they are, for people.

    Args:
        shares: part of the vector that each member owns.
        bandwidths: bytes/s by member; who has measured nothing is left out.
        callers: members in client mode.
    """
    if len(shares) < 2:
        return ""
    if not bandwidths and not callers:
        return "equal slices: no line has been measured yet"
    if len(shares) == 2 and not callers:
        return "equal slices: between two they make no difference"
    parts = [
        f"{uid} {share:.0%} ({_line_text(bandwidths.get(uid, 0.0), is_caller=uid in callers)})"
        for uid, share in sorted(shares.items())
    ]
    return f"slices by measured lines: {', '.join(parts)}"


def _line_text(bandwidth: float, *, is_caller: bool) -> str:
    if is_caller:
        return "client mode"
    return f"{bandwidth * 8e-6:.3g} Mbit/s" if bandwidth else "not measured"


def _filled(bandwidths: Sequence[float]) -> list[float]:
    """Return bandwidths with the unknown ones (0) as the median of the known, or all equal.

    Who says far more than the others is believed in part: a lie can slow a round down, as can any
    member, but it takes more than one number to own everything.
    """
    known = [bandwidth for bandwidth in bandwidths if bandwidth > 0]
    usual = statistics.median(known) if known else 1.0
    alike = [usual if abs(b - usual) <= ALIKE * usual else b for b in bandwidths]
    return [min(bandwidth or usual, MAX_ABOVE_USUAL * usual) for bandwidth in alike]
