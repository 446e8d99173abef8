from hypothesis import given
from hypothesis import strategies as st

from distqatd.swarm.ledger import Ledger


def test_pipelines_get_disjoint_ranges_in_order():
    book = Ledger(lease_size=10)
    first, second = book.grant(0), book.grant(1)
    assert (first.first, first.end) == (0, 10)
    assert (second.first, second.end) == (10, 20)
    assert second.fence > first.fence


def test_an_unfinished_lease_is_granted_again_from_its_last_committed_batch():
    book = Ledger(lease_size=10)
    lease = book.grant(0)
    assert book.commit(0, lease.fence, 4, 0)
    again = book.grant(0)
    assert (again.first, again.end) == (4, 10)
    assert again.fence > lease.fence


def test_a_report_under_an_old_fence_is_refused():
    book = Ledger(lease_size=10)
    old = book.grant(0)
    book.grant(0)
    assert not book.commit(0, old.fence, 0, 0)
    assert (book.committed, book.duplicated) == (0, 0)


def test_what_an_old_leaseholder_trained_after_its_range_was_lent_again_counts_twice():
    book = Ledger(lease_size=10)
    old = book.grant(0)
    book.commit(0, old.fence, 4, 0)
    book.grant(0)
    assert not book.commit(0, old.fence, 7, 0)
    assert (book.committed, book.duplicated) == (4, 3)


def test_what_a_pipeline_leaves_undone_goes_to_the_next_one():
    book = Ledger(lease_size=10)
    lease = book.grant(0)
    book.commit(0, lease.fence, 3, 0)
    book.release(0)
    assert (book.grant(1).first, book.leases[1].end) == (3, 10)
    assert book.lost() == 0


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 12), st.booleans()), max_size=60))
def test_every_batch_is_committed_lent_or_waiting_and_none_twice(actions):
    book = Ledger(lease_size=7)
    for pipeline, progress, releases in actions:
        if releases:
            book.release(pipeline)
            continue
        lease = book.leases.get(pipeline) or book.grant(pipeline)
        if lease.is_done:
            lease = book.grant(pipeline)
        book.commit(pipeline, lease.fence, lease.next + progress, 0)
    assert book.lost() == 0
    open_ranges = [(x.next, x.end) for x in book.leases.values()] + book.returned
    still = [b for first, end in open_ranges for b in range(first, end)]
    assert len(still) == len(set(still))
    assert book.committed == book.next_batch - len(still)


def test_batches_that_were_skipped_are_lost_not_committed():
    ledger = Ledger(lease_size=4)
    lease = ledger.grant(0)
    assert ledger.commit(0, lease.fence, 3, num_replayed=3, num_skipped=1)
    assert (ledger.committed, ledger.lost()) == (2, 1)
    assert ledger.commit(0, lease.fence, 3, num_replayed=0, num_skipped=5)  # nothing new
    assert (ledger.committed, ledger.lost()) == (2, 1)
