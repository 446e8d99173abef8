from pathlib import Path

import pytest

from distqatctl.errors import CommandFailed
from distqatctl.local import folders
from distqatctl.local.folders import open_folders


@pytest.fixture(autouse=True)
def _in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "t").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "t"))
    monkeypatch.setattr(folders, "_LONGEST_ROOT", 1000)


def test_a_temporary_state_folder_is_private_and_removed_whatever_happens(tmp_path: Path) -> None:
    def fail() -> None:
        with open_folders("digits", None) as opened:
            assert opened.state_root.stat().st_mode & 0o777 == 0o700
            assert opened.log_dir == Path("logs/digits")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert list((tmp_path / "t").iterdir()) == []
    assert (tmp_path / "logs/digits").is_dir()


def test_a_named_state_folder_is_kept(tmp_path: Path) -> None:
    with open_folders("digits", tmp_path / "keep") as opened:
        (opened.state_root / "swarm.secret").write_text("x")
    assert (tmp_path / "keep/swarm.secret").exists()


def test_the_join_file_of_an_earlier_run_is_gone() -> None:
    stale = Path("logs/digits/initial_peers.txt")
    stale.parent.mkdir(parents=True)
    stale.write_text("old")
    with open_folders("digits", None) as opened:
        assert not opened.join_file.exists()


def test_the_log_folder_belongs_to_one_run_at_a_time() -> None:
    with open_folders("digits", None):
        with pytest.raises(CommandFailed, match="logs/digits") as got, open_folders("digits", None):
            pass
        assert got.value.code == 8
        with open_folders("other", None):
            pass


def test_what_a_killed_run_left_is_removed_and_a_living_ones_is_not(tmp_path: Path) -> None:
    dead = tmp_path / "t" / "dq-dead"
    dead.mkdir()
    (dead / "local.lock").touch()
    foreign = tmp_path / "t" / "dq-notes"
    foreign.mkdir()
    with open_folders("one", None) as alive, open_folders("two", None):
        assert alive.state_root.exists()
        assert not dead.exists()
        assert foreign.exists()
