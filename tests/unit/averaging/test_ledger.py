"""Promises are on disk before they are given, survive a restart, and stay few."""

import asyncio

import pytest

from distqatd.averaging.ballots import (
    Accept,
    Ballot,
    Learn,
    Prepare,
    Promised,
    Refused,
    StepKey,
    Value,
)
from distqatd.averaging.ledger import MAX_ENTRIES, MAX_STEPS, Ledger
from distqatd.base.disk import FileDisk
from distqatd.base.errors import CheckpointError
from distqatd.base.ids import make_uid
from tests.support.memory_disk import MemoryDisk

UID = make_uid("tail", 0)
KEY = StepKey("tail", 3, "anchor")
VALUE = Value(KEY, "round", ("tail.0.0.0@a", "tail.0.1.0@b"), "digest")


def ballot(number: int) -> Ballot:
    return Ballot(number, "tail.0.1.0@b")


async def test_what_was_promised_and_accepted_survives_a_restart() -> None:
    disk = MemoryDisk()
    await Ledger(disk).react(UID, KEY, Prepare(ballot(3)))
    await Ledger(disk).react(UID, KEY, Accept(ballot(4), VALUE))
    again = Ledger(disk)
    assert await again.react(UID, KEY, Prepare(ballot(3))) == Refused(ballot(4))
    assert await again.react(UID, KEY, Prepare(ballot(5))) == Promised(ballot(4), VALUE)


async def test_a_promise_whose_write_fails_is_not_given() -> None:
    disk = MemoryDisk()
    ledger = Ledger(disk)

    async def full() -> None:
        raise CheckpointError("no space left")

    disk.on_write = full
    with pytest.raises(CheckpointError):
        await ledger.react(UID, KEY, Prepare(ballot(3)))
    disk.on_write = None
    assert await ledger.react(UID, KEY, Prepare(ballot(1))) == Promised()


async def test_two_requests_at_the_same_time_see_each_other() -> None:
    disk = MemoryDisk()
    ledger = Ledger(disk)

    async def slowly() -> None:
        await asyncio.sleep(0)

    disk.on_write = slowly
    async with asyncio.TaskGroup() as tasks:
        high = tasks.create_task(ledger.react(UID, KEY, Prepare(ballot(9))))
        low = tasks.create_task(ledger.react(UID, KEY, Accept(ballot(2), VALUE)))
    assert (high.result(), low.result()) == (Promised(), Refused(ballot(9)))


async def test_an_answer_that_changes_nothing_is_not_written() -> None:
    disk = MemoryDisk()
    ledger = Ledger(disk)
    await ledger.react(UID, KEY, Prepare(ballot(3)))
    await ledger.react(UID, KEY, Prepare(ballot(3)))
    await ledger.react(UID, KEY, Prepare(ballot(1)))
    await ledger.react(UID, KEY, Learn(ballot(3), VALUE))
    assert disk.num_writes == 1


async def test_a_leader_that_restarts_takes_another_ballot() -> None:
    disk = MemoryDisk()
    first = await Ledger(disk).reserve(UID, KEY, "tail.0.0.0@a", 0)
    second = await Ledger(disk).reserve(UID, KEY, "tail.0.0.0@a", 0)
    third = await Ledger(disk).reserve(UID, KEY, "tail.0.0.0@a", 17)
    assert first < second < third
    assert third.number == 18


async def test_it_stays_small() -> None:
    disk = MemoryDisk()
    ledger = Ledger(disk)
    for index in range(MAX_ENTRIES):
        for step in range(MAX_STEPS + 3):
            key = StepKey("tail", step, "anchor")
            await ledger.react(make_uid("tail", index), key, Accept(ballot(1), VALUE))
    last = make_uid("tail", MAX_ENTRIES - 1)
    assert (await ledger.look(last, StepKey("tail", 2, "anchor"))).promised is None
    assert (await ledger.look(last, StepKey("tail", 3, "anchor"))).promised == ballot(1)
    assert len(disk.content["document"]) < 400 * MAX_ENTRIES


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b'{"version": 2}', b'{"version":1,"voters":[3]}']
)
async def test_a_ledger_that_cannot_be_read_promises_nothing(data: bytes) -> None:
    with pytest.raises(CheckpointError, match=r"ballots\.json"):
        await Ledger(MemoryDisk({"document": data})).react(UID, KEY, Prepare(ballot(1)))


async def test_a_file_is_replaced_whole(tmp_path) -> None:
    async def in_thread(work):
        return work()

    disk = FileDisk(tmp_path / "ballots.json", in_thread)
    assert await disk.read() is None
    await disk.write(b"one")
    await disk.write(b"two")
    assert await disk.read() == b"two"
    assert [path.name for path in tmp_path.iterdir()] == ["ballots.json"]
    assert (tmp_path / "ballots.json").stat().st_mode & 0o777 == 0o600
    with pytest.raises(CheckpointError, match="gone"):
        await FileDisk(tmp_path / "gone" / "file", in_thread).write(b"three")
