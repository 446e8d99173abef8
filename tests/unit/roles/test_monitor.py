import asyncio

from distqatd.roles.monitor import MonitorRole, NoSink, fleet_metrics
from distqatd.swarm import records as r
from tests.support.contexts import World
from tests.support.views import info, view_of

RUN = "distqat"


def trainer(pipeline, *, loss, step=10, speed=5.0, link_bytes=0):
    return r.TrainerRecord((), 1, pipeline, (), step, 0, loss, speed, step * 8, 0, 1.0, link_bytes)


async def view_with(*trainers):
    world = World()
    for i, record in enumerate(trainers):
        world.board.put(r.trainers_key(RUN), f"t{i}", "0", record.pack())
    return await world.context("me").directory.refresh()


async def test_the_fleets_loss_is_the_mean_and_its_speed_the_sum_over_pipelines():
    trainers = (trainer(0, loss=1.0, link_bytes=6), trainer(1, loss=3.0, link_bytes=4))
    metrics = fleet_metrics(await view_with(*trainers))
    assert metrics.loss == 2.0
    assert metrics.link_bytes == 5.0
    assert metrics.samples_per_s == 10.0
    assert metrics.inner_steps == 20
    assert metrics.pipelines == 2


async def test_idle_trainers_and_unknown_losses_do_not_count():
    metrics = fleet_metrics(await view_with(trainer(-1, loss=9.0), trainer(0, loss=-1.0)))
    assert metrics.loss == -1.0
    assert metrics.pipelines == 1


def test_the_fleets_outer_step_is_the_lowest():
    view = view_of(("head", "tail"), info("a", "head.0.0.0", outer_step=3), info("b", "tail.0.0.0"))
    metrics = fleet_metrics(view)
    assert (metrics.outer_step, metrics.serving_experts, metrics.gaps) == (0, 2, 0)


class Sink:
    def __init__(self):
        self.logged = []

    def log(self, metrics, step):
        self.logged.append((step, metrics["loss"]))


async def test_addresses_are_written_at_once_and_metrics_go_to_the_sink_once_training(tmp_path):
    world = World()
    context = world.context("me")
    opened = []

    def open_sink():
        opened.append(Sink())
        return opened[-1]

    monitor = MonitorRole(context, tmp_path / "logs" / "initial_peers.txt", open_sink)
    task = asyncio.ensure_future(monitor.run())
    await asyncio.sleep(0)
    assert (tmp_path / "logs" / "initial_peers.txt").read_text() == "/ip4/10.0.0.1/tcp/1\n"
    await look(context)
    assert opened == []  # nothing trains: W&B would cost memory for nothing
    world.board.put(r.trainers_key(RUN), "t", "0", trainer(0, loss=0.5).pack())
    await look(context)
    await look(context)
    task.cancel()
    await asyncio.wait([task])
    assert opened[0].logged == [(10, 0.5), (10, 0.5)]
    assert len(opened) == 1


async def look(context):
    await context.directory.refresh()
    context.directory._updated.set()
    context.directory._updated = asyncio.Event()
    await asyncio.sleep(0)
    await asyncio.sleep(0)


def test_without_a_project_metrics_go_nowhere():
    NoSink().log({"loss": 1.0}, 1)
