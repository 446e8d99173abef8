"""A failover drill: kills one daemon of a running swarm and watches how the swarm gets over it."""

import math
import time
from collections.abc import Callable
from contextlib import suppress

from distqatctl.errors import CommandFailed
from distqatctl.local.fleet import Fleet
from distqatctl.local.stalls import Stalls, look
from distqatctl.local.timeline import STORY, Timeline
from distqatctl.local.victims import Member, Role, Victim, choose, driven_pipelines, recovered_at
from distqatd.api.local_schema import KillReport
from distqatd.api.schema import Status
from distqatd.base.clock import Clock

Say = Callable[[str], None]
SILENT: Say = lambda _: None  # noqa: E731


class Drill:
    """One kill: `strike`, then `watch` until it returns the outcome."""

    def __init__(
        self,
        fleet: Fleet,
        timeline: Timeline,
        clock: Clock,
        say: Say = SILENT,
    ) -> None:
        self._fleet = fleet
        self._timeline = timeline
        self._clock = clock
        self._say = say
        self._victim: Victim | None = None
        self._killed_unix_s = 0.0
        self._outer_step = 0
        self._stalls = Stalls()
        self._bystanders: tuple[str, ...] = ()
        self._bystander_uids: frozenset[str] = frozenset()
        self._over_it_at = math.inf
        self.outcome: KillReport | None = None

    @property
    def has_struck(self) -> bool:
        """Return whether somebody was killed."""
        return self._victim is not None

    def strike(
        self, role: Role, outer_step: int, pipeline: int | None = None, hop: int = -1
    ) -> Victim | None:
        """Kill a daemon that matters; None if none can be found yet: try again.

        Args:
            role: of the victim.
            outer_step: of the run now.
            pipeline: break this one; the lowest if None.
            hop: at this place of its route, if an expert is to go.
        """
        self._timeline.collect()
        members, said = self._members(), self._timeline.all()
        choice = choose(role, members, said, pipeline, hop)
        victim = choice.value
        if victim is None:
            return None
        self._note_bystanders(victim, members)
        self._outer_step = outer_step
        # Before the signal: nothing that it causes may look as if it came earlier.
        self._killed_unix_s = self._clock.now()
        self._fleet.kill(victim.daemon)
        self._victim = victim
        what = f" ({victim.uid})" if victim.uid else ""
        self._say(f"SIGKILL to {victim.daemon}{what} at outer step {outer_step}; {choice.reason}")
        return victim

    def watch(self) -> KillReport | None:
        """Look once; return the outcome as soon as the swarm is over the loss."""
        victim = self._victim
        if victim is None or self.outcome is not None:
            return self.outcome
        for said in self._timeline.collect():
            if said.event.kind in STORY and said.at_unix_s >= self._killed_unix_s:
                self._say(said.line(self._killed_unix_s))
        now = time.perf_counter()
        look(self._fleet, self._bystanders, self._stalls, now)
        after = recovered_at(victim, self._timeline.all(), self._killed_unix_s)
        if after.value is not None:
            self._over_it_at = min(self._over_it_at, now)
            if self._others_go_on(victim):
                self.outcome = self._report(victim, after.value - self._killed_unix_s, after.reason)
        return self.outcome

    def _others_go_on(self, victim: Victim) -> bool:
        """Return whether pipelines that broke nowhere have trained since: they might not, still."""
        if victim.pipelines:
            return True
        return self._stalls.all_moved_since(self._bystander_uids, self._over_it_at)

    def give_up(self) -> KillReport | None:
        """Return the outcome now: without a recovery if there was none."""
        victim = self._victim
        if victim is None or self.outcome is not None or self.watch() is not None:
            return self.outcome
        after = recovered_at(victim, self._timeline.all(), self._killed_unix_s)
        stuck = "" if after.value is None else ", but not all experts have taken a step since"
        return self._report(victim, None, after.reason + stuck)

    def _report(self, victim: Victim, recovery_s: float | None, reason: str) -> KillReport:
        stall_s = self._stalls.longest(self._bystander_uids)
        return KillReport(
            role=victim.role,
            daemon=victim.daemon,
            uid=victim.uid,
            peer_id=victim.peer_id,
            outer_step=self._outer_step,
            had_spare=victim.has_spare,
            recovery_s=None if recovery_s is None else round(recovery_s, 3),
            others_stall_s=None if stall_s is None else round(stall_s, 3),
            verdict="not recovered" if recovery_s is None else "recovered",
            reason=reason,
        )

    def _note_bystanders(self, victim: Victim, members: list[Member]) -> None:
        """Remember who has nothing to do with the victim: these must not be held up."""
        others = {
            uid
            for number, driven in driven_pipelines(self._timeline.all()).items()
            if number not in victim.pipelines
            for uid in driven.route
        }
        self._bystander_uids = frozenset(others)
        self._bystanders = tuple(m.daemon for m in members if others & set(m.uids))

    def _members(self) -> list[Member]:
        found = []
        for name in self._fleet.living():
            with suppress(CommandFailed):
                status = self._fleet.client(name).get(Status, "/v1/status")
                uids = tuple(e.uid for e in status.experts if e.state == "serving")
                role = self._fleet.role(name)
                found.append(Member(name, role, status.peer.peer_id, uids))
        return found
