"""Getting a set of stages at one outer step, from experts that train on meanwhile.

Each stage takes its outer steps by itself. A donor that was asked for its state holds it for two
minutes, so the mirror collects offers until all stages have offered one and the same outer step,
and only then downloads.
"""

import asyncio
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from distqatd.averaging.manifest import ALL, COMMITTED, Manifest
from distqatd.averaging.offers import Donor, Offer, Wanted, ask_donors
from distqatd.averaging.serving import HOLD_S, Run
from distqatd.averaging.transfer import StateFetch
from distqatd.base.decision import Decision
from distqatd.base.errors import CheckpointError
from distqatd.checkpoint.manifest import StageEntry
from distqatd.checkpoint.store import Draft
from distqatd.roles.context import Context
from distqatd.swarm.view import StageView

DONORS_PER_STAGE = 2
"""Replicas asked: each has an inner optimizer of its own, so one is enough, and one is spare."""

OFFER_S = HOLD_S / 2
"""An offer older than this is not counted on: its donor may let go of it before it is fetched."""

AGAIN_S = 10.0
"""A stage whose donors had nothing at an outer step is asked again after this time, or the step."""

STALL_S = 60.0


def common_step(offered: Mapping[str, Collection[int]], after: int) -> Decision[int | None]:
    """Return the newest outer step above `after` that every stage has offered, if there is one."""
    common = set.intersection(*(set(steps) for steps in offered.values())) if offered else set()
    newest = max(common, default=-1)
    if newest > after:
        return Decision(newest, f"all {len(offered)} stages offer outer step {newest}")
    each = ", ".join(
        f"{stage} {' and '.join(map(str, sorted(steps))) or 'nothing'}"
        for stage, steps in offered.items()
    )
    return Decision(None, f"no outer step above {after} is offered by all stages: {each}")


@dataclass(frozen=True, slots=True)
class _Noted:
    """An offer, and when it was made."""

    offer: Offer
    at: float


class Puller:
    """Collects offers of all stages, and downloads a set of them."""

    def __init__(self, context: Context, run: Run) -> None:
        """Prepare; `run` is where a chunk's sha256 is computed."""
        self._context = context
        self._run = run
        self._offers: dict[str, dict[int, _Noted]] = {name: {} for name in context.stage_names}
        self._vain: dict[str, tuple[tuple[object, ...], float]] = {}
        self.refusals: dict[str, str] = {}

    async def collect(self) -> None:
        """Ask every stage for its newest state; from now on its donors keep inner state."""
        self._forget()
        async with asyncio.TaskGroup() as tasks:
            for stage in self._context.directory.view.stages:
                tasks.create_task(self._ask(stage), name=f"mirror.ask.{stage.name}")

    def pick(self, after: int) -> Decision[Mapping[str, Offer] | None]:
        """Return the newest set above outer step `after` that can be fetched, if there is one."""
        step = common_step(self._offers, after)
        if step.value is None:
            refused = "".join(f"; {stage}: {text}" for stage, text in self.refusals.items())
            return Decision(None, step.reason + refused)
        chosen = {stage: noted[step.value].offer for stage, noted in self._offers.items()}
        return Decision(chosen, step.reason)

    async def download(self, offers: Mapping[str, Offer], draft: Draft) -> None:
        """Fetch a set into the files of a draft.

        Raises:
            CheckpointError: a donor left or sent something else, or the disk is full.
        """
        # All at once: a state nobody asks for is let go by its donor.
        try:
            async with asyncio.TaskGroup() as tasks:
                for stage, offer in offers.items():
                    work = self._download(stage, offer, draft)
                    tasks.create_task(work, name=f"mirror.fetch.{stage}")
        except* CheckpointError as group:
            first = group.exceptions[0]
            raise CheckpointError(str(first)) from first

    async def _download(self, stage: str, offer: Offer, draft: Draft) -> None:
        manifest = offer.manifest
        entry = _entry(stage, manifest)
        writer = await self._run(lambda: draft.add_stage(entry, manifest.specs))
        memory = {spec.name: data for spec, data in zip(manifest.specs, writer.data, strict=True)}
        fetch = StateFetch(
            self._context.rpc,
            self._context.events,
            Wanted(ALL),
            allocate=lambda spec: memory[spec.name],
            run=self._run,
            stall_s=STALL_S,
        )
        await fetch.download(offer)

    async def _ask(self, stage: StageView) -> None:
        newest = max((e.record.outer_step for e in stage.members), default=-1)
        chosen = [e for e in stage.members if e.record.outer_step == newest][:DONORS_PER_STAGE]
        donors = [(expert.uid, expert.peer_id) for expert in chosen]
        if self._is_vain(stage.name, (newest, *donors)):
            return
        # After the last outer step none will come that has inner state, nor does one need it.
        is_last = newest >= self._context.config.diloco.outer_steps
        for parts in (ALL, COMMITTED) if is_last else (ALL,):
            if await self._ask_for(stage.name, donors, parts):
                return
        self._vain[stage.name] = ((newest, *donors), asyncio.get_running_loop().time())

    def _is_vain(self, stage: str, asked: tuple[object, ...]) -> bool:
        """Return whether the same donors at the same outer step had nothing a moment ago."""
        before, at = self._vain.get(stage, ((), 0.0))
        return before == asked and asyncio.get_running_loop().time() - at < AGAIN_S

    async def _ask_for(self, stage: str, donors: Sequence[Donor], parts: str) -> bool:
        context = self._context
        try:
            offers = await ask_donors(context.rpc, donors, context.events, Wanted(parts))
        except CheckpointError as error:
            self.refusals[stage] = str(error)
            return False
        self.refusals.pop(stage, None)
        now = asyncio.get_running_loop().time()
        for offer in offers:
            self._offers[stage][offer.manifest.outer_step] = _Noted(offer, now)
        return True

    def _forget(self) -> None:
        oldest = asyncio.get_running_loop().time() - OFFER_S
        for stage, noted in self._offers.items():
            self._offers[stage] = {step: n for step, n in noted.items() if n.at > oldest}


def _entry(stage: str, manifest: Manifest) -> StageEntry:
    """Return what a checkpoint says of a stage.

    Raises:
        CheckpointError: the donor's plain values cannot be kept.
    """
    entry = StageEntry(stage, manifest.anchor_digest, manifest.layout_digest, dict(manifest.meta))
    try:
        json.dumps(entry.meta, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"the state of {stage} has values that are no JSON") from error
    entry.check()
    return entry
