"""A stage that lost its only replica goes on from the param mirror, in a swarm that lives."""

from distqatd.config.sections import Config
from tests.sim.scenarios.whole_swarm import Swarm, make_config
from tests.sim.sim import run


def test_a_stage_without_a_replica_is_loaded_from_the_mirror(tmp_path):
    values = make_config(inner_steps=20, outer_steps=8).model_dump()
    values["param_mirror"] = {
        "enable": True,
        "refresh_every": 0.1,
        "checkpoint_dir": tmp_path / "kept",
    }
    config = Config.model_validate(values)

    async def scenario(sim):
        swarm = Swarm(sim, config)
        first = swarm.add("monitor", "client", "trainer")
        lonely, other = swarm.add("expert"), swarm.add("expert")

        def kept():
            node = swarm.nodes.get(first)
            mirror = node.crew.mirror if node is not None else None
            return mirror.shelf.outer_step if mirror is not None else -1

        await sim.until(lambda: kept() >= 2, within_s=200, what="a checkpoint", every_s=0.05)
        swarm.hosts[lonely].crash()
        joiner = swarm.add("expert")
        await sim.until(swarm.is_finished, within_s=600, what="the run is finished", every_s=1.0)
        loaded = [
            event.fields
            for event in swarm.nodes[joiner].events.since()
            if event.kind == "expert.state_loaded"
        ]
        assert loaded[0]["source"] == "mirror"
        assert loaded[0]["inner"] is True
        assert loaded[0]["outer_step"] >= 2
        # The other stage keeps what it has: nobody goes back for the joiner.
        assert all(
            event.kind != "expert.state_loaded" for event in swarm.nodes[other].events.since()
        )
        await swarm.stop()

    run(scenario, 0)
