"""A closed round: who takes part, with which weight, and who owns which slice. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from distqatd.averaging.ballots import StepKey
from distqatd.averaging.messages import (
    MAX_ELEMENTS,
    Ready,
    take_bandwidth,
    take_batches,
    take_ints,
    take_uid,
)
from distqatd.averaging.roster import MAX_MEMBERS
from distqatd.averaging.slicing import (
    MAX_CHUNK_BYTES,
    MIN_CHUNK_BYTES,
    chunk_bytes,
    explain,
    slices,
)
from distqatd.base.errors import RemoteProtocolError
from distqatd.base.ids import ExpertUid, PeerId
from distqatd.base.intervals import IntervalSet
from distqatd.compute.book import NO_BATCHES, bounded
from distqatd.wire.fields import need

MAX_PAST_NORMS = 15
"""Past rounds whose lengths of contributions are remembered."""

_ROW = ("uid", "peer", "samples", "start", "stop", "bandwidth", "dialable")
"""A member in the body of a plan."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What a leader runs a round by.

    Attributes:
        timeout_s: seconds from the first READY to the end, at most.
        grace_s: seconds it stays open for others.
        quorum: share of the roster that must be ready.
        codec: how values travel, see `optim.codecs`.
        chunk_bytes: bytes of fp32 in one chunk; None lets the slowest link decide.
        past_norms: median lengths of contributions in past rounds, for clipping.
    """

    timeout_s: float
    grace_s: float
    quorum: float
    codec: str
    chunk_bytes: int | None = None
    past_norms: tuple[float, ...] = ()

    @property
    def margin_s(self) -> float:
        """Return the time kept free for one exchange of small messages."""
        return margin_s(self.timeout_s)


def margin_s(timeout_s: float) -> float:
    """Return the time kept free for one exchange of small messages in a round of `timeout_s`."""
    return min(5.0, timeout_s / 12)


@dataclass(frozen=True, slots=True)
class PlannedMember:
    """One member: `weight` is samples / sum of samples; it owns elements `start` to `stop`.

    `bandwidth` is what it said of its line, bytes/s, 0 unknown. One that nobody can connect to
    owns nothing.
    """

    uid: ExpertUid
    peer_id: PeerId
    samples: int
    weight: float
    start: int
    stop: int
    bandwidth: float = 0.0
    is_dialable: bool = True


@dataclass(frozen=True, slots=True)
class Plan:
    """A closed round. Members are in uid order, the order in which contributions are added.

    Attributes:
        batches: all that the members have trained on since the anchor.
        duplicated: how many of them more than one member has trained on, counted each time.
        num_coded: elements before this one travel in the codec, the others exactly.
        num_averaged: elements before this one are averaged; of the others the largest counts.
        past_norms: median lengths of contributions in past rounds, as the leader saw them.
    """

    round_id: str
    stage: str
    outer_step: int
    anchor_digest: str
    num_elements: int
    codec: str
    chunk_bytes: int
    members: tuple[PlannedMember, ...]
    int_buffers: dict[str, int]
    batches: IntervalSet = NO_BATCHES
    duplicated: int = 0
    num_coded: int = MAX_ELEMENTS
    num_averaged: int = MAX_ELEMENTS
    past_norms: tuple[float, ...] = ()

    @property
    def key(self) -> StepKey:
        """Return the step that the round is about."""
        return StepKey(self.stage, self.outer_step, self.anchor_digest)

    @property
    def uids(self) -> tuple[ExpertUid, ...]:
        """Return the members' uids in order."""
        return tuple(member.uid for member in self.members)

    @property
    def weights(self) -> dict[ExpertUid, float]:
        """Return each member's share of the mean; they sum to 1."""
        return {member.uid: member.weight for member in self.members}

    @property
    def shares(self) -> dict[ExpertUid, float]:
        """Return the part of the vector that each member reduces; they sum to 1."""
        return {m.uid: (m.stop - m.start) / self.num_elements for m in self.members}

    @property
    def bandwidths(self) -> dict[ExpertUid, float]:
        """Return what each member said of its line, bytes/s; who knew nothing is left out."""
        return {m.uid: m.bandwidth for m in self.members if m.bandwidth}

    @property
    def callers(self) -> tuple[ExpertUid, ...]:
        """Return the members that nobody can connect to."""
        return tuple(m.uid for m in self.members if not m.is_dialable)

    @property
    def slicing(self) -> str:
        """Return why the slices are as they are, for people."""
        return explain(self.shares, self.bandwidths, self.callers)

    def index_of(self, uid: ExpertUid) -> int:
        """Return a member's place in the order.

        Raises:
            RemoteProtocolError: it is not a member.
        """
        for index, member in enumerate(self.members):
            if member.uid == uid:
                return index
        raise RemoteProtocolError(f"{uid} is not a member of round {self.round_id}")

    def peer_of(self, uid: ExpertUid) -> PeerId:
        """Return the peer that hosts a member.

        Raises:
            RemoteProtocolError: it is not a member.
        """
        return self.members[self.index_of(uid)].peer_id

    def chunks_of(self, index: int) -> tuple[tuple[int, int], ...]:
        """Return (start, stop) of each chunk of the slice that member `index` owns."""
        member = self.members[index]
        cuts = [member.start, self.num_coded, self.num_averaged, member.stop]
        edges = sorted(min(max(cut, member.start), member.stop) for cut in cuts)
        size = self.chunk_bytes // 4
        return tuple(
            (start, min(start + size, end))
            for begin, end in pairwise(edges)
            for start in range(begin, end, size)
        )

    def to_body(self) -> dict[str, Any]:
        """Return the body that `from_body` reads."""
        return {
            "round": self.round_id,
            "stage": self.stage,
            "step": self.outer_step,
            "anchor": self.anchor_digest,
            "numel": self.num_elements,
            "codec": self.codec,
            "chunk": self.chunk_bytes,
            "members": [
                [m.uid, m.peer_id, m.samples, m.start, m.stop, m.bandwidth, m.is_dialable]
                for m in self.members
            ],
            "ints": self.int_buffers,
            "batches": self.batches.to_list(),
            "duplicated": self.duplicated,
            "coded": self.num_coded,
            "averaged": self.num_averaged,
            "norms": list(self.past_norms),
        }

    @classmethod
    def from_body(cls, body: Mapping[str, Any]) -> "Plan":
        """Read and check what `to_body` wrote: slices cover everything once, weights are right.

        Raises:
            RemoteProtocolError: it does not hold together.
        """
        num_elements = need(body, "numel", int)
        chunk_bytes = need(body, "chunk", int)
        if not MIN_CHUNK_BYTES <= chunk_bytes <= MAX_CHUNK_BYTES or chunk_bytes % 4:
            raise RemoteProtocolError(f"chunks of {chunk_bytes} bytes")
        return cls(
            need(body, "round", str),
            need(body, "stage", str),
            need(body, "step", int),
            need(body, "anchor", str),
            num_elements,
            need(body, "codec", str),
            chunk_bytes,
            _read_members(need(body, "members", list), num_elements),
            take_ints(body, "ints"),
            take_batches(body, "batches"),
            need(body, "duplicated", int),
            need(body, "coded", int),
            need(body, "averaged", int),
            _read_norms(need(body, "norms", list)),
        )


def make_plan(round_id: str, entries: Sequence[tuple[Ready, PeerId]], terms: Terms) -> Plan:
    """Return the plan for members that are ready: weights by samples, slices by bandwidth.

    Integer buffers (batches seen by a BatchNorm) become the largest of the members that trained.
    The order of `entries` does not matter; at least one must have samples.
    """
    ordered = sorted(entries, key=lambda entry: entry[0].uid)
    first = ordered[0][0]
    bandwidths = [ready.bandwidth for ready, _ in ordered]
    dialable = [ready.is_dialable for ready, _ in ordered]
    bounds = slices(first.num_elements, bandwidths, dialable)
    rows = [
        [ready.uid, peer, ready.samples, start, stop, ready.bandwidth, ready.is_dialable]
        for (ready, peer), (start, stop) in zip(ordered, bounds, strict=True)
    ]
    ints: dict[str, int] = {}
    for ready, _ in ordered:
        for name, value in ready.int_buffers.items():
            ints[name] = max(value, ints.get(name, value))
    union = NO_BATCHES
    for ready, _ in ordered:
        union = union.union(ready.batches)
    return Plan(
        round_id,
        first.stage,
        first.outer_step,
        first.anchor_digest,
        first.num_elements,
        terms.codec,
        terms.chunk_bytes or chunk_bytes(bandwidths),
        _read_members(rows, first.num_elements),
        ints,
        bounded(union),
        sum(len(ready.batches) for ready, _ in ordered) - len(union),
        first.num_coded,
        first.num_averaged,
        terms.past_norms,
    )


def _read_norms(values: list[Any]) -> tuple[float, ...]:
    if len(values) > MAX_PAST_NORMS or not all(
        type(value) is float and 0 <= value < float("inf") for value in values
    ):
        raise RemoteProtocolError("past lengths of a plan are too many or no lengths")
    return tuple(values)


def _read_members(rows: list[Any], num_elements: int) -> tuple[PlannedMember, ...]:
    if not 1 <= len(rows) <= MAX_MEMBERS:
        raise RemoteProtocolError(f"a plan with {len(rows)} members")
    parsed = [_read_row(row) for row in rows]
    uids = [uid for uid, *_ in parsed]
    total = sum(samples for _, _, samples, *_ in parsed)
    if uids != sorted(set(uids)) or total < 1:
        raise RemoteProtocolError("members of a plan are not in order, or none has samples")
    position = 0
    for *_, start, stop, _, _ in parsed:
        if start != position or stop < start:
            raise RemoteProtocolError("slices of a plan leave a hole or overlap")
        position = stop
    if position != num_elements:
        raise RemoteProtocolError(f"slices of a plan cover {position} of {num_elements} elements")
    return tuple(
        PlannedMember(uid, peer, samples, samples / total, start, stop, bandwidth, dialable)
        for uid, peer, samples, start, stop, bandwidth, dialable in parsed
    )


def _read_row(row: Any) -> tuple[ExpertUid, PeerId, int, int, int, float, bool]:
    if not isinstance(row, list) or len(row) != len(_ROW):
        raise RemoteProtocolError(f"a member of a plan is not a list of {len(_ROW)}")
    fields = dict(zip(_ROW, row, strict=True))
    samples = need(fields, "samples", int)
    if samples < 0:
        raise RemoteProtocolError(f"a member of a plan has {samples} samples")
    return (
        take_uid(fields, "uid"),
        PeerId(need(fields, "peer", str)),
        samples,
        need(fields, "start", int),
        need(fields, "stop", int),
        take_bandwidth(fields),
        need(fields, "dialable", bool),
    )
