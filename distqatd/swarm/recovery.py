"""What a client that knows nothing makes of what trainers and experts say: the ledger, again.

    experts' books ──► committed: in the book of every stage, on any replica
    trainers' leases ─► lent: they go on with what they hold
    the last record ──► next batch: below it anything may have been lent
                        waiting: what is none of these, to be lent first

One path for a takeover, a restart and a resumed run. Pure functions.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from distqatd.base.decision import Decision
from distqatd.base.ids import ExpertUid
from distqatd.base.intervals import IntervalSet
from distqatd.swarm.ledger import Lease, Ledger, Waiting
from distqatd.swarm.routes import Route, hop_of
from distqatd.swarm.view import SwarmView


@dataclass(frozen=True, slots=True)
class ExpertBook:
    """Which batches one expert has applied, as it says.

    Attributes:
        anchor: what is inside its anchor; replicas with the same anchor have the same.
        local: what it applied since; only its own replica has it.
        fence: the highest fence of a session it saw.
        duplicated: batches its rounds found on two replicas.
    """

    uid: ExpertUid
    stage: str
    anchor: IntervalSet
    local: IntervalSet
    fence: int = 0
    duplicated: int = 0

    @property
    def all(self) -> IntervalSet:
        """Return every batch the expert has applied."""
        return self.anchor.union(self.local)


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """A ledger, and the pipelines that must start anew.

    Attributes:
        conflicts: pipelines whose leases overlap those of another: two clients lent the same.
    """

    ledger: Ledger
    conflicts: frozenset[int]


def in_every_stage(books: Iterable[ExpertBook], stage_names: Sequence[str]) -> IntervalSet:
    """Return the batches that each stage has applied on at least one replica."""
    by_stage = dict.fromkeys(stage_names, IntervalSet())
    for book in books:
        if book.stage in by_stage:
            by_stage[book.stage] = by_stage[book.stage].union(book.all)
    first, *others = by_stage.values()
    for other in others:
        first = first.common(other)
    return first


def rebuild(
    empty: Ledger,
    books: Collection[ExpertBook],
    claims: Collection[Lease],
    routes: Mapping[int, Route],
    stage_names: Sequence[str],
) -> Decision[Rebuilt]:
    """Return the ledger as it must be, given what experts and trainers say.

    Args:
        empty: term, lease size, `next_batch` and counts as far as they are known from records.
        books: of all serving experts that answered.
        claims: the leases that trainers say they hold, done ones too.
        routes: of the pipelines: which experts may have applied a part of what waits.
        stage_names: all stages of the run.
    """
    conflicts = _conflicts(claims)
    kept = [lease for lease in claims if lease.pipeline not in conflicts]
    done = in_every_stage(books, stage_names).union(_spans((x.first, x.next) for x in claims))
    ledger = empty
    ledger.done = done
    ledger.next_batch = max(
        ledger.next_batch,
        *(bound for lease in claims for bound in (lease.end, 0)),
        *(book.all.pairs[-1][1] for book in books if book.all),
        0,
    )
    ledger.duplicated = max(ledger.duplicated, duplicated(books))
    open_leases = [Lease(x.fence, x.pipeline, x.first, x.end, x.next) for x in kept]
    ledger.leases = {lease.fence: lease for lease in open_leases if not lease.is_done}
    lent = _spans((lease.next, lease.end) for lease in open_leases)
    # A batch that a trainer still holds may be in every book already: its report is on the way.
    ledger.done = ledger.done.minus(lent)
    missing = _spans([(0, ledger.next_batch)]).minus(lent).minus(ledger.done)
    ledger.waiting = _waiting(missing, books, routes)
    reason = (
        f"{len(ledger.done)} batches are committed, {len(lent)} lent to "
        f"{len({lease.pipeline for lease in kept})} pipelines, {len(missing)} will be lent again"
    )
    return Decision(Rebuilt(ledger, conflicts), reason)


def adopt(ledger: Ledger, claims: Collection[Lease]) -> bool:
    """Take over the leases of a trainer that is heard of late; all of its pipeline, or none.

    Returns:
        False if some of it was lent to another since: the trainer must start anew. What it
        committed is believed in any case.
    """
    for lease in claims:
        ledger.late(lease.first, lease.next)
    wanted = _spans((lease.next, lease.end) for lease in claims)
    size = sum(lease.end - lease.next for lease in claims)
    free = _spans((w.first, w.end) for w in ledger.waiting)
    unlent = _spans([(ledger.next_batch, max((x.end for x in claims), default=0))])
    if len(wanted) != size or wanted.minus(free).minus(unlent):
        return False
    _strike(ledger, wanted)
    for lease in claims:
        if not lease.is_done:
            ledger.leases[lease.fence] = lease
    return True


def _strike(ledger: Ledger, wanted: IntervalSet) -> None:
    """Take numbers out of what waits; numbers that were never lent before are now."""
    unlent = _spans([(ledger.next_batch, wanted.pairs[-1][1])]) if wanted else IntervalSet()
    if unlent:
        ledger.next_batch = unlent.pairs[-1][1]
        ledger.waiting += [Waiting(first, end) for first, end in unlent.pairs]
    ledger.waiting = [
        Waiting(first, end, old.pipeline)
        for old in ledger.waiting
        for first, end in _spans([(old.first, old.end)]).minus(wanted).pairs
    ]


def known_routes(view: SwarmView) -> dict[int, Route]:
    """Return the routes that trainers say they run, where every expert of it serves."""
    routes: dict[int, Route] = {}
    for info in view.trainers:
        experts = [view.expert(ExpertUid(uid)) for uid in info.record.route]
        route = tuple(hop_of(expert) for expert in experts if expert is not None)
        if info.is_training and len(route) == len(view.stages):
            routes.setdefault(info.record.pipeline, route)
    return _disjoint(routes)


def _disjoint(routes: Mapping[int, Route]) -> dict[int, Route]:
    """Drop routes that share an expert with one of a lower number: an old record's."""
    taken: set[ExpertUid] = set()
    kept: dict[int, Route] = {}
    for number, route in sorted(routes.items()):
        uids = {hop.uid for hop in route}
        if not uids & taken:
            kept[number] = route
            taken |= uids
    return kept


def duplicated(books: Iterable[ExpertBook]) -> int:
    """Return how many batches a stage applied twice; replicas of a stage count the same rounds."""
    return max((book.duplicated for book in books), default=0)


def _waiting(
    missing: IntervalSet, books: Iterable[ExpertBook], routes: Mapping[int, Route]
) -> list[Waiting]:
    """Return what is to be lent again; what one pipeline's experts have in part is for it alone."""
    owner = {hop.uid: number for number, route in routes.items() for hop in route}
    found: list[Waiting] = []
    for book in sorted(books, key=lambda book: book.uid):
        if book.uid not in owner:
            continue
        part = missing.common(book.local)
        found += [Waiting(first, end, owner[book.uid]) for first, end in part.pairs]
        missing = missing.minus(part)
    found += [Waiting(first, end) for first, end in missing.pairs]
    return sorted(found, key=lambda waiting: waiting.first)


def _conflicts(claims: Iterable[Lease]) -> frozenset[int]:
    """Return the pipelines that hold what was lent under a higher fence too."""
    taken, fences = IntervalSet(), set[int]()
    conflicts: set[int] = set()
    for lease in sorted(claims, key=lambda lease: -lease.fence):
        mine = _spans([(lease.next, lease.end)])
        if lease.fence in fences or mine.overlap(taken):
            conflicts.add(lease.pipeline)
        fences.add(lease.fence)
        taken = taken.union(mine)
    return frozenset(conflicts)


def _spans(pairs: Iterable[tuple[int, int]]) -> IntervalSet:
    return IntervalSet.from_pairs(pairs)
