import pytest

from distqatd.base.errors import IdentityError
from distqatd.identity.directive import Operator
from distqatd.identity.operator import check_public_key, load_operators

KEY = bytes(range(32))


def load(file, **given):
    return load_operators(file, **{"is_first": False, "invited_by": None, "named": (), **given})


def test_the_first_machine_makes_the_key_for_its_owner_alone_and_keeps_it(tmp_path):
    file = tmp_path / "operator.key"
    first, again = load(file, is_first=True), load(file, is_first=True)
    assert file.stat().st_mode & 0o777 == 0o600
    assert first.signer.public_key == again.signer.public_key == first.of_swarm
    assert first.accepted == (Operator(first.of_swarm),)


def test_a_joiner_makes_none(tmp_path):
    found = load(tmp_path / "operator.key")
    assert (found.signer, found.of_swarm, found.accepted) == (None, None, ())
    assert not (tmp_path / "operator.key").exists()


def test_a_joiner_that_holds_the_file_can_sign_but_still_asks_who_the_operator_is(tmp_path):
    made = load(tmp_path / "operator.key", is_first=True)
    found = load(tmp_path / "operator.key", invited_by=KEY)
    assert found.signer.public_key == made.signer.public_key
    assert found.of_swarm == KEY


def test_what_the_owner_says_of_a_key_comes_before_what_the_swarm_says(tmp_path):
    found = load(tmp_path / "operator.key", invited_by=KEY, named=(f"{KEY.hex()}=resume",))
    assert found.accepted[0].kinds == {"resume"}


def test_a_key_file_that_others_can_read_is_refused(tmp_path):
    load(tmp_path / "operator.key", is_first=True)
    (tmp_path / "operator.key").chmod(0o644)
    with pytest.raises(IdentityError, match="chmod 600"):
        load(tmp_path / "operator.key", is_first=True)


def test_a_public_key_of_another_length_is_refused():
    assert check_public_key(KEY) == KEY
    with pytest.raises(IdentityError, match="32 bytes"):
        check_public_key(KEY[1:])
