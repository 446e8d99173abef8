"""Sums of what rounds cost."""

import pytest

from distqatd.daemon.describe import sync_costs
from distqatd.pipeline.syncs import Syncs


def test_aborted_rounds_cost_time_and_the_rate_is_that_of_the_last_commit():
    syncs = Syncs()
    assert syncs.mbit_per_s == 0.0
    syncs.committed(2.0, 1_000_000)
    syncs.aborted(3.0)
    syncs.committed(4.0, 3_000_000)
    assert (syncs.num_committed, syncs.num_aborted, syncs.seconds) == (2, 1, 9.0)
    assert syncs.bytes_sent == 4_000_000
    assert syncs.mbit_per_s == pytest.approx(6.0)
    assert sync_costs(syncs).model_dump() == {
        "committed": 2,
        "aborted": 1,
        "seconds": 9.0,
        "bytes_sent": 4_000_000,
        "mbit_per_s": 6.0,
    }
