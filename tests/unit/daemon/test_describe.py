import pytest

from distqatd.daemon import describe
from distqatd.swarm.records import LeaseRecord, TrainerRecord
from distqatd.swarm.view import TrainerInfo
from tests.support.views import info, view_of


def lease(**fields):
    values = {
        "addresses": (),
        "boot_epoch": 1,
        "term": 1,
        "next_batch": 5,
        "num_pipelines": 1,
        "num_gaps": 0,
        "committed": 5,
        "replayed": 1,
        "lost": 0,
        "duplicated": 0,
        "is_finished": False,
        "finished_unix_s": 0.0,
        "eval_loss": -1.0,
        "eval_accuracy": -1.0,
    }
    return LeaseRecord(**{**values, **fields})


def with_lease(view, record):
    return type(view)(view.stages, view.joiners, view.trainers, view.peers, {"client": record})


FULL = view_of(("head", "tail"), info("a", "head.0.0.0"), info("b", "tail.0.0.0"))
GAP = view_of(("head", "tail"), info("a", "head.0.0.0"))


@pytest.mark.parametrize(
    ("view", "expected"),
    [
        (GAP, "waiting"),
        (FULL, "training"),
        (with_lease(FULL, lease(is_finished=True)), "finished"),
    ],
)
def test_the_state_of_the_run_in_one_word(view, expected):
    assert describe.training_state(view) == expected


def test_a_gap_comes_with_the_command_that_fills_it():
    (gap,) = describe.gaps(GAP)
    assert gap.stage == "tail"
    assert "--stage tail" in gap.suggestion


@pytest.mark.parametrize(
    ("digests", "num_serving", "expected"),
    [
        ({(1, "x")}, 2, True),
        ({(1, "x"), (1, "y")}, 2, False),
        ({(1, "x"), (2, "y")}, 2, None),
        ({(1, "x")}, 1, None),
    ],
)
def test_replicas_are_compared_only_at_the_same_outer_step(digests, num_serving, expected):
    assert describe.identical(digests, num_serving) is expected


def test_an_evaluation_appears_once_there_is_one():
    assert describe.evaluation(None) is None
    assert describe.evaluation(lease()) is None
    found = describe.evaluation(lease(eval_loss=0.5, eval_accuracy=0.9))
    assert (found.loss, found.accuracy) == (0.5, 0.9)
    assert describe.evaluation(lease(eval_loss=0.5)).accuracy is None


def test_of_several_clients_the_one_with_the_highest_term_is_believed():
    leases = {"a": lease(committed=1), "b": lease(committed=2, term=9), "c": lease(term=9)}
    view = type(FULL)(FULL.stages, leases=leases)
    assert describe.batches(describe.lease_of(view)).committed == 2
    assert (describe.duty(view).peer_id, describe.duty(view).term) == ("b", 9)
    assert describe.duty(FULL) is None


def test_a_route_with_a_lost_expert_says_so():
    record = TrainerRecord((), 1, 0, ("head.0.0.0", "tail.0.0.0"), 3, 0, 0.7, 9.0, 27, 0, 1.0)
    view = type(GAP)(GAP.stages, trainers=(TrainerInfo("t", record),))
    (row,) = describe.pipeline_rows(view)
    assert [hop.nickname for hop in row.hops][1] == "lost"
    assert row.loss == 0.7
