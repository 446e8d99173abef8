import asyncio

import pytest

from distqatd.averaging.offers import Wanted
from distqatd.averaging.transfer import fetch
from distqatd.base.errors import CheckpointError, ConfigError
from distqatd.checkpoint.reading import look, published_steps
from distqatd.roles.mirror import refresh_due
from distqatd.roles.mirror_pull import common_step
from distqatd.swarm import records as r
from tests.support.contexts import kinds
from tests.support.loops import on_virtual_time
from tests.support.mirrors import Expert, mirror_of, state_of, world_of


async def run_for(mirror, seconds, during=None):
    """Run an opened mirror and the directory it follows."""
    context = mirror._context
    async with asyncio.TaskGroup() as tasks:
        running = [
            tasks.create_task(context.directory.run(lambda: 1.0)),
            tasks.create_task(mirror.run()),
        ]
        if during is not None:
            await during()
        await asyncio.sleep(seconds)
        for task in running:
            task.cancel()


async def opened(world, peer_id="mirror"):
    mirror = mirror_of(world, peer_id)
    await mirror._context.directory.refresh()
    await mirror.open()
    return mirror


def folder_of(world):
    return world.config.param_mirror.checkpoint_dir


@on_virtual_time
async def test_a_set_of_all_stages_at_one_outer_step_is_kept(tmp_path):
    world = world_of(tmp_path)
    for stage in ("front", "back"):
        Expert(world, stage, stage, outer_step=3)
    mirror = await opened(world)
    await run_for(mirror, 5)
    (good,), faults = look(folder_of(world))
    assert not faults
    assert good.manifest.outer_step == 3
    assert [stage.name for stage in good.manifest.stages] == ["front", "back"]
    assert good.manifest.stage("front").meta == {"batches": [0, 30], "inner_step": 15}
    assert "checkpoint.published" in kinds(mirror._context)
    assert mirror.outcome.ok


@on_virtual_time
async def test_what_is_kept_is_given_to_whoever_has_no_other_donor(tmp_path):
    world = world_of(tmp_path)
    for stage in ("front", "back"):
        Expert(world, stage, stage, outer_step=3)
    mirror = await opened(world)
    await run_for(mirror, 5)
    joiner = world.context("joiner")
    ((peer_id, record),) = await joiner.directory.mirrors()
    assert (peer_id, record.outer_step) == ("mirror", 3)
    donors = [(r.mirror_state("back"), peer_id)]
    state = await fetch(joiner.rpc, donors, joiner.events, wanted=Wanted("all"))
    assert state.meta == {"batches": [0, 30], "inner_step": 15}
    assert [bytes(d) for d in state.data] == [bytes(d) for d in state_of("back", 3).data]


@on_virtual_time
async def test_nothing_is_kept_before_the_first_outer_step_or_with_a_gap(tmp_path):
    world = world_of(tmp_path)
    Expert(world, "a", "front", outer_step=0)
    Expert(world, "b", "back", outer_step=0)
    mirror = await opened(world)
    mirror.ask()
    await run_for(mirror, 5)
    assert mirror.outcome.text == "no outer step is committed yet"
    world.board.drop("b")
    mirror.ask()
    await run_for(mirror, 5)
    assert mirror.outcome.text == "no expert serves back"
    assert not mirror.outcome.ok
    assert published_steps(folder_of(world)) == []


@on_virtual_time
async def test_a_stage_that_has_moved_on_is_waited_for_with_what_it_offered(tmp_path):
    world = world_of(tmp_path)
    front, back = Expert(world, "a", "front", 5), Expert(world, "b", "back", 6)
    front.say(6)  # the record is ahead of what it gives: it commits just now
    mirror = await opened(world)

    async def meanwhile():
        await asyncio.sleep(3)
        assert "checkpoint.missed" in kinds(mirror._context)
        back.reach(7)
        front.reach(6)

    await run_for(mirror, 5, meanwhile)
    (good,), _ = look(folder_of(world))
    assert good.manifest.outer_step == 6


@on_virtual_time
async def test_refresh_every_is_kept_except_when_asked_or_at_the_end(tmp_path):
    world = world_of(tmp_path, refresh_every=60.0)
    experts = [Expert(world, "a", "front", 1), Expert(world, "b", "back", 1)]
    mirror = await opened(world)

    async def steps():
        for step in range(2, 30):
            await asyncio.sleep(2)
            for expert in experts:
                expert.reach(step)

    await run_for(mirror, 0.5, steps)
    assert published_steps(folder_of(world)) == [1]
    mirror.ask()
    await run_for(mirror, 2)
    assert published_steps(folder_of(world)) == [29, 1]
    for expert in experts:
        expert.reach(100)
    await run_for(mirror, 2)
    assert published_steps(folder_of(world)) == [100, 29, 1]


@on_virtual_time
async def test_asking_for_what_is_kept_already_says_so_at_once(tmp_path):
    world = world_of(tmp_path)
    Expert(world, "a", "front"), Expert(world, "b", "back")
    mirror = await opened(world)
    await run_for(mirror, 3)
    number = mirror.outcome.number
    mirror.ask()
    await run_for(mirror, 2)
    assert mirror.outcome.number == number + 1
    assert not mirror.asked
    assert mirror.outcome.ok
    assert mirror.outcome.text == "outer step 1 is the newest, and it is kept"


@on_virtual_time
async def test_after_the_last_outer_step_inner_state_is_not_waited_for(tmp_path):
    world = world_of(tmp_path)
    for stage in ("front", "back"):
        Expert(world, stage, stage, 100).has_inner = False
    mirror = await opened(world)
    await run_for(mirror, 3)
    assert published_steps(folder_of(world)) == [100]


@on_virtual_time
async def test_without_inner_state_the_next_outer_step_is_taken(tmp_path):
    world = world_of(tmp_path)
    experts = [Expert(world, stage, stage, 4) for stage in ("front", "back")]
    for expert in experts:
        expert.has_inner = False
    mirror = await opened(world)

    async def next_step():
        await asyncio.sleep(30)
        for expert in experts:
            expert.has_inner = True
            expert.reach(5)

    await run_for(mirror, 3, next_step)
    assert published_steps(folder_of(world)) == [5]
    # Not asked every second for what they do not have.
    assert kinds(mirror._context).count("state.donor_dropped") <= 8


@on_virtual_time
async def test_a_disk_that_fails_leaves_the_older_checkpoint_and_is_told(tmp_path, monkeypatch):
    world = world_of(tmp_path, refresh_every=10.0)
    experts = [Expert(world, stage, stage, 1) for stage in ("front", "back")]
    mirror = await opened(world)
    await run_for(mirror, 2)
    for expert in experts:
        expert.reach(2)
    monkeypatch.setattr("distqatd.checkpoint.store._free_bytes", lambda _: 0)
    await run_for(mirror, 25)
    assert published_steps(folder_of(world)) == [1]
    assert not mirror.outcome.ok
    assert "does not fit" in mirror.outcome.text
    assert kinds(mirror._context).count("checkpoint.failed") in (2, 3)
    monkeypatch.undo()
    await run_for(mirror, 10)
    assert published_steps(folder_of(world)) == [2, 1]


@on_virtual_time
async def test_a_donor_whose_book_is_no_book_spoils_no_checkpoint(tmp_path):
    world = world_of(tmp_path)
    Expert(world, "a", "front")
    Expert(world, "b", "back").reach(1, batches=[3, 1])
    mirror = await opened(world)
    await run_for(mirror, 2)
    assert published_steps(folder_of(world)) == []
    assert "no book of batches" in mirror.outcome.text


@on_virtual_time
async def test_a_daemon_that_leaves_keeps_what_is_committed_first(tmp_path):
    world = world_of(tmp_path, refresh_every=1e6)
    experts = [Expert(world, stage, stage, 1) for stage in ("front", "back")]
    mirror = await opened(world)

    async def leave():
        await asyncio.sleep(2)
        for expert in experts:
            expert.reach(2)
        await asyncio.sleep(2)
        assert published_steps(folder_of(world)) == [1]
        await mirror.finish(10.0)
        assert published_steps(folder_of(world)) == [2, 1]
        began = asyncio.get_running_loop().time()
        await mirror.finish(10.0)  # nothing is left to do
        for expert in experts:
            expert.say(3)
        await asyncio.sleep(2)
        await mirror.finish(10.0)  # nobody gives what they say they have
        assert asyncio.get_running_loop().time() - began == pytest.approx(12.0)

    await run_for(mirror, 0, leave)


# --- start


async def kept_at(world, outer_step):
    """Leave a checkpoint behind, and no expert alive."""
    for stage in ("front", "back"):
        Expert(world, stage, stage, outer_step)
    mirror = await opened(world)
    await run_for(mirror, 2)
    mirror.close()
    for peer in ("front", "back", "mirror"):
        world.board.drop(peer)


@on_virtual_time
async def test_a_checkpoint_is_not_overwritten_unless_told_to_resume(tmp_path):
    world = world_of(tmp_path)
    await kept_at(world, 7)
    with pytest.raises(ConfigError) as failure:
        await opened(world)
    text = str(failure.value)
    assert "holds a checkpoint of run distqat at outer step 7" in text
    assert "--resume" in text
    assert "--param-mirror-checkpoint-dir DIR" in text
    assert failure.value.exit_code == 78


@on_virtual_time
async def test_a_run_that_resumes_is_served_from_the_newest_good_checkpoint(tmp_path):
    world = world_of(tmp_path, resume=True, refresh_every=0.1)
    experts = [Expert(world, stage, stage, 1) for stage in ("front", "back")]
    with pytest.raises(ConfigError, match="no good checkpoint to resume"):
        await opened(world)
    world = world_of(tmp_path, refresh_every=0.1)
    experts = [Expert(world, stage, stage, 1) for stage in ("front", "back")]
    mirror = await opened(world)
    await run_for(mirror, 2)
    for expert in experts:
        expert.reach(2)
    await run_for(mirror, 2)
    mirror.close()
    (folder_of(world) / "step-000000000002" / "back.safetensors").write_bytes(b"rot")
    again = world_of(tmp_path, resume=True)
    mirror = await opened(again)
    assert mirror.shelf.outer_step == 1
    assert "checkpoint.corrupt" in kinds(mirror._context)
    ((_, record),) = await again.context("x").directory.mirrors()
    assert record.outer_step == 1


@on_virtual_time
async def test_another_configuration_is_refused_with_every_value_that_differs(tmp_path):
    await kept_at(world_of(tmp_path), 7)
    world = world_of(tmp_path, resume=True)
    diloco = world.config.diloco.model_copy(update={"inner_steps": 9, "outer_steps": 101})
    world.config = world.config.model_copy(update={"diloco": diloco})
    with pytest.raises(ConfigError) as failure:
        await opened(world)
    assert "diloco.inner_steps: 9 here, 500 there" in str(failure.value)
    assert "diloco.outer_steps: 101 here, 100 there" in str(failure.value)


@on_virtual_time
async def test_the_folder_of_another_run_is_refused(tmp_path):
    await kept_at(world_of(tmp_path), 7)
    world = world_of(tmp_path, resume=True)
    world.config = world.config.model_copy(update={"experiment_prefix": "other"})
    with pytest.raises(ConfigError, match="holds checkpoints of run distqat, this is run other"):
        await opened(world)


@on_virtual_time
async def test_a_mirror_that_comes_back_to_a_living_run_goes_on(tmp_path):
    world = world_of(tmp_path)
    await kept_at(world, 7)
    for stage in ("front", "back"):
        Expert(world, stage, stage, 9)
    mirror = await opened(world)
    await run_for(mirror, 2)
    assert published_steps(folder_of(world)) == [9, 7]


@on_virtual_time
async def test_a_run_that_began_anew_already_is_not_resumed(tmp_path):
    await kept_at(world_of(tmp_path), 7)
    world = world_of(tmp_path, resume=True)
    Expert(world, "a", "front", 0)
    with pytest.raises(ConfigError, match="serve the run at outer step 0 already"):
        await opened(world)


@on_virtual_time
async def test_a_second_daemon_of_the_run_stands_by_and_takes_over(tmp_path):
    world = world_of(tmp_path)
    for stage in ("front", "back"):
        Expert(world, stage, stage, 3)
    first = await opened(world, "first")
    second = await opened(world, "second")
    with pytest.raises(CheckpointError, match="another daemon of the run"):
        second.ask()

    async def die():
        await asyncio.sleep(2)
        first.close()

    await run_for(second, 3, die)
    assert published_steps(folder_of(world)) == [3]
    assert second.shelf.outer_step == 3


# --- decisions


@pytest.mark.parametrize(
    ("offered", "after", "expected"),
    [
        ({"front": [3], "back": [3]}, -1, 3),
        ({"front": [3, 4], "back": [3, 5]}, -1, 3),
        ({"front": [3, 4], "back": [4, 3]}, 3, 4),
        ({"front": [3], "back": [3]}, 3, None),
        ({"front": [3], "back": [4]}, -1, None),
        ({"front": [], "back": [4]}, -1, None),
        ({}, -1, None),
    ],
)
def test_a_set_is_at_one_outer_step(offered, after, expected):
    assert common_step(offered, after).value == expected


def test_the_reason_says_what_each_stage_offered():
    reason = common_step({"front": [3, 4], "back": []}, 2).reason
    assert reason == ("no outer step above 2 is offered by all stages: front 3 and 4, back nothing")


def test_a_refresh_waits_for_its_time_unless_there_is_a_reason():
    def due(committed, kept, wait_s=5.0, failed=False, asked=False):
        return refresh_due(
            committed, kept, wait_s=wait_s, last_step=10, failed=failed, asked=asked
        ).value

    assert not due(3, 2)
    assert due(3, 2, wait_s=0)
    assert due(3, 2, asked=True)
    assert due(10, 2)
    assert not due(10, 2, failed=True)
    assert not due(2, 2, wait_s=0, asked=True)
    assert not due(0, -1, wait_s=0, asked=True)
