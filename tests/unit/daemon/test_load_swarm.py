import pytest

from distqatd.base.errors import ConfigError, IdentityError
from distqatd.config.sections import Config, NetworkConfig
from distqatd.daemon.app import load_swarm
from distqatd.daemon.options import Options
from distqatd.identity.invite import Invite
from distqatd.identity.swarm import open_swarm, secret_swarm

SECRET = bytes(range(32))


def options(folder, **network):
    return Options(("expert",), Config(network=NetworkConfig(**network)), folder)


def secret_file(folder):
    path = folder / "secret"
    path.write_text(SECRET.hex() + "\n")
    path.chmod(0o600)
    return path


def test_an_invite_brings_the_swarm_and_its_secret(tmp_path):
    invite = Invite("lab", False, SECRET, ("10.0.0.1:1",))
    swarm, secret = load_swarm(options(tmp_path, join=(str(invite),)))
    assert swarm.swarm_id == secret_swarm("lab", SECRET).swarm_id
    assert secret == SECRET


def test_a_secret_file_makes_a_member(tmp_path):
    given = options(tmp_path, join=("10.0.0.1:1",), secret_file=secret_file(tmp_path))
    assert load_swarm(given)[1] == SECRET


def test_an_open_swarm_needs_no_secret(tmp_path):
    swarm, secret = load_swarm(options(tmp_path, open_swarm=True, swarm_name="all"))
    assert (swarm.swarm_id, secret) == (open_swarm("all").swarm_id, None)


def test_joining_without_the_secret_is_an_error_with_the_fix(tmp_path):
    with pytest.raises(ConfigError, match="distqatctl invite"):
        load_swarm(options(tmp_path, join=("10.0.0.1:1",)))


def test_who_starts_a_swarm_makes_its_secret_and_keeps_it(tmp_path):
    _, first = load_swarm(options(tmp_path))
    _, again = load_swarm(options(tmp_path))
    assert first == again
    assert (tmp_path / "swarm.secret").stat().st_mode & 0o777 == 0o600


def test_a_joiner_never_makes_a_secret(tmp_path):
    given = options(tmp_path, join=("10.0.0.1:1",), secret_file=tmp_path / "missing")
    with pytest.raises(IdentityError, match="missing"):
        load_swarm(given)
    assert not (tmp_path / "missing").exists()
