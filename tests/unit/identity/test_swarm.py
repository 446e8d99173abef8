from pathlib import Path

import pytest

from distqatd.base.errors import IdentityError
from distqatd.base.rng import seeded_rng
from distqatd.identity.swarm import (
    Swarm,
    generate_secret,
    load_or_create_secret,
    load_secret,
    open_swarm,
    secret_swarm,
)

SECRET = generate_secret(seeded_rng("secret"))


def _keys(swarm: Swarm) -> set[bytes]:
    return {swarm.ca_key.private_bytes_raw(), swarm.datagram_key, bytes.fromhex(swarm.swarm_id)}


def test_every_member_derives_the_same_swarm() -> None:
    assert _keys(secret_swarm("demo", SECRET)) == _keys(secret_swarm("demo", SECRET))
    assert _keys(open_swarm("demo")) == _keys(open_swarm("demo"))


def test_no_two_derived_keys_are_equal_within_or_between_swarms() -> None:
    swarms = [
        open_swarm("demo"),
        open_swarm("demo2"),
        secret_swarm("demo", SECRET),
        secret_swarm("demo", bytes(32)),
        open_swarm("secret\0".strip("\0")),
    ]
    assert len(set().union(*map(_keys, swarms))) == 3 * len(swarms)


def test_the_name_of_a_secret_swarm_is_only_a_label() -> None:
    assert secret_swarm("a", SECRET).swarm_id == secret_swarm("b", SECRET).swarm_id


def test_keys_are_not_in_the_repr() -> None:
    swarm = secret_swarm("demo", SECRET)
    assert "key" not in repr(swarm)
    assert swarm.swarm_id in repr(swarm)


@pytest.mark.parametrize("name", ["", "  ", "a\nb", "\x1b[2J", "ü" * 33])
def test_an_unusable_name_is_refused(name: str) -> None:
    with pytest.raises(IdentityError, match="cannot name a swarm"):
        open_swarm(name)


def test_a_secret_of_the_wrong_length_is_refused() -> None:
    with pytest.raises(IdentityError, match="32 bytes, not 5"):
        secret_swarm("demo", b"short")


def test_a_generated_secret_is_kept_private_and_stays_the_same(tmp_path: Path) -> None:
    path = tmp_path / "swarm.secret"
    secret = load_or_create_secret(path)
    assert load_or_create_secret(path) == load_secret(path) == secret
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_secret_open_to_others_is_refused_with_the_chmod_to_run(tmp_path: Path) -> None:
    path = tmp_path / "swarm.secret"
    load_or_create_secret(path)
    path.chmod(0o640)
    with pytest.raises(IdentityError, match=f"chmod 600 {path}"):
        load_secret(path)


def test_loading_never_creates_a_secret(tmp_path: Path) -> None:
    with pytest.raises(IdentityError, match="cannot read"):
        load_secret(tmp_path / "swarm.secret")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"hunter2", b"00" * 31, b"00" * 33, b"\xff" * 64])
def test_a_file_that_is_no_secret_is_refused_without_showing_it(
    tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "swarm.secret"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(IdentityError, match="64 hex digits") as caught:
        load_secret(path)
    assert "hunter2" not in str(caught.value)
