"""A whole swarm of real daemons on loopback that loses members and gets new ones."""

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from distqatctl.config_commands import DISTQATD
from distqatctl.errors import CommandFailed
from distqatctl.local.census import Census
from distqatctl.local.children import ParentPipe
from distqatctl.local.drill import SILENT, Drill, Say
from distqatctl.local.fleet import Fleet
from distqatctl.local.folders import Folders
from distqatctl.local.plan import DaemonPlan
from distqatctl.local.timeline import Said, Timeline
from distqatctl.local.victims import Role, Victim, driven_pipelines
from distqatctl.local.watch import Snapshot, Watcher
from distqatd.api.control_schema import Job
from distqatd.api.local_schema import KillReport
from distqatd.api.schema import Status
from distqatd.base.clock import SystemClock
from distqatd.base.intervals import IntervalSet
from tests.support.books import Asked, Book, missing, num_applied_twice, read_books

ENDLESS = ("--set", "diloco.outer_steps=1000000")
START_WITHIN_S = 180.0
LOOK_EVERY_S = 0.1
SETTLE_S = 6.0
"""A step that is on its way has arrived after so long, unless something is lost."""


MAX_BETWEEN = 32
MAX_STEPS = 256
"""Steps at most between our look at a book and the kill, and between two outer steps."""


@dataclass(frozen=True, slots=True)
class Size:
    """How many there are of each; experts beyond `pipelines` of each stage stand by."""

    experts: int = 6
    pipelines: int = 2
    trainers: int = 2
    clients: int = 2


@dataclass(frozen=True, slots=True)
class Account:
    """What became of the batches, by the client's ledger and by the experts' books.

    Attributes:
        died: batches whose work was in an expert that was killed, since its last outer step.
    """

    committed: int
    replayed: int
    lost: int
    duplicated: int
    died: int


class RealSwarm:
    """The daemons, their events, and whoever was killed."""

    def __init__(
        self, folder: Path, pipe: ParentPipe, config: Sequence[str], size: Size, say: Say
    ) -> None:
        self.size = size
        self._say = say
        self._folders = Folders(folder / "s", folder / "l")
        for part in (self._folders.state_root, self._folders.log_dir):
            part.mkdir()
        marker = folder.name
        self._census = Census(marker)
        given = [*config, "--set", f"model_pipeline.max_pipelines={size.pipelines}"]
        self.fleet = Fleet(self._folders, DISTQATD, given, marker, pipe)
        self.timeline = Timeline(self.fleet)
        self._watcher = Watcher(self.fleet)
        self._died: dict[str, IntervalSet] = {}

    # --- life

    def start(self) -> None:
        """Start everybody, and wait until all pipelines train."""
        self.fleet.start(DaemonPlan("monitor_0", "monitor"))
        join_file = self._folders.join_file
        self.wait(lambda: join_file.exists() and join_file.stat().st_size, 60, "the monitor")
        size = self.size
        counts = {
            "client": size.clients,
            "expert": size.experts,
            "trainer": size.trainers,
        }
        for role, count in counts.items():
            for index in range(count):
                self.fleet.start(DaemonPlan(f"{role}_{index}", role), (f"@{join_file}",))
        self.wait_until_whole()

    def wait_until_whole(self, within_s: float = START_WITHIN_S) -> None:
        """Wait until everybody serves and all pipelines run."""
        self.wait(self._is_whole, within_s, "a whole swarm")

    def _is_whole(self) -> bool:
        snapshot = self._watcher.look()
        counts = [stage.num_replicas for stage in snapshot.stages]
        if not counts or sum(counts) != self.size.experts or min(counts) < self.size.pipelines:
            return False
        return self._all_answer() and self._all_driven()

    def _all_answer(self) -> bool:
        try:
            states = [self.status(name).peer.state for name in self.fleet.living()]
        except CommandFailed:
            return False
        return all(state == "serving" for state in states)

    def _all_driven(self) -> bool:
        self.timeline.collect()
        driven = driven_pipelines(self.timeline.all()).values()
        living = self.fleet.living()
        return sum(one.trainer in living for one in driven) >= self.size.pipelines

    def wait(self, condition: Callable[[], object], within_s: float, what: str) -> None:
        """Poll until `condition()` is true; deadlines here are generous, never a measurement."""
        deadline = time.monotonic() + within_s
        while not condition():
            self._census.count()
            self.fleet.check()
            if time.monotonic() > deadline:
                raise RuntimeError(f"waited {within_s:g} s in vain: {what}; {self._describe()}")
            time.sleep(LOOK_EVERY_S)

    def _describe(self) -> str:
        """Say who serves what, for whoever waits in vain."""
        lines = [f"{stage.name}: {stage.num_replicas}" for stage in self.look().stages]
        for name in self.fleet.living():
            try:
                status = self.status(name)
            except CommandFailed as error:
                lines.append(f"{name}: {error}")
            else:
                experts = " ".join(f"{e.uid} {e.state}" for e in status.experts)
                lines.append(f"{name}: {status.peer.state} {experts}")
        driven = driven_pipelines(self.timeline.all())
        return "\n  ".join([*lines, *(f"{n}: {one}" for n, one in driven.items())])

    def stop(self) -> tuple[str, ...]:
        """Stop everybody, and return what is left of them."""
        self._census.count()
        self._census.note_ports()
        self.fleet.stop(lambda: False)
        self._census.kill_survivors()
        return self._census.leftovers(self._folders.state_root)

    # --- what can be seen

    def status(self, name: str) -> Status:
        """Return what a daemon says about itself."""
        return self.fleet.client(name).get(Status, "/v1/status")

    def look(self) -> Snapshot:
        """Return what a client says about the run."""
        return self._watcher.look()

    def said(self, *kinds: str, since_unix_s: float = 0.0) -> list[Said]:
        """Return what living daemons said of these kinds, oldest first."""
        self.timeline.collect()
        found = [said for said in self.timeline.all() if said.event.kind in kinds]
        return [said for said in found if said.at_unix_s >= since_unix_s]

    def steps(self) -> int:
        """Return the inner steps of all living experts together."""
        names = self.fleet.living("expert")
        return sum(expert.inner_step for name in names for expert in self.status(name).experts)

    def hop(self, *, with_spare: bool) -> int:
        """Return the place in the pipelines of a stage that has a spare expert, or none."""
        counts = [stage.num_replicas for stage in self.look().stages]
        return next(i for i, n in enumerate(counts) if (n > self.size.pipelines) is with_spare)

    def log(self, name: str) -> str:
        """Return a daemon's log."""
        return (self._folders.log_dir / f"{name}.log").read_text()

    def books(self) -> list[Book]:
        """Return the books of all serving experts."""
        asked: list[Asked] = []
        for name in self.fleet.living("expert"):
            with suppress(CommandFailed):
                status = self.status(name)
                peer = status.peer
                asked += [Asked(e.uid, peer.peer_id, peer.addresses) for e in status.experts]
        return read_books(self._folders.state_root / "swarm.secret", asked)

    def account(self) -> Account:
        """Return what became of the batches; a loss shows in the ledger, the books, or both."""
        first = missing(self.books())
        time.sleep(SETTLE_S)
        books = self.books()
        second = missing(books)
        gone = {stage: second[stage].common(first.get(stage, IntervalSet())) for stage in second}
        lost = sum(
            len(batches.minus(self._died.get(stage, IntervalSet())))
            for stage, batches in gone.items()
        )
        self.timeline.collect()
        overlaps = [s for s in self.timeline.all() if s.event.kind == "round.batches_overlap"]
        twice = sum(int(s.event.fields.get("duplicated") or 1) for s in overlaps)
        run = self.look().run
        if run is None:
            raise RuntimeError("no client answers")
        return Account(
            committed=run.batches.committed,
            replayed=run.batches.replayed,
            lost=max(lost, run.batches.lost),
            duplicated=max(twice + num_applied_twice(books), run.batches.duplicated),
            died=sum(map(len, gone.values())) - lost,
        )

    # --- losses

    def kill(
        self, role: Role, pipeline: int, hop: int, within_s: float, *, replace: bool = True
    ) -> KillReport:
        """Kill a daemon, start a fresh one in its place, and watch until the swarm is over it."""
        drill = Drill(self.fleet, self.timeline, SystemClock(), self._say)
        before = self.books() if role == "expert" else []
        run = self.look().run
        outer_step = run.outer_step if run is not None else 0
        victim = drill.strike(role, outer_step, pipeline, hop)
        if victim is None:
            raise RuntimeError(f"there is no {role} to kill")
        if replace:
            self.fleet.start_another(role)
        self._watch(drill, within_s)
        self._bury(victim, before)
        report = drill.give_up()
        assert report is not None
        return report

    # --- leaving and coming back

    def user(self, hop: int) -> str:
        """Return the daemon of the expert that pipeline 0 uses at a place of its route."""
        self.timeline.collect()
        uid = driven_pipelines(self.timeline.all())[0].route[hop]
        for name in self.fleet.living("expert"):
            if uid in {expert.uid for expert in self.status(name).experts}:
                return name
        raise RuntimeError(f"nobody serves {uid}")

    def order(self, name: str, order: Mapping[str, object], within_s: float = 90.0) -> Job:
        """Tell a daemon to do something, as `distqatctl` does, and wait until it is done."""
        client = self.fleet.client(name)
        number = client.post(Job, "/v1/jobs", dict(order)).number
        self.wait(
            lambda: client.get(Job, f"/v1/jobs/{number}").state != "running",
            within_s,
            f"{order} of {name}",
        )
        return client.get(Job, f"/v1/jobs/{number}")

    def _watch(self, drill: Drill, within_s: float) -> None:
        deadline = time.monotonic() + within_s
        while drill.watch() is None and time.monotonic() < deadline:
            self._census.count()
            self.fleet.check()
            time.sleep(LOOK_EVERY_S)

    def _bury(self, victim: Victim, before: Sequence[Book]) -> None:
        """Note what died with an expert: its steps since its last outer step.

        Those between our look at its book and the kill are taken from where its pipeline went on.
        """
        for book in before:
            if book.uid != victim.uid:
                continue
            died = book.local
            running = [
                int(said.event.fields["batch"] or 0)
                for said in self.timeline.all()
                if said.event.kind == "pipeline.running" and said.pipeline in victim.pipelines
            ]
            went_on_at = running[-1] if running else 0
            # Right after an outer step the book says nothing of where it was.
            last = max((end for _, end in _pairs(died)), default=max(0, went_on_at - MAX_BETWEEN))
            if last < went_on_at <= last + MAX_STEPS:
                died = died.add(last, went_on_at)
            known = self._died.get(book.stage, IntervalSet())
            self._died[book.stage] = known.union(died)


def _pairs(batches: IntervalSet) -> list[tuple[int, int]]:
    flat = batches.to_list()
    return list(zip(flat[::2], flat[1::2], strict=True))


@contextmanager
def real_swarm(config: Sequence[str], size: Size, say: Say = SILENT) -> Iterator[RealSwarm]:
    """Run a swarm; whatever happens, nothing of it is left. `say` is told what happens."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dqf-")))
        swarm = RealSwarm(folder, stack.enter_context(ParentPipe()), config, size, say)
        stack.callback(swarm.stop)
        swarm.start()
        yield swarm
