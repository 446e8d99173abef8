"""Runs one plan and checks what must hold."""

import asyncio

from tests.sim.elastic import invariants as must
from tests.sim.elastic.fleet import Fleet
from tests.sim.elastic.plan import Plan
from tests.sim.elastic.strike import Striker
from tests.sim.elastic.watch import Watch, watching
from tests.sim.scenarios.whole_swarm import make_config
from tests.sim.sim import Sim

PROGRESS_S = 60.0
"""Training goes on within so many virtual seconds after the last fault has ended."""

FINISH_S = 300.0
SETTLE_S = 60.0


async def play(sim: Sim, plan: Plan) -> dict[str, object]:
    """Run a plan to the end of its training; return what happened, in numbers."""
    sim.net.weather = plan.weather
    for line in str(plan).splitlines():
        sim.note(line)
    with watching() as watch:
        fleet = Fleet(sim, make_config(**dict(plan.diloco)), has_real_dht=plan.has_real_dht)
        striker = Striker(sim, fleet, watch)
        try:
            await _play(sim, plan, fleet, watch, striker)
        except Exception as error:
            error.add_note(str(plan))
            if sim.net.trace.lines is not None:
                error.add_note(sim.loop.waiting(200))
            raise
        return {
            "family": plan.family,
            "applied": watch.num_applied,
            "repeats": watch.num_repeats,
            "gave_way": sum(len(each) for each in must.gave_way(watch).values()),
            "died_with": sum(
                len(c.local)
                for c in watch.copies.values()
                if c.life and c.life.name in striker.crashed
            ),
        }


async def _play(sim: Sim, plan: Plan, fleet: Fleet, watch: Watch, striker: Striker) -> None:
    async with asyncio.TaskGroup() as tasks:
        trouble = tasks.create_task(_trouble(sim, plan, striker))
        for machine in plan.machines:
            fleet.add(machine)
            await asyncio.sleep(machine.starts_s)
        await trouble
        await _progress(sim, fleet, watch)
    await sim.until(fleet.is_finished, within_s=FINISH_S, what="the run is finished", every_s=0.25)
    await _settle(sim, fleet, striker)
    wrong = must.check_batches(fleet, watch, striker.crashed) + must.leaks(fleet)
    if not plan.can_split:
        wrong += fleet.filled_twice
    if plan.is_orderly:
        wrong += must.given_up(fleet, watch)
    sim.check(not wrong, "; ".join(wrong))
    await fleet.stop()
    left = must.leaks_after_stop(fleet)
    sim.check(not left, "; ".join(left))


async def _trouble(sim: Sim, plan: Plan, striker: Striker) -> None:
    await striker.all(plan.faults)
    sim.note("all faults are over")


async def _progress(sim: Sim, fleet: Fleet, watch: Watch) -> None:
    before = watch.num_applied
    await sim.until(
        lambda: watch.num_applied > before or fleet.is_finished(),
        within_s=PROGRESS_S,
        what="training goes on after the last fault",
    )


async def _settle(sim: Sim, fleet: Fleet, striker: Striker) -> None:
    """Wait until all agree: on who serves, and on the bits."""
    # Who joins a stage that lost its last replica after the end of the run finds nothing to load.
    last = 0 if striker.struck_late else fleet.config.diloco.outer_steps
    num_experts = sum(name.startswith("expert") for name in fleet.living())
    for condition, what in (
        (lambda: len(fleet.serving()) == num_experts, f"{num_experts} experts serve"),
        (
            lambda: min(h.expert.outer_step for h in fleet.serving()) >= last,
            f"every expert has taken outer step {last}",
        ),
        (lambda: must.is_identical(fleet), "replicas hold the same anchor"),
        (lambda: not must.two_of_a_uid(fleet), "every uid is served once"),
    ):
        await sim.until(condition, within_s=SETTLE_S, what=what, every_s=0.25)
    for node in fleet.living().values():
        if node.context is not None:
            node.context.directory.look_now()
    try:
        await sim.until(
            lambda: not must.views_differ(fleet), within_s=SETTLE_S, what="views agree", every_s=0.5
        )
    except AssertionError as error:
        error.add_note(must.views_differ(fleet))
        raise
