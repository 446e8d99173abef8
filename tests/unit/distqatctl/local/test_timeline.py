from distqatctl.local.timeline import Said, resumed_from
from distqatd.api.schema import Event


def said(kind: str, at_unix_s: float = 0.0, **fields: str | int) -> Said:
    event = Event(number=1, time_unix_s=at_unix_s, kind=kind, fields=dict(fields), degraded=False)
    return Said("expert_0", event)


def test_a_line_has_the_time_since_the_kill_and_cannot_move_the_cursor():
    line = said("step.aborted", 12.5, pipeline=0, error="gone\x1b[2J").line(10.0)
    assert line == "  +2.50 s  expert_0   step.aborted pipeline=0 error=gone\\x1b[2J"


def test_the_outer_step_that_a_run_continues_from_is_that_of_the_loaded_checkpoint():
    loaded = [said("expert.state_loaded", source="mirror", outer_step=step) for step in (3, 3)]
    joined = said("expert.state_loaded", source="replicas", outer_step=9)
    assert resumed_from([*loaded, joined]) == 3
    assert resumed_from([joined]) is None
