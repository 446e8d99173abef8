"""What every expert of the swarm applied, life by life, and what became of it.

A batch is *in* an anchor if a member of one of the rounds that led to it had applied it. What an
expert has applied since its anchor is its own until the next round; it dies with the expert.
"""

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from distqatd.averaging.averager import Averager
from distqatd.compute.expert import Expert
from distqatd.pipeline.hosted import HostedExpert
from distqatd.pipeline.runner import RouteRunner
from distqatd.roles.directory import Directory
from tests.sim.loop import LIFE, Life

Batches = Counter[int]


@dataclass
class Copy:
    """One expert object: a replica of a stage during one life of a machine.

    `held` has the digests of all anchors that it ever had.
    """

    expert: Any
    stage: str
    life: Life | None
    anchor: Batches = field(default_factory=Counter)
    local: Batches = field(default_factory=Counter)
    dropped: Batches = field(default_factory=Counter)
    held: set[str] = field(default_factory=set)

    @property
    def name(self) -> str:
        """Return uid and life, for messages."""
        return f"{self.expert.uid} on {self.life.name if self.life else '?'}"


@dataclass
class Brought:
    """What a member brought to a round."""

    tensor: torch.Tensor
    batches: Batches


@dataclass
class Watch:
    """All that happened.

    Attributes:
        num_applied: inner steps applied, by all experts.
        num_repeats: steps that an expert's book says were applied before: nothing happened.
        num_rounds: members of rounds whose mean was checked.
        wrong: what is a violation however the run goes on.
        decided: the batches that were decided, in this order, with the hops of their routes.
        anchors: what is in each anchor, by stage and digest.
    """

    copies: dict[int, Copy] = field(default_factory=dict)
    num_applied: int = 0
    num_repeats: int = 0
    num_rounds: int = 0
    wrong: list[str] = field(default_factory=list)
    decided: list[tuple[int, tuple[Any, ...]]] = field(default_factory=list)
    anchors: dict[tuple[str, str], Batches] = field(default_factory=dict)
    _asked: dict[int, int] = field(default_factory=dict)
    _before: dict[int, Batches] = field(default_factory=dict)
    _brought: dict[tuple[int, str], list[Brought]] = field(default_factory=dict)
    _last: dict[int, Batches] = field(default_factory=dict)
    _contributed: dict[int, tuple[object, Batches]] = field(default_factory=dict)
    _means: dict[int, tuple[object, Batches]] = field(default_factory=dict)

    def of_stage(self, stage: str) -> list[Copy]:
        """Return all copies there ever were of a stage."""
        return [copy for copy in self.copies.values() if copy.stage == stage]

    def copy(self, expert: Any) -> Copy:
        """Return the copy that an expert object is."""
        known = self.copies.get(id(expert))
        if known is None:
            known = Copy(expert, expert.uid.split(".")[0], LIFE.get())
            self.copies[id(expert)] = known
        return known

    # --- what experts do

    def applied(self, expert: Any, batch: int, *, is_repeat: bool) -> None:
        """Note an inner step."""
        if is_repeat:
            self.num_repeats += 1
            return
        copy = self.copy(expert)
        self.num_applied += 1
        copy.local[batch] += 1
        if copy.local[batch] + copy.anchor[batch] > 1:
            self.wrong.append(f"{copy.name} applied batch {batch} twice")

    def committed(self, expert: Any, mean: object) -> None:
        """Note an outer step."""
        copy = self.copy(expert)
        known = self._means.get(id(mean))
        own = known[1] if known is not None else copy.local
        self._before[id(expert)] = copy.local
        copy.anchor = copy.anchor + own
        copy.local = copy.local - self._last.get(id(expert), copy.local)
        self.anchors[copy.stage, expert.anchor_digest] = copy.anchor
        copy.held.add(expert.anchor_digest)
        twice = sorted(batch for batch in own if copy.anchor[batch] > 1)
        if twice:
            self.wrong.append(
                f"outer step {expert.outer_step} of {copy.name} has batches {twice} twice"
            )

    def loaded(self, expert: Any, kept: Iterable[int] = ()) -> None:
        """Note that a copy became what its snapshot says, and what it kept of its own."""
        copy = self.copy(expert)
        inside = self.anchors.get((copy.stage, expert.anchor_digest), Counter())
        local = Counter({batch: copy.local[batch] for batch in kept})
        copy.dropped += copy.local + copy.anchor - inside - local
        copy.anchor, copy.local = Counter(inside), local
        copy.held.add(expert.anchor_digest)
        twice = sorted(inside.keys() & local.keys())
        if twice:
            self.wrong.append(f"{copy.name} keeps batches {twice}, which its new anchor holds")

    def went_on(self, expert: Any) -> None:
        """Note that a copy has put what it had trained since back on top of its new anchor."""
        copy, written = self.copy(expert), Counter(_numbers(expert.book.local))
        missing = written - self._before[id(expert)]
        if missing:
            self.wrong.append(f"{copy.name} says that it trained {sorted(missing)}")
        copy.local = written

    def begins(self, expert: Any) -> None:
        """Check that a step starts from nothing."""
        if not expert.step_is_open and any(p.grad is not None for p in expert.stage.parameters()):
            self.wrong.append(
                f"{self.copy(expert).name} begins a step with another one's gradients"
            )

    def contributed(self, expert: Any, contribution: Any) -> None:
        """Note what a contribution holds."""
        self._last[id(expert)] = Counter(self.copy(expert).local)
        self._contributed[id(contribution)] = (contribution, self._last[id(expert)])

    def saw(self, view: Any) -> None:
        """Check that a view does not take what a former life published for the present one."""
        for expert in (each for stage in view.stages for each in stage.experts):
            peer = view.peers.get(expert.peer_id)
            if peer is not None and expert.record.boot_epoch < peer.boot_epoch:
                self.wrong.append(
                    f"{expert.uid} of boot epoch {expert.record.boot_epoch} is believed, though"
                    f" its machine is at {peer.boot_epoch}"
                )

    # --- what rounds do

    def brings(self, uid: str, contribution: Any) -> None:
        """Note what a member brings to a round."""
        batches = self._contributed[id(contribution)][1]
        brought = Brought(contribution.pseudo_gradient.clone(), batches)
        self._brought.setdefault((contribution.outer_step + 1, uid), []).append(brought)

    def agreed(self, uid: str, committed: Any) -> None:
        """Note what a round's mean holds, after checking it bit for bit."""
        self.num_rounds += 1
        weights = {uid: weight for uid, weight in sorted(committed.weights.items()) if weight}
        # A member that tried before has brought something for this outer step more than once.
        tries = [self._brought.get((committed.outer_step, uid), []) for uid in weights]
        for choice in itertools.product(*tries):
            if _is_mean(committed.mean, [*weights.values()], choice):
                batches = sum((each.batches for each in choice), Counter())
                self._means[id(committed.mean)] = (committed.mean, batches)
                return
        self.wrong.append(f"{uid} took outer step {committed.outer_step} with another mean")


def _is_mean(mean: torch.Tensor, weights: list[float], choice: tuple[Brought, ...]) -> bool:
    """Return whether a mean is the sum over the members in uid order, each rounded to fp32."""
    total = torch.zeros_like(mean)
    for weight, each in zip(weights, choice, strict=True):
        total += each.tensor * weight
    return torch.equal(total, mean)


@contextmanager
def watching() -> Iterator[Watch]:
    """Watch all experts of this process."""
    watch = Watch()
    settle, round_, step = HostedExpert.apply, Averager.round, RouteRunner.step
    refresh = Directory.refresh

    async def watched_settle(self, session, decided):
        watch._asked[id(self.expert)] = decided.batch
        return await settle(self, session, decided)

    async def watched_round(self, uid, contribution):
        watch.brings(uid, contribution)
        committed = await round_(self, uid, contribution)
        watch.agreed(uid, committed)
        return committed

    async def watched_refresh(self):
        view = await refresh(self)
        watch.saw(view)
        return view

    async def watched_step(self, batch, number):
        result = await step(self, batch, number)
        watch.decided.append((number, tuple(self.route)))
        return result

    def forward(self, *args):
        watch.begins(self)
        return plain["forward"](self, *args)

    def loss_backward(self, *args):
        watch.begins(self)
        return plain["loss_backward"](self, *args)

    def apply(self, num_samples, *args, **kwargs):
        result = plain["apply"](self, num_samples, *args, **kwargs)
        batch = args[0] if args else watch._asked[id(self)]
        watch.applied(self, batch, is_repeat=getattr(result, "is_repeat", False))
        return result

    def contribution(self, **kwargs):
        result = plain["contribution"](self, **kwargs)
        watch.contributed(self, result)
        return result

    def commit_outer(self, mean, *args, **kwargs):
        result = plain["commit_outer"](self, mean, *args, **kwargs)
        watch.committed(self, mean)
        return result

    def train_on(self, *args):
        plain["train_on"](self, *args)
        watch.went_on(self)

    def load(self, *args):
        watch.copy(self)
        plain["load"](self, *args)
        watch.loaded(self)

    def catch_up(self, *args):
        watch.copy(self)
        carried = plain["catch_up"](self, *args)
        watch.loaded(self, _numbers(carried.kept))
        return carried

    replaced = (
        *(forward, loss_backward, apply),
        *(contribution, commit_outer, train_on, load, catch_up),
    )
    plain = {method.__name__: getattr(Expert, method.__name__) for method in replaced}
    HostedExpert.apply, Averager.round = watched_settle, watched_round
    RouteRunner.step, Directory.refresh = watched_step, watched_refresh
    for method in replaced:
        setattr(Expert, method.__name__, method)
    try:
        yield watch
    finally:
        HostedExpert.apply, Averager.round, RouteRunner.step = settle, round_, step
        Directory.refresh = refresh
        for name, method in plain.items():
            setattr(Expert, name, method)


def _numbers(intervals: Any) -> list[int]:
    return [number for first, end in intervals.pairs for number in range(first, end)]
