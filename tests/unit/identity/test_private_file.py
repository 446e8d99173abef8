import os
from pathlib import Path

import pytest

from distqatd.base.errors import IdentityError
from distqatd.identity import private_file
from distqatd.identity.private_file import read_or_create_private, read_private


def test_a_created_file_is_private_and_leaves_no_draft(tmp_path: Path) -> None:
    path = tmp_path / "state" / "secret"
    assert read_or_create_private(path, b"first") == b"first"
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert list(path.parent.iterdir()) == [path]


def test_an_existing_file_is_never_replaced(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    read_or_create_private(path, b"first")
    assert read_or_create_private(path, b"second") == b"first"


def test_of_two_processes_creating_it_both_get_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "secret"
    link = os.link

    def link_after_the_other_process(draft: str, target: Path) -> None:
        monkeypatch.setattr(os, "link", link)
        read_or_create_private(path, b"theirs")
        link(draft, target)

    monkeypatch.setattr(os, "link", link_after_the_other_process)
    assert read_or_create_private(path, b"ours") == b"theirs"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o660, 0o604, 0o620, 0o601])
def test_a_mode_open_to_others_is_refused_with_the_chmod_to_run(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "identity.key"
    read_or_create_private(path, b"x")
    path.chmod(mode)
    with pytest.raises(IdentityError, match=f"chmod 600 {path}"):
        read_private(path)
    with pytest.raises(IdentityError, match=f"{mode:04o}"):
        read_or_create_private(path, b"y")


def test_a_credential_owned_by_root_with_group_read_is_accepted_for_a_service_user(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    credential = os.stat_result((0o100440, 1, 1, 1, 0, 0, 3, 0, 0, 0))
    private_file._refuse_loose_mode(Path("credential"), credential)
    world_readable = os.stat_result((0o100444, 1, 1, 1, 0, 0, 3, 0, 0, 0))
    with pytest.raises(IdentityError):
        private_file._refuse_loose_mode(Path("credential"), world_readable)


def test_a_missing_file_names_the_path(tmp_path: Path) -> None:
    with pytest.raises(IdentityError, match="absent: No such file"):
        read_private(tmp_path / "absent")


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "big"
    with pytest.raises(IdentityError, match="larger than"):
        read_or_create_private(path, bytes(private_file.MAX_BYTES + 1))


def test_a_folder_that_cannot_be_made_is_an_identity_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(IdentityError, match="cannot create"):
        read_or_create_private(tmp_path / "file" / "key", b"x")
