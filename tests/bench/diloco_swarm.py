"""Replicas of `bench diloco`: real experts and real averagers, a network in memory."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch

from distqatd.averaging.records import Committed
from distqatd.base.errors import RoundAborted
from distqatd.compute.expert import Contribution, Expert
from distqatd.config.schedules import RunSchedule
from distqatd.config.sections import DilocoConfig, InnerOptimConfig, OuterOptimConfig
from distqatd.data.tasks import task
from distqatd.models.units import Stage, Unit
from tests.bench import diloco_reference as reference
from tests.bench.charlm import CharGpt, Text
from tests.bench.diloco_reference import Size
from tests.support.averaging_swarm import Swarm, on_virtual_time

INNER = InnerOptimConfig(
    adam_lr=reference.LR,
    adam_weight_decay=reference.DECAY,
    adam_betas=reference.BETAS,
    decay_matrices_only=True,
    max_grad_norm=reference.CLIP,
    lr_schedule="cosine",
    warmup_steps=reference.WARMUP,
    min_lr_ratio=reference.FLOOR,
)

OUTER = OuterOptimConfig(sgd_lr=reference.OUTER_LR, sgd_momentum=reference.MOMENTUM)

Lost = Callable[[int, int], bool]
"""Says whether a replica's contribution to the round on the anchor of an outer step is lost."""


@dataclass(frozen=True, slots=True)
class Case:
    """One run.

    Attributes:
        diloco: what differs from `inner_steps` rounds of fp32.
        speeds: share of the inner steps that each replica manages.
        is_weighted: whether contributions count by their samples.
        lost: contributions that never arrive; their replicas then load the new anchor.
        away: replica, first outer step without it, and the one from which on it is back, fresh.
    """

    diloco: dict[str, object] = field(default_factory=dict)
    speeds: tuple[float, ...] = ()
    is_weighted: bool = True
    lost: Lost = lambda _, __: False
    away: tuple[int, int, int] | None = None


@dataclass(slots=True)
class Outcome:
    """What came of a run.

    Attributes:
        loss: of the anchor on the validation text.
        rounds: outer steps committed.
        num_aborted: rounds that were not.
        num_apart: rounds after which members held different anchors; must be 0.
        bytes_sent: by one peer, mean.
        most_bytes: sent by one peer in one round, but the last, which takes everything.
        digest: of the last anchor.
    """

    loss: float = 0.0
    rounds: int = 0
    num_aborted: int = 0
    num_apart: int = 0
    bytes_sent: float = 0.0
    most_bytes: int = 0
    digest: str = ""


def train(text: Text, size: Size, case: Case) -> Outcome:
    """Train a case from its first to its last outer step."""
    outcome: Outcome = on_virtual_time(_Run(text, size, case).train(), limit_s=1e7)
    return outcome


class _Run:
    def __init__(self, text: Text, size: Size, case: Case) -> None:
        usual = {"inner_steps": size.inner_steps, "outer_steps": size.outer_steps, "quorum": 0.25}
        optims = {"inner_optim": INNER, "outer_optim": OUTER}
        self._config = DilocoConfig.model_validate({**optims, **usual, **case.diloco})
        self._schedule = RunSchedule(self._config)
        self._text, self._size, self._case = text, size, case
        self._swarm = Swarm(size.replicas, **self._config.model_dump())
        self._experts = [self._expert(index) for index in range(size.replicas)]
        self._outcome = Outcome()

    def _expert(self, index: int) -> Expert:
        unit = Unit("gpt", "", lambda: CharGpt(self._text.num_chars))
        stage = Stage("char.full", [unit], self._size.seed)
        model = stage.units["gpt"]
        assert isinstance(model, CharGpt)
        model.seed(self._size.seed)
        return Expert(
            self._swarm.replicas[index].uid,
            stage,
            self._config.inner_optim,
            self._config.outer_optim,
            task=task("llm"),
            is_first=True,
            schedule=self._schedule,
        )

    async def train(self) -> Outcome:
        async with self._swarm:
            for outer_step in range(self._config.outer_steps):
                present = self._present(outer_step)
                for index in present:
                    self._inner_steps(index, outer_step)
                await self._round(outer_step, present)
        best = max(self._experts, key=lambda expert: expert.outer_step)
        outcome = self._outcome
        outcome.digest = best.anchor_digest
        outcome.bytes_sent /= self._size.replicas
        outcome.loss = self._text.validation_loss(
            lambda tokens: best.evaluate((tokens,))[0], self._size.windows
        )
        return outcome

    def _present(self, outer_step: int) -> list[int]:
        everybody = range(self._size.replicas)
        if self._case.away is None:
            return [*everybody]
        who, first, back = self._case.away
        if outer_step == back:
            self._experts[who] = self._expert(who)
            donor = self._experts[(who + 1) % len(everybody)]
            self._experts[who].load(donor.snapshot().committed())
        return [i for i in everybody if i != who or not first <= outer_step < back]

    def _inner_steps(self, index: int, outer_step: int) -> None:
        expert, num_steps = self._experts[index], self._schedule.inner_steps(outer_step)
        speed = self._case.speeds[index] if self._case.speeds else 1.0
        first = self._schedule.first_step(outer_step)
        for done in range(num_steps):
            if int((done + 1) * speed) == int(done * speed):
                continue  # a slow machine is still at the step before
            inputs, targets = self._text.batch(self._size.seed, first + done, index)
            expert.loss_backward(0, (inputs,), (targets,), 1.0, first + done)
            expert.apply(len(inputs), (first + done) * self._size.replicas + index)
            if outer_step and done + 1 == self._schedule.overlap(outer_step - 1):
                expert.take_over()

    async def _round(self, outer_step: int, present: list[int]) -> None:
        for index, peer in enumerate(self._swarm.replicas):
            expert = self._experts[index]
            peer.step, peer.anchor = expert.outer_step, expert.anchor_digest
        lost = {index for index in present if self._case.lost(index, outer_step)}
        gifts = [
            self._gift(index) if index in present and index not in lost else None
            for index in range(self._size.replicas)
        ]
        outcomes = await self._swarm.round(gifts)
        taken = {i: done for i, done in enumerate(outcomes) if isinstance(done, Committed)}
        unexpected = [x for x in outcomes if isinstance(x, Exception)]
        if [x for x in unexpected if not isinstance(x, RoundAborted)]:
            raise ExceptionGroup("rounds failed", unexpected)
        if not taken:
            self._outcome.num_aborted += 1
            return
        self._apply(taken, [index for index in present if index not in taken])

    def _gift(self, index: int) -> Contribution:
        expert = self._experts[index]
        mine = expert.contribution(goes_on=self._schedule.overlap(expert.outer_step) > 0)
        return mine if self._case.is_weighted else replace(mine, samples=1)

    def _apply(self, taken: dict[int, Committed], others: list[int]) -> None:
        """Have who took part commit, and who did not load what they committed."""
        for index, done in taken.items():
            self._experts[index].commit_outer(
                done.mean, done.outer_step, done.int_buffers, done.batches, done.rest
            )
            self._outcome.bytes_sent += done.bytes_sent
            if done.outer_step < self._config.outer_steps:
                self._outcome.most_bytes = max(self._outcome.most_bytes, done.bytes_sent)
        snapshot = self._experts[min(taken)].snapshot().committed()
        for index in others:
            self._experts[index].catch_up(snapshot)
        self._outcome.rounds += 1
        self._outcome.num_apart += len({self._state(index) for index in taken}) > 1

    def _state(self, index: int) -> str:
        """Return the digest of an anchor, once the local parameters are seen to be that anchor.

        Where fragments take turns they differ, but after the last round.
        """
        expert = self._experts[index]
        if self._schedule.is_streaming and expert.outer_step < self._config.outer_steps:
            return expert.anchor_digest
        flat = expert.layout.gather(expert.stage)
        same = torch.equal(flat, expert.snapshot().tensors["anchor"])
        return expert.anchor_digest if same else f"replica {index} is not at its anchor"
