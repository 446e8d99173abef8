import errno
import os
import subprocess

import pytest

from distqatd.base.errors import CheckpointError, ConfigError
from distqatd.checkpoint import store as store_module
from distqatd.checkpoint.reading import look, newest_good, published_steps, verify
from distqatd.checkpoint.store import Store, read_run_config
from tests.support.checkpoints import RUN_CONFIG, fill, holds_what_was_written, open_store, publish


@pytest.fixture
def store(tmp_path):
    store = open_store(tmp_path / "kept", keep=3)
    yield store
    store.close()


def hidden(root):
    return [path.name for path in root.iterdir() if path.name.startswith(".")]


def test_a_checkpoint_is_invisible_until_it_is_published(store):
    draft = fill(store.begin(4, 100))
    assert look(store.root) == ((), ())
    draft.publish("run", RUN_CONFIG, "digest", 5.0)
    (good,), faults = look(store.root)
    assert not faults
    assert holds_what_was_written(good)
    assert good.manifest.outer_step == 4
    assert good.manifest.run == "run"
    assert read_run_config(good) == RUN_CONFIG
    assert list(good.manifest.batches.pairs) == [(0, 40)]
    assert hidden(store.root) == []


def test_the_batches_of_a_set_are_those_that_every_stage_has(store):
    published = publish(store, 1).manifest
    front, back = published.stages
    narrow = type(back)(back.name, "", "", {"batches": [5, 20]})
    both = type(published)("run", 1, "", 0.0, (front, narrow), {})
    assert both.batches.pairs == ((5, 10),)


def test_the_last_ones_are_kept(store):
    for step in range(1, 6):
        publish(store, step)
    assert published_steps(store.root) == [5, 4, 3]
    assert hidden(store.root) == []


def test_a_discarded_draft_leaves_nothing(store):
    draft = fill(store.begin(1, 100))
    draft.discard()
    draft.discard()
    assert hidden(store.root) == []
    assert published_steps(store.root) == []


def test_drafts_of_dead_writers_are_removed(store, tmp_path):
    fill(store.begin(1, 100))
    store.close()
    assert hidden(store.root) == [".new-step-000000000001"]
    open_store(store.root, keep=3).close()
    assert hidden(store.root) == []


def test_of_two_daemons_of_one_run_one_keeps_checkpoints_and_the_other_stands_by(store):
    assert Store.open(store.root, 3, "run digest") is None
    store.close()
    open_store(store.root).close()


def test_daemons_of_two_runs_never_share_a_folder(store):
    with pytest.raises(ConfigError, match=r"another run \(run digest\) keeps its checkpoints in"):
        Store.open(store.root, 3, "other digest")


def test_a_folder_that_cannot_be_made_is_an_error_with_its_name(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="file/kept cannot be used"):
        open_store(tmp_path / "file" / "kept", keep=1)


def flip_a_bit(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def truncate(path):
    os.truncate(path, path.stat().st_size - 1)


@pytest.mark.parametrize("damage", [flip_a_bit, truncate, os.unlink])
@pytest.mark.parametrize("name", ["front.safetensors", "run.json", "manifest.json"])
def test_a_damaged_checkpoint_is_passed_over_and_named(store, damage, name):
    publish(store, 1)
    damage(publish(store, 2).folder / name)
    found, (fault,) = newest_good(store.root)
    assert found is not None
    assert found.manifest.outer_step == 1
    assert fault.outer_step == 2
    assert name in fault.reason
    good, faults = look(store.root)
    assert [c.manifest.outer_step for c in good] == [1]
    assert [f.outer_step for f in faults] == [2]


def test_a_run_that_falls_back_overwrites_what_was_corrupt_and_keeps_the_good_one(tmp_path):
    store = open_store(tmp_path, keep=1)
    for step in (1, 3):
        damaged = publish(store, step).folder
    flip_a_bit(damaged / "back.safetensors")
    publish(store, 2)
    found, faults = newest_good(tmp_path)
    assert found.manifest.outer_step == 2
    assert [fault.outer_step for fault in faults] == [3]
    publish(store, 3)
    assert look(tmp_path)[1] == ()
    assert published_steps(tmp_path) == [3]
    store.close()


def test_a_folder_under_another_name_is_not_believed(store):
    folder = publish(store, 1).folder
    folder.rename(folder.with_name("step-000000000009"))
    assert newest_good(store.root)[0] is None


def test_space_is_checked_before_anything_is_written(store):
    publish(store, 1)
    with pytest.raises(CheckpointError, match=r"does not fit .* lower param_mirror.keep"):
        store.begin(2, 1 << 60)
    assert hidden(store.root) == []


@pytest.mark.parametrize("call", ["posix_fallocate", "fsync", "rename"])
def test_a_disk_that_fails_leaves_the_older_ones_and_no_debris(store, monkeypatch, call):
    publish(store, 1)

    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    if call == "rename":
        monkeypatch.setattr(store_module.Path, "rename", fail)
    else:
        monkeypatch.setattr(os, call, fail)
    with pytest.raises(CheckpointError, match="of outer step 2 cannot be kept: No space left"):
        publish(store, 2)
    monkeypatch.undo()
    good, faults = look(store.root)
    assert [c.manifest.outer_step for c in good] == [1]
    assert faults == ()
    assert hidden(store.root) == []


def test_a_full_disk_leaves_the_older_ones_and_no_debris(tmp_path, monkeypatch):
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(tmp_path)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip("mounting a tmpfs is not allowed here")
    try:
        store = open_store(tmp_path / "kept", keep=3)
        publish(store, 1, num_values=40_000)
        with pytest.raises(CheckpointError, match="does not fit"):
            publish(store, 2, num_values=100_000)
        # Somebody else filled the disk after we looked.
        monkeypatch.setattr(store_module, "_free_bytes", lambda _: 1 << 40)
        with pytest.raises(CheckpointError, match="No space left on device"):
            publish(store, 2, num_values=100_000)
        good, faults = look(store.root)
        assert [c.manifest.outer_step for c in good] == [1]
        assert not faults
        assert hidden(store.root) == []
        store.close()
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_reader_beside_a_writer_sees_whole_checkpoints_only(store, monkeypatch):
    publish(store, 1)
    plain = store_module.hash_file
    seen = []

    def look_meanwhile(path):
        seen.append(newest_good(store.root))
        return plain(path)

    monkeypatch.setattr(store_module, "hash_file", look_meanwhile)
    for step in range(2, 8):
        publish(store, step)
    assert all(found is not None and not faults for found, faults in seen)


def test_a_checkpoint_that_is_removed_while_it_is_read_is_no_fault(store, monkeypatch):
    from distqatd.checkpoint import reading

    folder = publish(store, 1).folder

    def vanish(path):
        folder.rename(folder.with_name(".old-step-000000000001"))
        raise CheckpointError("gone")

    monkeypatch.setattr(reading, "hash_file", vanish)
    assert newest_good(store.root) == (None, ())


def test_a_manifest_never_leads_out_of_its_folder(store):
    checkpoint = publish(store, 1)
    manifest = checkpoint.manifest
    outside = {**manifest.files, "../../etc/passwd": manifest.files["run.json"]}
    bad = type(manifest)("run", 1, "", 0.0, manifest.stages, outside)
    (checkpoint.folder / "manifest.json").write_bytes(bad.to_json())
    with pytest.raises(CheckpointError, match="names a file"):
        verify(checkpoint.folder)
