from distqatd.config.sections import Config, ControlConfig, NetworkConfig
from distqatd.daemon.app import operators_of
from distqatd.daemon.options import Options
from distqatd.identity.invite import Invite

KEY = bytes(range(32))


def options(folder, control=None, **network):
    config = Config(network=NetworkConfig(**network), control=control or ControlConfig())
    return Options(("expert",), config, folder)


def test_the_first_machine_of_a_swarm_makes_the_operators_key_beside_the_secret(tmp_path):
    made = operators_of(options(tmp_path / "state", secret_file=tmp_path / "swarm.secret"))
    assert made.signer.public_key == made.of_swarm
    assert (tmp_path / "operator.key").stat().st_mode & 0o777 == 0o600
    assert not (tmp_path / "state").exists()


def test_another_daemon_of_the_same_owner_finds_it_there(tmp_path):
    made = operators_of(options(tmp_path))
    joiner = operators_of(options(tmp_path, join=("10.0.0.1:1",)))
    assert joiner.signer.public_key == made.signer.public_key


def test_an_invite_says_who_the_operator_is(tmp_path):
    invite = Invite("lab", True, None, ("10.0.0.1:1",), operator=KEY)
    found = operators_of(options(tmp_path, join=(str(invite),)))
    assert (found.of_swarm, found.signer) == (KEY, None)
    assert list(tmp_path.iterdir()) == []


def test_the_owner_names_file_and_further_operators(tmp_path):
    control = ControlConfig(
        operator_key_file=tmp_path / "elsewhere", operators=(f"{KEY.hex()}=drain",)
    )
    found = operators_of(options(tmp_path / "state", control))
    assert (tmp_path / "elsewhere").exists()
    assert found.accepted[0].kinds == {"drain"}
