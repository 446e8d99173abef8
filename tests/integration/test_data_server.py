"""The data server with real processes: trainers, the server and its parent are killed."""

import asyncio
import hashlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from distqatd.config.sections import DataConfig, DataServerConfig
from distqatd.data.batches import Finish, open_dataset
from distqatd.roles.data_calls import Job
from distqatd.roles.packets import listen
from distqatd.swarm.ledger import Ledger
from tests.support.processes import ENV

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(180)]

SEED, BATCH, LEASE = 5, 16, 5
WITHIN_S = 60.0

FLIP = """
import os, pathlib

def flip(inputs, targets, seed):
    with pathlib.Path(os.environ["SEEN"]).open("a") as file:
        file.write(f"{os.getpid()}\\n")
    return (inputs[0].flip(-1) + (0 if seed is None else seed % 5),), targets
"""


@dataclass
class Process:
    """A process of the machine, and the events it told."""

    process: asyncio.subprocess.Process
    events: list[dict] = field(default_factory=list)

    @property
    def pid(self) -> int:
        return self.process.pid

    def told(self, kind: str) -> list[dict]:
        return [event for event in self.events if event["event"] == kind]

    async def line(self) -> dict | None:
        """Return the next line that is no event; None at the end."""
        while line := await self.process.stdout.readline():
            said = json.loads(line)
            if "event" not in said:
                return said
            self.events.append(said)
        return None

    async def until(self, kind: str, number: int = 1) -> dict:
        async with asyncio.timeout(WITHIN_S):
            while len(self.told(kind)) < number:
                line = await self.process.stdout.readline()
                assert line, f"ended before {kind}"
                self.events.append(json.loads(line))
        return self.told(kind)[-1]

    def lend(self, first: int, end: int) -> None:
        self.process.stdin.write(json.dumps({"first": first, "end": end}).encode() + b"\n")


class Machine:
    """Processes in one group of processes."""

    def __init__(self, name: str, job: Job, env: dict[str, str]) -> None:
        self.name, self.job, self.env = name, job, env
        self.group: int | None = None
        self.started: list[Process] = []

    async def start(self, role: str) -> Process:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.support.data_machine", role),
            *(self.name, self.job.to_json()),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=self.env,
            process_group=self.group or 0,
        )
        self.group = self.group or process.pid
        self.started.append(Process(process))
        return self.started[-1]

    def kill(self) -> None:
        if self.group is not None:
            try:
                os.killpg(self.group, signal.SIGKILL)
            except ProcessLookupError:
                return

    def living(self) -> list[int]:
        found = []
        for process in psutil.process_iter():
            try:
                is_alive = process.status() != psutil.STATUS_ZOMBIE
                if is_alive and os.getpgid(process.pid) == self.group:
                    found.append(process.pid)
            except (psutil.Error, OSError):
                continue
        return found


@asynccontextmanager
async def machine(tmp_path: Path, **data) -> AsyncIterator[Machine]:
    config = DataConfig(dataset_name="digits", **data)
    job = Job(config, SEED, BATCH, DataServerConfig(mode="on", slots=6), str(tmp_path))
    path = os.pathsep.join([str(tmp_path / "site"), ENV["PYTHONPATH"]])
    env = {**ENV, "PYTHONPATH": path, "SEEN": str(tmp_path / "seen")}
    made = Machine(f"distqat-test-{os.getpid()}", job, env)
    try:
        yield made
    finally:
        made.kill()
        for one in made.started:
            await one.process.communicate()  # closes the pipes, too


def install_flip(site: Path) -> None:
    info = site / "flip-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: flip\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[distqat.transforms]\nflip = flipping:flip\n")
    (site / "flipping.py").write_text(FLIP)


def digests(total: int, *, flipped: bool) -> list[str]:
    """Return what the first batches of the run must be, made here."""
    data = DataConfig(dataset_name="digits")
    dataset, finish = open_dataset(data, SEED, BATCH), Finish.of(data, SEED, BATCH)
    found = []
    for number in range(total):
        inputs, targets = dataset.read(number)
        if flipped:
            inputs = (inputs[0].flip(-1) + transform_seed(number) % 5,)
        batch = finish.training((inputs, targets), number)
        text = b"".join(x.numpy().tobytes() for x in (*batch.inputs, *batch.targets))
        found.append(hashlib.sha256(text).hexdigest())
    return found


def transform_seed(number: int) -> int:
    digest = hashlib.sha256(f"{SEED}/transform/{number}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def mapped(pid: int) -> str:
    return Path(f"/proc/{pid}/maps").read_text()


class Run:
    """What the client does: lends, takes note, and lends again what a dead trainer had."""

    def __init__(self) -> None:
        self.is_enough = False
        self.ledger = Ledger(lease_size=LEASE)
        self.commits: list[tuple[int, str]] = []
        self.changed = asyncio.Event()

    async def train(self, number: int, trainer: Process) -> None:
        while not self.is_enough or self.ledger.waiting:
            lease = self.ledger.grant(number)
            trainer.lend(lease.first, lease.end)
            for batch in range(lease.first, lease.end):
                done = await trainer.line()
                if done is None:
                    self.ledger.reclaim(number)
                    self.ledger.free([number])
                    return
                assert done["number"] == batch
                self.commits.append((batch, done["digest"]))
                self.changed.set()
                assert self.ledger.report(number, lease.fence, batch + 1)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for what must happen while the trainers go on."""
        while not condition():
            self.changed.clear()
            await self.changed.wait()

    async def until_committed(self, more: int) -> None:
        wanted = len(self.commits) + more
        await self.until(lambda: len(self.commits) >= wanted)

    def check(self, *, flipped: bool) -> None:
        """Check that each batch was committed once, and that it was the right one."""
        total = self.ledger.next_batch
        assert sorted(batch for batch, _ in self.commits) == [*range(total)]
        expected = digests(total, flipped=flipped)
        assert all(digest == expected[batch] for batch, digest in self.commits)


async def test_trainers_and_server_are_killed_and_every_batch_is_committed_once(tmp_path: Path):
    install_flip(tmp_path / "site")
    run = Run()
    async with machine(tmp_path, transform="flip") as here, asyncio.timeout(150):
        host = await here.start("host")
        trainers = [await here.start("trainer") for _ in range(3)]
        async with asyncio.TaskGroup() as tasks:
            for number, trainer in enumerate(trainers):
                tasks.create_task(run.train(number, trainer))
            await run.until_committed(20)
            trainers[0].process.kill()
            await run.until_committed(20)
            server = (await host.until("data.server_started"))["pid"]
            os.kill(server, signal.SIGKILL)
            second = (await host.until("data.server_started", 2))["pid"]
            left = trainers[1:]
            await run.until(lambda: all(len(one.told("data.served")) == 2 for one in left))
            await run.until_committed(20)
            run.is_enough = True
        seen = {int(line) for line in (tmp_path / "seen").read_text().split()}
    run.check(flipped=True)
    assert seen == {server, second}  # nobody else has run the transform
    assert [len(one.told("data.server_lost")) for one in left] == [1, 1]


async def test_without_a_server_trainers_read_themselves_and_nothing_is_left(tmp_path: Path):
    run = Run()
    async with machine(tmp_path) as here, asyncio.timeout(150):
        host, trainer = await here.start("host"), await here.start("trainer")
        task = asyncio.create_task(run.train(0, trainer))
        # It may have begun before the host listened, and read for itself.
        await run.until(lambda: trainer.told("data.served"))
        await run.until_committed(20)
        server = (await host.until("data.server_started"))["pid"]
        assert server in here.living()
        for pid in (server, trainer.pid):
            maps = mapped(pid)
            assert "/memfd:distqat-batches (deleted)" in maps
            assert "/dev/shm" not in maps  # it would outlive kill -9
        host.process.kill()  # the server's parent, and nobody else
        await run.until(lambda: trainer.told("data.server_lost"))
        await run.until_committed(20)
        run.is_enough = True
        await task
        assert server not in here.living()
        assert trainer.told("data.server_lost")[0]["degraded"] is True
        assert trainer.told("data.unserved")[-1]["then"] == "reading here"
        here.kill()
        await trainer.process.wait()
        assert here.living() == []
    run.check(flipped=False)
    again = listen(f"distqat-test-{os.getpid()}")
    assert again is not None  # the name is free
    again.close()


async def test_a_server_whose_daemon_stops_says_good_bye(tmp_path: Path):
    run = Run()
    async with machine(tmp_path) as here, asyncio.timeout(150):
        host, trainer = await here.start("host"), await here.start("trainer")
        task = asyncio.create_task(run.train(0, trainer))
        await run.until(lambda: trainer.told("data.served"))
        host.process.send_signal(signal.SIGINT)
        await run.until(lambda: trainer.told("data.server_left"))
        run.is_enough = True
        await task
        assert trainer.told("data.server_left")[0]["degraded"] is False
        assert trainer.told("data.server_lost") == []
        assert await host.process.wait() != 0  # KeyboardInterrupt


async def test_workers_prepare_side_by_side_and_the_batches_are_the_same(tmp_path: Path):
    install_flip(tmp_path / "site")
    run = Run()
    async with machine(tmp_path, transform="flip", num_workers=2) as here, asyncio.timeout(150):
        host, trainer = await here.start("host"), await here.start("trainer")
        task = asyncio.create_task(run.train(0, trainer))
        server = (await host.until("data.server_started"))["pid"]

        def workers() -> set[int]:
            found = {int(line) for line in (tmp_path / "seen").read_text().split()}
            return found - {server}  # which reads one batch, to know its size

        await run.until_committed(30)
        first = workers()
        assert len(first) == 2
        os.kill(min(first), signal.SIGKILL)
        await run.until(lambda: len(workers()) == 3)  # another one took its place
        await run.until_committed(10)
        run.is_enough = True
        await task
        assert [event["pid"] for event in host.told("data.worker_ended")] in ([min(first)], [])
        host.process.send_signal(signal.SIGKILL)
        while set(here.living()) - {trainer.pid}:  # noqa: ASYNC110  nobody tells us
            await asyncio.sleep(0.05)
        assert not trainer.told("data.server_left")
    run.check(flipped=True)
