"""Swarms in any trouble that a plan can describe; see `tests.sim.elastic`."""

from tests.sim.elastic.draw import draw
from tests.sim.elastic.run import play
from tests.sim.registry import scenario
from tests.sim.sim import Sim


@scenario("elastic")
async def elastic(sim: Sim) -> dict[str, object]:
    """Machines crash, restart, fall silent and join: no batch counts twice, none is lost."""
    return await play(sim, draw(sim.seed))
