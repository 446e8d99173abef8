"""Checkpoints of a small made-up run, and a process that is killed while it writes them."""

import hashlib
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

from distqatd.checkpoint.manifest import StageEntry
from distqatd.checkpoint.reading import Checkpoint, look
from distqatd.checkpoint.store import Draft, Store
from distqatd.checkpoint.tensor_file import TensorFile
from distqatd.wire.payload import TensorSpec

RUN_CONFIG = b'{"seed":0}'
CONFIG_DIGEST = hashlib.sha256(RUN_CONFIG).hexdigest()
STAGES = ("front", "back")


def open_store(root: Path, keep: int = 3) -> Store:
    store = Store.open(root, keep, "run digest")
    assert store is not None
    return store


def spec(name: str, num: int) -> TensorSpec:
    return TensorSpec(name, "float32", (num,), 4 * num)


def content(outer_step: int, stage: str, name: str, num_bytes: int) -> bytes:
    """Return bytes that no other step, stage or tensor has."""
    seed = hashlib.sha256(f"{outer_step} {stage} {name}".encode()).digest()
    return (seed * (num_bytes // len(seed) + 1))[:num_bytes]


def fill(draft: Draft, num_values: int = 1000) -> Draft:
    """Put every stage of the run into a draft."""
    step = draft.outer_step
    for stage in STAGES:
        specs = (spec("anchor", num_values), spec("momentum", num_values))
        meta = {"batches": [0, 10 * step], "int_buffers": {}}
        writer = draft.add_stage(StageEntry(stage, f"{stage}{step}", "layout", meta), specs)
        for one, data in zip(specs, writer.data, strict=True):
            data[:] = content(step, stage, one.name, one.nbytes)
    return draft


def publish(store: Store, outer_step: int, num_values: int = 1000) -> Checkpoint:
    draft = fill(store.begin(outer_step, 16 * num_values), num_values)
    return draft.publish("run", RUN_CONFIG, CONFIG_DIGEST, 1000.0 + outer_step)


def holds_what_was_written(checkpoint: Checkpoint) -> bool:
    step = checkpoint.manifest.outer_step
    for stage in STAGES:
        file = TensorFile(checkpoint.folder / f"{stage}.safetensors")
        for one, data in zip(file.layout.specs, file.data, strict=True):
            if data != content(step, stage, one.name, one.nbytes):
                return False
    return True


def _write_for_ever(root: Path, first: int, acks: int) -> None:
    store = open_store(root, keep=2)
    step = first
    while True:
        publish(store, step, num_values=20_000)
        os.write(acks, f"{step}\n".encode())
        step += 1


def _one_life(root: Path, first: int, delay_s: float) -> int:
    """Fork a writer, kill -9 it after a while, and return the last step it acked."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        _write_for_ever(root, first, writing)
    os.close(writing)
    time.sleep(delay_s)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    with os.fdopen(reading) as file:
        acked = [int(line) for line in file if line.endswith("\n")]
    return max(acked, default=first - 1)


def _seconds_to_publish(root: Path) -> float:
    """Publish the first checkpoint and return how long it took: machines differ a lot."""
    store = open_store(root, keep=2)
    began = time.perf_counter()
    publish(store, 1, num_values=20_000)
    store.close()
    return time.perf_counter() - began


def kill_writers(root: Path, num_kills: int, seed: int) -> dict[str, int]:
    """Kill writers at random instants; count what was lost and what was published corrupt."""
    rng = random.Random(seed)
    counts = {"kills": 0, "lost": 0, "corrupt": 0, "unfinished": 0, "published": 0}
    longest_s = 4 * _seconds_to_publish(root)
    newest = 1
    for _ in range(num_kills):
        acked = _one_life(root, newest + 1, rng.uniform(0.0, longest_s))
        counts["kills"] += 1
        counts["unfinished"] += any(path.name.startswith(".new-") for path in root.iterdir())
        good, faults = look(root)
        counts["corrupt"] += len(faults) + sum(not holds_what_was_written(c) for c in good)
        found = good[0].manifest.outer_step if good else 0
        counts["lost"] += found < acked
        newest = max(found, newest)
    counts["published"] = newest
    open_store(root, keep=2).close()
    counts["debris"] = sum(path.name.startswith(".") for path in root.iterdir())
    return counts


if __name__ == "__main__":
    print(json.dumps(kill_writers(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))))
