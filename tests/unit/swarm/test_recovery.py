from hypothesis import given
from hypothesis import strategies as st

from distqatd.base.intervals import IntervalSet
from distqatd.swarm.ledger import Lease, Ledger
from distqatd.swarm.records import TrainerRecord
from distqatd.swarm.recovery import ExpertBook, adopt, in_every_stage, known_routes, rebuild
from distqatd.swarm.routes import Hop
from distqatd.swarm.view import TrainerInfo
from tests.support.views import info, view_of

STAGES = ("front", "back")
NONE = IntervalSet()


def span(*pairs):
    return IntervalSet.from_pairs(pairs)


def book(uid, anchor=NONE, local=NONE, duplicated=0):
    return ExpertBook(uid, uid.split(".")[0], anchor, local, 0, duplicated)


def lease(fence, pipeline, first, next_, end):
    return Lease(fence, pipeline, first, end, next_)


def empty(**fields):
    return Ledger(**{"lease_size": 10, "term": 2, **fields})


def route(*uids):
    return tuple(Hop(uid, "peer-of-" + uid, 1) for uid in uids)


def waiting(ledger):
    return [(w.first, w.end, w.pipeline) for w in ledger.waiting]


def test_committed_is_what_every_stage_has_on_any_replica():
    books = [
        book("front.0.0.0", span((0, 5)), span((5, 8))),
        book("front.0.1.0", span((0, 5)), span((10, 12))),
        book("back.0.0.0", span((0, 11))),
        book("other.0.0.0"),
    ]
    assert in_every_stage(books, STAGES) == span((0, 8), (10, 11))
    assert in_every_stage(books[:2], STAGES) == NONE


def test_with_nobody_to_ask_the_ledger_is_new():
    made = rebuild(empty(), [], [], {}, STAGES).value
    assert made.ledger == empty()
    assert made.ledger.grant(0).first == 0


def test_trainers_keep_what_they_hold_and_the_rest_is_lent_again():
    books = [book("front.0.0.0", span((0, 13))), book("back.0.0.0", span((0, 10), (11, 13)))]
    decision = rebuild(empty(), books, [lease(99, 0, 20, 25, 30)], {}, STAGES)
    ledger = decision.value.ledger
    assert ledger.of(0) == [lease(99, 0, 20, 25, 30)]
    assert ledger.done == span((0, 10), (11, 13), (20, 25))
    assert waiting(ledger) == [(10, 11, -1), (13, 20, -1)]
    assert decision.reason == (
        "17 batches are committed, 5 lent to 1 pipelines, 8 will be lent again"
    )


def test_what_one_pipelines_experts_have_in_part_is_for_that_pipeline_alone():
    books = [
        book("front.0.0.0", local=span((0, 6))),
        book("back.0.0.0", local=span((0, 5))),
        book("front.0.1.0", local=span((8, 9))),
        book("back.0.1.0"),
    ]
    routes = {3: route("front.0.0.0", "back.0.0.0"), 4: route("front.0.1.0", "back.0.1.0")}
    ledger = rebuild(empty(), books, [], routes, STAGES).value.ledger
    assert waiting(ledger) == [(5, 6, 3), (6, 8, -1), (8, 9, 4)]


def test_what_the_last_record_says_was_lent_is_not_lent_as_new():
    ledger = rebuild(empty(next_batch=40), [], [], {}, STAGES).value.ledger
    assert waiting(ledger) == [(0, 40, -1)]
    assert ledger.lost() == 0


def test_of_two_pipelines_with_the_same_batches_the_higher_fence_keeps_them():
    claims = [lease(5, 0, 0, 3, 10), lease(9, 1, 4, 4, 14)]
    made = rebuild(empty(), [], claims, {}, STAGES).value
    assert made.conflicts == {0}
    assert [held.fence for held in made.ledger.leases.values()] == [9]
    assert made.ledger.lost() == 0


def test_duplicates_that_rounds_found_are_counted_once_a_stage():
    books = [book("front.0.0.0", duplicated=2), book("front.0.1.0", duplicated=2)]
    assert rebuild(empty(), books, [], {}, STAGES).value.ledger.duplicated == 2


def test_a_trainer_that_is_heard_of_late_keeps_what_nobody_else_was_lent():
    ledger = rebuild(empty(next_batch=20), [], [], {}, STAGES).value.ledger
    assert adopt(ledger, [lease(7, 0, 0, 4, 10), lease(8, 0, 25, 25, 30)])
    assert waiting(ledger) == [(10, 20, -1), (20, 25, -1)]
    assert ledger.report(0, 8, 30)
    assert (ledger.committed, ledger.lost()) == (9, 0)


def test_a_trainer_that_is_heard_of_too_late_must_start_anew():
    ledger = rebuild(empty(next_batch=20), [], [], {}, STAGES).value.ledger
    ledger.grant(1)
    assert not adopt(ledger, [lease(7, 0, 0, 4, 12)])
    assert ledger.lost() == 0


def trainer(pipeline, *uids):
    return TrainerInfo("t", TrainerRecord((), 1, pipeline, uids, 3, 0, 0.7, 9.0, 27, 0, 1.0))


def test_routes_are_those_that_trainers_run_where_all_their_experts_serve():
    view = view_of(
        STAGES,
        info("a", "front.0.0.0"),
        info("b", "back.0.0.0"),
        info("c", "front.0.1.0"),
    )
    trainers = (
        trainer(0, "front.0.0.0", "back.0.0.0"),
        trainer(1, "front.0.1.0", "back.0.1.0"),
        trainer(2, "front.0.1.0", "back.0.0.0"),
        trainer(-1),
    )
    routes = known_routes(type(view)(view.stages, trainers=trainers))
    assert {number: [hop.peer_id for hop in found] for number, found in routes.items()} == {
        0: ["a", "b"]
    }


BATCH_SETS = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 8)), max_size=4).map(
    lambda pairs: IntervalSet.from_pairs((first, first + size) for first, size in pairs)
)
CLAIMS = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 40), st.integers(0, 6), st.integers(0, 6)),
    max_size=4,
).map(
    lambda rows: [
        lease(100 + i, pipeline, first, first + done, first + done + rest)
        for i, (pipeline, first, done, rest) in enumerate(rows)
    ]
)


@given(BATCH_SETS, BATCH_SETS, BATCH_SETS, CLAIMS, st.integers(0, 50))
def test_no_batch_is_lost_and_none_is_lent_twice_while_it_is_held(
    front, back, local, claims, next_batch
):
    books = [book("front.0.0.0", front, local), book("back.0.0.0", back)]
    routes = {0: route("front.0.0.0", "back.0.0.0")}
    made = rebuild(empty(next_batch=next_batch), books, claims, routes, STAGES).value
    ledger = made.ledger
    for _ in range(30):
        for pipeline in range(3):
            ledger.grant(pipeline, [held.fence for held in ledger.of(pipeline)])
    held = [(x.next, x.end) for x in ledger.leases.values()]
    everything = [*ledger.done.pairs, *held, *((w.first, w.end) for w in ledger.waiting)]
    assert sum(end - first for first, end in everything) == len(span(*everything))
    assert ledger.lost() == 0
    assert span(*everything) == span((0, ledger.next_batch))


@given(CLAIMS, CLAIMS)
def test_late_claims_never_overlap_what_is_held(first, late):
    ledger = rebuild(empty(), [], first, {}, STAGES).value.ledger
    ledger.grant(5)
    before = span(*((x.next, x.end) for x in ledger.leases.values()))
    known = set(ledger.leases)
    adopt(ledger, [lease(held.fence + 50, 7, held.first, held.next, held.end) for held in late])
    new = span(*((x.next, x.end) for x in ledger.leases.values() if x.fence not in known))
    assert not new.overlap(before)
