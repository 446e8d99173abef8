"""Kills real daemons at random instants, and measures how long their pipelines stand still.

Two pipelines over two stages with three replicas each, so that one replica of each stage stands
by. Every victim is replaced by a fresh daemon at once, and the next one is killed when the swarm
has its size again. Then the same with three pipelines and no spare, experts only: there the fresh
daemon has to start, load the state and serve before its pipeline goes on.

Recovery is the time from the signal to the next committed step of the pipeline, by the daemons'
own events; for a client, to the moment when another one has its duty. What became of the batches
is read from the client's ledger and from the books of all experts.
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from distqatctl.local.victims import Role
from distqatd.api.local_schema import KillReport
from distqatd.base.rng import Rng, seeded_rng
from tests.bench.measure import p50, p95
from tests.bench.report import Report
from tests.support.real_swarm import ENDLESS, Account, RealSwarm, Size, real_swarm

KILLS = 30
ROLES: tuple[Role, ...] = ("expert", "expert", "trainer", "expert", "trainer", "client")
"""Who is killed, in turn; whom of them and when is drawn."""

CONFIG = ("--config", "digits", *ENDLESS)
WITH_SPARES = Size(experts=6, pipelines=2, trainers=2, clients=2)
SPARELESS = Size(experts=6, pipelines=3, trainers=3, clients=1)
NUM_STAGES = 2
RECOVER_WITHIN_S = 120.0
LONGEST_PAUSE_S = 3.0


@dataclass(slots=True)
class Outcome:
    """What a series of kills came to."""

    kills: list[KillReport] = field(default_factory=list)
    account: Account | None = None
    leftovers: tuple[str, ...] = ()

    def seconds(self, *, role: Role | None = None) -> list[float]:
        """Return the recoveries; one that did not come counts as the time it was waited for."""
        chosen = [kill for kill in self.kills if role is None or kill.role == role]
        return [_or(kill.recovery_s, RECOVER_WITHIN_S) for kill in chosen]

    def others_stall_s(self) -> float | None:
        """Return the longest time that a pipeline stood still which had lost nobody."""
        found = [k.others_stall_s for k in self.kills if k.others_stall_s is not None]
        return max(found, default=None)


def _or(value: float | None, otherwise: float) -> float:
    return otherwise if value is None else value


def run(report: Report, *, quick: bool, peer_python: str | None, kills: int | None = None) -> None:
    """Measure everything and fill the report; nobody else has such a run to compare with."""
    count = kills or (3 if quick else KILLS)
    rng = seeded_rng("bench", "failover")
    spared = _series(WITH_SPARES, [ROLES[i % len(ROLES)] for i in range(count)], rng)
    spareless = _series(SPARELESS, ["expert"] * max(1, count // 3), rng)
    _totals(report, spared, spareless)
    for who, outcome in (("with spares", spared), ("no spare", spareless)):
        _rows(report, who, outcome)


def _series(size: Size, roles: Sequence[Role], rng: Rng) -> Outcome:
    """Run a swarm and kill one daemon after the other."""
    outcome = Outcome()
    with real_swarm(CONFIG, size, _tell) as swarm:
        for role in roles:
            swarm.wait_until_whole()
            time.sleep(rng.uniform(0.2, LONGEST_PAUSE_S))
            outcome.kills.append(_kill(swarm, role, rng))
        swarm.wait_until_whole()
        outcome.account = swarm.account()
        outcome.leftovers = swarm.stop()
    return outcome


def _tell(line: str) -> None:
    """Show what happens: this takes minutes."""
    print(line, file=sys.stderr, flush=True)


def _kill(swarm: RealSwarm, role: Role, rng: Rng) -> KillReport:
    pipeline, hop = rng.randrange(swarm.size.pipelines), rng.randrange(NUM_STAGES)
    return swarm.kill(role, pipeline, hop, RECOVER_WITHIN_S)


def _totals(report: Report, spared: Outcome, spareless: Outcome) -> None:
    accounts = [outcome.account for outcome in (spared, spareless) if outcome.account is not None]
    report.total("kills", len(spared.kills))
    report.total("recovery_median_s", p50(spared.seconds()))
    report.total("recovery_p95_s", p95(spared.seconds()))
    report.total("batches_lost", sum(account.lost for account in accounts))
    report.total("batches_duplicated", sum(account.duplicated for account in accounts))
    report.total("leftovers", len(spared.leftovers) + len(spareless.leftovers))
    report.total("spareless_kills", len(spareless.kills))
    report.total("spareless_median_s", p50(spareless.seconds()))
    report.total("other_pipelines_stall_s", spareless.others_stall_s())


def _rows(report: Report, who: str, outcome: Outcome) -> None:
    for role in sorted({kill.role for kill in outcome.kills}):
        seconds = outcome.seconds(role=role)
        numbers = {"kills": len(seconds), "median_s": p50(seconds), "worst_s": max(seconds)}
        report.row(f"{role} killed", who, **numbers)
    for index, kill in enumerate(outcome.kills):
        seconds = {"recovery_s": _or(kill.recovery_s, -1), "stall_s": _or(kill.others_stall_s, -1)}
        report.row(f"kill {index}: {kill.role} {kill.uid or kill.daemon}", who, **seconds)
    account = outcome.account
    if account is not None:
        report.row(
            "batches",
            who,
            committed=account.committed,
            replayed=account.replayed,
            died_with_an_expert=account.died,
            lost=account.lost,
            duplicated=account.duplicated,
        )
