from hypothesis import given
from hypothesis import strategies as st

from distqatd.base.intervals import IntervalSet
from distqatd.swarm.ledger import MAX_OPEN, TERM_BITS, Ledger


def span(first, end):
    return IntervalSet.from_pairs([(first, end)])


def test_pipelines_get_disjoint_ranges_in_order():
    book = Ledger(lease_size=10)
    first, second = book.grant(0), book.grant(1)
    assert (first.first, first.end) == (0, 10)
    assert (second.first, second.end) == (10, 20)
    assert second.fence > first.fence


def test_a_later_term_lends_under_higher_fences():
    old, new = Ledger(lease_size=10, term=3), Ledger(lease_size=10, term=4)
    for _ in range(3):
        last = old.grant(0)
        old.report(0, last.fence, last.end)
    assert new.grant(0).fence > last.fence
    assert last.fence >> TERM_BITS == 3


def test_a_pipeline_holds_several_leases_but_not_any_number():
    book = Ledger(lease_size=10)
    known = []
    for _ in range(MAX_OPEN):
        known.append(book.grant(0, known).fence)
    assert book.grant(0, known) is None
    assert len(set(known)) == MAX_OPEN
    book.report(0, known[0], 10)
    assert book.grant(0, known[1:]) is not None


def test_a_lease_that_its_trainer_never_heard_of_is_offered_again():
    book = Ledger(lease_size=10)
    lease = book.grant(0)
    assert book.grant(0) is lease
    assert book.grant(0, [lease.fence]) is not lease


def test_a_reclaimed_lease_is_granted_again_from_its_last_committed_batch():
    book = Ledger(lease_size=10)
    lease = book.grant(0)
    assert book.report(0, lease.fence, 4)
    book.reclaim(0)
    assert book.grant(1).first == 10  # the experts of the other pipeline cannot know what is done
    again = book.grant(0)
    assert (again.first, again.end) == (4, 10)
    assert again.fence > lease.fence


def test_what_waits_for_a_pipeline_that_will_not_come_back_goes_to_the_others():
    book = Ledger(lease_size=10)
    book.grant(0)
    book.reclaim(0)
    book.free([0])
    assert book.grant(1).first == 0
    assert book.lost() == 0


def test_a_long_range_that_waits_is_lent_in_pieces():
    book = Ledger(lease_size=4)
    known = [book.grant(0).fence]
    known.append(book.grant(0, known).fence)
    book.reclaim(0)
    book.lease_size = 3
    lease = book.grant(0)
    assert (lease.first, lease.end) == (0, 3)
    assert (book.grant(0, [lease.fence]).first) == 3
    assert book.lost() == 0


def test_a_report_under_another_fence_is_refused():
    book = Ledger(lease_size=10)
    old = book.grant(0)
    book.reclaim(0)
    book.grant(0)
    assert not book.report(0, old.fence, 5)
    assert not book.report(1, book.of(0)[0].fence, 5)
    assert book.committed == 0


def test_what_an_old_leaseholder_committed_is_believed_unless_it_was_lent_again():
    book = Ledger(lease_size=10)
    book.grant(0)
    book.reclaim(0)
    book.late(0, 4)
    assert (book.committed, book.grant(0).first) == (4, 4)
    book.late(4, 7)
    assert (book.committed, book.lost()) == (4, 0)


def test_what_is_in_the_books_of_every_stage_is_not_lent_again():
    book = Ledger(lease_size=10)
    book.grant(0)
    book.reclaim(0)
    book.settle(span(0, 3).union(span(5, 6)).union(span(90, 99)))
    ranges = [book.grant(0), book.grant(0, [book.of(0)[0].fence])]
    assert [(x.first, x.end) for x in ranges] == [(3, 5), (6, 10)]
    assert (book.committed, book.lost()) == (4, 0)


def test_batches_that_were_skipped_are_lost_not_committed():
    book = Ledger(lease_size=4)
    lease = book.grant(0)
    assert book.report(0, lease.fence, 3, num_skipped=1)
    assert (book.committed, book.lost()) == (2, 1)
    assert book.report(0, lease.fence, 3, num_skipped=5)  # nothing new
    assert (book.committed, book.lost()) == (2, 1)


STEPS = st.tuples(
    st.sampled_from(["grant", "report", "reclaim", "free", "late", "settle"]),
    st.integers(0, 2),
    st.integers(0, 12),
)


@given(st.lists(STEPS, max_size=60))
def test_every_batch_is_committed_lent_or_waiting_and_none_twice(steps):
    book = Ledger(lease_size=7)
    for action, pipeline, amount in steps:
        held = book.of(pipeline)
        match action:
            case "grant":
                book.grant(pipeline, [lease.fence for lease in held])
            case "report" if held:
                book.report(pipeline, held[0].fence, held[0].next + amount)
            case "reclaim":
                book.reclaim(pipeline)
            case "free":
                book.free([pipeline])
            case "late":
                book.late(amount, amount + 5)
            case "settle":
                book.settle(span(amount, amount + 3))
        assert_partition(book)


def assert_partition(book):
    parts = [*book.done.pairs, *((x.next, x.end) for x in book.leases.values())]
    parts += [(w.first, w.end) for w in book.waiting]
    everything = IntervalSet.from_pairs(parts)
    assert sum(end - first for first, end in parts) == len(everything) == book.next_batch
    assert everything == span(0, book.next_batch)
    assert book.lost() == 0
