import pytest

from distqatd.base.errors import LocalProtocolError, StepAborted
from distqatd.pipeline.messages import SessionId
from distqatd.pipeline.session import HOLD, READY, Session
from distqatd.swarm.routes import Hop

ROUTE = (Hop("head.0.0.0", "a", 1), Hop("tail.0.0.0", "b", 1))


def session(num_microbatches=2):
    return Session(SessionId(3, 1), ROUTE, 0, num_microbatches, False, "trainer")


def run_step(held, step):
    for microbatch in range(held.num_microbatches):
        held.start(microbatch)
        held.finish(microbatch)
    assert held.may_commit(step)
    held.commit(step)


def test_the_next_step_waits_until_the_one_before_is_applied():
    held = session()
    assert held.admit(1, 0, is_paused=False) == READY
    assert held.admit(2, 0, is_paused=False) == HOLD
    held.start(0)
    assert held.admit(2, 0, is_paused=False) == HOLD
    run_step(held, 1)
    assert held.admit(2, 0, is_paused=False) == READY


def test_no_step_starts_while_a_round_runs():
    assert session().admit(1, 0, is_paused=True) == HOLD


def test_a_microbatch_is_taken_once():
    held = session()
    held.start(0)
    with pytest.raises(StepAborted):
        held.admit(1, 0, is_paused=False)
    run_step(held, 1)
    with pytest.raises(StepAborted):
        held.admit(1, 1, is_paused=False)


def test_a_microbatch_beyond_the_agreed_number_is_refused():
    with pytest.raises(StepAborted):
        session().admit(1, 2, is_paused=False)


def test_commit_needs_every_microbatch():
    held = session()
    held.start(0)
    held.finish(0)
    with pytest.raises(LocalProtocolError, match="1 of 2"):
        held.may_commit(1)


def test_a_repeated_commit_applies_nothing():
    held = session()
    run_step(held, 1)
    assert not held.may_commit(1)


def test_a_closed_session_refuses_work_but_still_confirms_what_it_applied():
    held = session()
    run_step(held, 1)
    held.close("replaced")
    assert not held.may_commit(1)
    with pytest.raises(StepAborted, match="replaced"):
        held.admit(2, 0, is_paused=False)
    with pytest.raises(StepAborted):
        held.may_commit(2)


def test_sessions_are_ordered_by_fence_then_serial():
    assert SessionId(2, 9) < SessionId(3, 0) < SessionId(3, 1)


def test_a_step_that_is_too_far_ahead_is_refused():
    with pytest.raises(StepAborted, match="too far ahead"):
        session().admit(3, 0, is_paused=False)
