"""What a replica has trained since outer steps took it, fragment by fragment."""

import pytest
import torch

from distqatd.base.errors import CheckpointError
from distqatd.base.intervals import IntervalSet
from distqatd.compute.results import Snapshot
from distqatd.compute.work import LOCAL, Own, Work, read_own


def test_each_fragment_counts_from_its_own_outer_step() -> None:
    work = Work((0, 0)).trained(8).trained(8)
    assert (work.weight([0]), work.steps) == (16, 2)
    taken = work.less([0], 16, 2)
    assert taken == Work((0, 16), 0)
    assert taken.trained(8) == Work((8, 24), 1)
    assert taken.trained(8).unsent == 24


def test_an_outer_step_of_everything_takes_the_longest() -> None:
    work = Work((8, 24), 1)
    assert work.weight([0, 1]) == 24
    assert work.trained(8).less([0, 1], 24, 1) == Work((8, 8), 1)
    assert work.nothing() == Work((0, 0))


def own_of(**changes):
    own = Own(torch.arange(4.0), {"n": 3}, Work((3, 5), 2), IntervalSet().add(7, 9))
    meta = {**own.meta()["own"], **changes}
    return Snapshot(1, "", "", own.tensors(), {"own": meta})


def test_a_snapshot_gives_back_what_it_holds() -> None:
    found = read_own(own_of(), 4, 2)
    assert found is not None
    assert (found.work, found.batches) == (Work((3, 5), 2), IntervalSet().add(7, 9))
    assert torch.equal(found.local, torch.arange(4.0))
    assert read_own(Snapshot(1, "", "", {}), 4, 2) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"samples": [1]},
        {"samples": [1, -1]},
        {"steps": True},
        {"batches": [3, 1]},
        {"steps": "2"},
        {"ints": {"n": 0.5}},
    ],
)
def test_what_cannot_be_read_is_refused(changes) -> None:
    with pytest.raises(CheckpointError):
        read_own(own_of(**changes), 4, 2)
    with pytest.raises(CheckpointError):
        read_own(own_of(), 5, 2)


def test_the_own_state_is_not_what_replicas_have_in_common() -> None:
    whole = Snapshot(1, "", "", own_of().tensors, {**own_of().meta, "inner_step": 3, "inner": {}})
    assert whole.committed() == Snapshot(1, "", "", {}, {})
    assert LOCAL in whole.complete().tensors
