import pytest
from pydantic import ValidationError

from distqatd.config.control import ControlConfig


def test_everything_is_taken_unless_the_owner_says_otherwise() -> None:
    assert ControlConfig().refuse == ()
    assert ControlConfig(refuse=("reassign",)).refuse == ("reassign",)


def test_a_kind_that_does_not_exist_cannot_be_refused() -> None:
    with pytest.raises(ValidationError, match="reboot is none of drain, resume, reassign"):
        ControlConfig(refuse=("drain", "reboot"))


def test_a_deadline_of_zero_means_at_once_and_a_negative_one_nothing() -> None:
    assert ControlConfig(stop_deadline=0).stop_deadline == 0
    with pytest.raises(ValidationError):
        ControlConfig(stop_deadline=-1)
