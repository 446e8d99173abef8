"""What `distqatctl local --json FILE` writes; the rules are those of `schema`."""

from typing import Literal

from pydantic import Field

from distqatd.api.schema import Batches, Eval, Part, Reply


class ReportExpert(Part):
    """One replica at the end of a local run."""

    uid: str
    peer_id: str
    anchor_digest: str
    outer_step: int


class ReportStage(Part):
    """One stage at the end of a local run."""

    name: str
    experts: tuple[ReportExpert, ...]
    replicas_identical: bool


class KillReport(Part):
    """What `distqatctl local --kill-one` did and what came of it.

    Attributes:
        role: of the daemon that was killed.
        daemon: its name in the run's folders.
        uid: its expert, if it had one.
        outer_step: of the run at that moment.
        had_spare: whether another daemon stood by for it.
        recovery_s: from the kill to the next committed step of the broken pipeline; for a client,
            to the moment when another one had its duty; for a monitor, until the new one had
            joined.
        others_stall_s: the longest time without a step of an expert that had nothing to do with
            it, from the kill to the recovery.
        reason: what brought the swarm back, or what is missing.
    """

    role: Literal["expert", "trainer", "client", "monitor"]
    daemon: str
    uid: str
    peer_id: str
    outer_step: int
    had_spare: bool
    recovery_s: float | None
    others_stall_s: float | None
    verdict: Literal["recovered", "not recovered"]
    reason: str


class LocalReport(Reply):
    """What `distqatctl local --json FILE` writes.

    `processes` is the largest number of processes seen at once (daemons and their children),
    `leftovers` names whatever was still there after the stop; it must be empty. `kill` is there
    if a daemon was killed on purpose, `resumed_from` is the outer step that a run continued from.
    """

    schema_id: Literal["distqat.local/v1"] = Field("distqat.local/v1", alias="schema")
    eval: Eval | None
    stages: tuple[ReportStage, ...]
    outer_steps: int
    inner_steps: int
    batches: Batches
    samples_per_s: float
    wall_s: float
    time_to_first_step_s: float | None
    processes: int
    leftovers: tuple[str, ...]
    kill: KillReport | None = None
    resumed_from: int | None = None
