"""Processes of one machine with a data server: `python -m tests.support.data_machine ROLE JOB`.

`host` keeps a data server. `trainer` reads leases from standard input, one JSON object a line,
and writes a line for every batch that it has. Both write their events, too.
"""

import asyncio
import hashlib
import json
import sys
from functools import partial

from distqatd.base.clock import SystemClock
from distqatd.base.events import EventLog
from distqatd.base.rng import system_rng
from distqatd.compute.executor import DeviceExecutor
from distqatd.daemon.data_host import DataHost
from distqatd.data.batches import Batch, Finish, open_dataset
from distqatd.roles.batches import LaterBatches
from distqatd.roles.data_calls import Job
from distqatd.roles.data_feed import ServedBatches

STEP_S = 0.02


class Told(EventLog):
    """Events go to standard output as they come."""

    def emit(self, kind, /, *, degraded=False, **fields):
        say(event=kind, degraded=degraded, **fields)
        return super().emit(kind, degraded=degraded, **fields)


def say(**fields) -> None:
    print(json.dumps(fields), flush=True)


def digest(batch: Batch) -> str:
    found = hashlib.sha256()
    for tensor in (*batch.inputs, *batch.targets):
        found.update(tensor.numpy().tobytes())
    return found.hexdigest()


async def host(name: str, job: Job) -> None:
    await DataHost(name, job, Told(SystemClock()), system_rng()).run()


async def trainer(name: str, job: Job) -> None:
    executor = DeviceExecutor("cpu", 1)
    data, seed, size = job.data, job.seed, job.batch_size
    own = LaterBatches(partial(open_dataset, data, seed, size), executor)
    finish = Finish.of(data, seed, size)
    mine = own if data.transform is None else None
    events, rng = Told(SystemClock()), system_rng()
    batches = ServedBatches(name, finish, executor, mine, events, rng)
    say(event="up")
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        lease = json.loads(line)
        for number in range(lease["first"], lease["end"]):
            batch = await batches.batch(number, lease["end"])
            await asyncio.sleep(STEP_S)
            say(number=number, digest=digest(batch))


if __name__ == "__main__":
    role, name, job = sys.argv[1:]
    with asyncio.Runner() as runner:
        runner.run({"host": host, "trainer": trainer}[role](name, Job.from_json(job)))
