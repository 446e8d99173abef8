"""Two pipelines break at different stages: what lives of both makes one, and nobody restarts."""

from tests.sim.registry import scenario
from tests.sim.scenarios.churn import finish, lose, start, until_trained
from tests.sim.scenarios.whole_swarm import Swarm
from tests.sim.sim import Sim
from tests.support.watched_swarm import watched

RECOMBINED_S = 60.0
"""As for any trouble: training goes on within so many virtual seconds."""


def daemon_of(swarm: Swarm, uid: str) -> str:
    """Return the machine whose expert serves a uid, "" if none does."""
    for ip, node in swarm.nodes.items():
        if any(role.hosted and role.hosted.uid == uid for role in node.experts):
            return ip
    return ""


def boot_epochs(swarm: Swarm) -> dict[str, int]:
    """Return the boot epoch of each daemon that lives."""
    return {
        ip: node.context.boot_epoch
        for ip, node in swarm.nodes.items()
        if swarm.hosts[ip].alive and node.context is not None
    }


@scenario("recombining")
async def recombining(sim: Sim) -> None:
    """The first expert of one pipeline and the last of the other die in the same moment."""
    with watched() as book:
        swarm = await start(sim, num_experts=4, num_trainers=2, outer_steps=4)
        await sim.until(
            lambda: swarm.client and len(swarm.client.routes) == 2,
            within_s=60,
            what="two pipelines",
        )
        await until_trained(swarm, sim.rng.randrange(1, 5))
        one, other = (swarm.client.routes[number] for number in sim.rng.sample((0, 1), 2))
        for uid in (one[0].uid, other[1].uid):
            await lose(swarm, daemon_of(swarm, uid))
        whole, before = {other[0].uid, one[1].uid}, boot_epochs(swarm)

        def has_recombined() -> bool:
            crews = [node.crew for node in swarm.nodes.values() if node.crew is not None]
            jobs = [j for crew in crews if crew.trainer for j in crew.trainer.jobs.values()]
            return any({*job.progress.route} == whole for job in jobs if job.runner is not None)

        await sim.until(has_recombined, within_s=RECOMBINED_S, what=f"{whole} are one pipeline")
        await finish(swarm, book, outer_steps=4, num_experts=2)
        sim.check(boot_epochs(swarm) == before, "a daemon has restarted")
        await swarm.stop()
