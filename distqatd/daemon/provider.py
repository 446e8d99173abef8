"""Answers the API from memory: this node, its view of the swarm, the run."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from distqatd import __version__
from distqatd.api import schema as s
from distqatd.api.checkpoint_schema import Mirror
from distqatd.api.round_schema import Rounds
from distqatd.base.errors import SwarmError
from distqatd.base.ids import PeerId, nickname
from distqatd.config.run import run_digest
from distqatd.daemon import mirror_answers
from distqatd.daemon.actions import NodeActions
from distqatd.daemon.addresses import reachability
from distqatd.daemon.describe import (
    batches,
    duty,
    evaluation,
    gaps,
    lease_of,
    pipeline_rows,
    stage_row,
    sync_costs,
    training,
    training_state,
)
from distqatd.daemon.round_rows import round_row, wait_row
from distqatd.identity.invite import Invite
from distqatd.roles.monitor import fleet_metrics
from distqatd.swarm.records import DRAINED, DRAINING, JOINING, LeaseRecord
from distqatd.swarm.view import SwarmView

if TYPE_CHECKING:
    from distqatd.base.events import Event
    from distqatd.daemon.node import Node

DEGRADED_S = 60.0
"""A degraded event counts against `status` for so long, seconds."""


class NodeProvider:
    """One node's answers."""

    def __init__(self, node: Node, secret: bytes | None) -> None:
        self._node = node
        self._secret = secret
        self.actions = NodeActions(node)

    # --- this daemon and the swarm

    async def status(self) -> s.Status:
        """Return this daemon, the swarm and the run at a glance."""
        node = self._node
        view = self._view()
        return s.Status(
            swarm=s.SwarmInfo(
                name=node.swarm.name, swarm_id=node.swarm.swarm_id, open=node.swarm.is_open
            ),
            run=self._brief(),
            peer=self._own_peer(),
            training=training(view, node.config) if view else None,
            stages=tuple(stage_row(stage, self._age_s(stage.name)) for stage in view.stages)
            if view
            else (),
            gaps=gaps(view) if view else (),
            experts=self._hosted(),
            degraded=self._degraded(),
            client=duty(view) if view else None,
        )

    def _view(self) -> SwarmView | None:
        context = self._node.context
        return context.directory.view if context is not None else None

    def _age_s(self, stage: str) -> float | None:
        context = self._node.context
        advanced = context.directory.advanced_at.get(stage) if context is not None else None
        return asyncio.get_running_loop().time() - advanced[1] if advanced else None

    def _brief(self) -> s.RunBrief | None:
        node = self._node
        if node.context is None:
            return None
        return s.RunBrief(
            run_id=node.run_id,
            name=node.config.experiment_prefix,
            config_digest=run_digest(node.config),
        )

    def _own_peer(self) -> s.OwnPeer:
        node = self._node
        addresses = node.addresses()
        return s.OwnPeer(
            peer_id=node.identity.peer_id,
            nickname=nickname(node.identity.peer_id),
            roles=node.options.roles,
            addresses=addresses,
            reachability=reachability(addresses),
            uptime_s=asyncio.get_running_loop().time() - node.started_at,
            state=self._own_state(),
            version=__version__,
            pid=os.getpid(),
        )

    def _own_state(self) -> s.PeerState:
        node = self._node
        if node.stopping.is_set():
            return "stopping"
        if node.context is None:
            return "starting"
        states = {expert.state for expert in node.experts}
        if node.is_leaving or DRAINING in states:
            return "draining"
        if JOINING in states:
            return "joining"
        return "drained" if DRAINED in states else "serving"

    def _hosted(self) -> tuple[s.HostedExpert, ...]:
        found = []
        for role in self._node.experts:
            if role.hosted is None or role.slot is None:
                continue
            expert = role.hosted.expert
            found.append(
                s.HostedExpert(
                    uid=role.hosted.uid,
                    stage=role.slot.stage,
                    state=role.state,
                    outer_step=expert.outer_step,
                    inner_step=expert.inner_step,
                    samples_per_s=expert.samples_per_s,
                    memory_bytes=expert.stash_bytes,
                    syncs=sync_costs(role.hosted.syncs),
                )
            )
        return tuple(found)

    def _degraded(self) -> tuple[str, ...]:
        now = self._node.seams.clock.now()
        view = self._view()
        gaps_now = view.gaps if view is not None else ()
        recent = [
            event
            for event in self._node.events.since()
            if event.degraded and (event.kind != "stage.gap" or event.fields["stage"] in gaps_now)
        ]
        return tuple(
            " ".join([event.kind, *(f"{k}={v}" for k, v in event.fields.items())])
            for event in recent[-10:]
            if now - event.time_unix_s < DEGRADED_S
        )

    # --- the others

    async def peers(self) -> s.Peers:
        """Return every known peer but this one."""
        node, view = self._node, self._view()
        links = {link.peer_id: link for link in node.pool.links()}
        known = dict(view.peers) if view else {}
        ids = sorted({*known, *links} - {node.identity.peer_id})
        return s.Peers(peers=tuple(self._peer(peer_id, view) for peer_id in ids))

    def _peer(self, peer_id: PeerId, view: SwarmView | None) -> s.Peer:
        links = {link.peer_id: link for link in self._node.pool.links()}
        link = links.get(peer_id)
        record = view.peers.get(peer_id) if view else None
        experts = [e for stage in view.stages for e in stage.experts] if view else []
        own = [expert for expert in experts if expert.peer_id == peer_id]
        is_draining = any(expert.record.state == DRAINING for expert in own)
        return s.Peer(
            peer_id=peer_id,
            nickname=nickname(peer_id),
            roles=record.roles if record else (),
            addresses=record.addresses if record else (),
            experts=tuple(expert.uid for expert in own),
            state="lost" if not record else "draining" if is_draining else "serving",
            rtt_s=link.rtt_s if link else None,
            bytes_in=link.bytes_in if link else 0,
            bytes_out=link.bytes_out if link else 0,
            last_seen_unix_s=self._node.seams.clock.now(),
        )

    async def pipelines(self) -> s.Pipelines:
        """Return the routes in use and the gaps."""
        view = self._view()
        if view is None:
            return s.Pipelines(pipelines=(), gaps=())
        return s.Pipelines(pipelines=pipeline_rows(view), gaps=gaps(view), client=duty(view))

    async def rounds(self, limit: int) -> Rounds:
        """Return the newest `limit` rounds this daemon took part in, newest last."""
        view, records = self._view(), self._node.round_records()[-limit:]
        return Rounds(
            eval=evaluation(lease_of(view)) if view is not None else None,
            waits=tuple(map(wait_row, self._node.crew.round_waits())),
            rounds=tuple(map(round_row, records)),
        )

    def events(self, since: int, *, follow: bool) -> AsyncIterator[Event]:
        """Yield kept events with a number above `since`, and new ones for ever if `follow`."""
        return self._node.events.follow(since) if follow else self._kept(since)

    async def _kept(self, since: int) -> AsyncIterator[Event]:
        for event in self._node.events.since(since):
            yield event

    # --- the run

    async def run(self) -> s.RunInfo:
        """Return the run's configuration and progress.

        Raises:
            SwarmError: this daemon knows of no run yet.
        """
        node, view = self._node, self._view()
        if view is None:
            raise SwarmError("this daemon has not joined a run yet; try again in a moment")
        metrics, lease = fleet_metrics(view), lease_of(view)
        firsts = [t.record.first_step_unix_s for t in view.trainers if t.record.step > 0]
        first_unix_s = min(firsts, default=None)
        finished = lease is not None and lease.is_finished
        return s.RunInfo(
            run_id=node.run_id,
            name=node.config.experiment_prefix,
            config=node.config.model_dump(mode="json"),
            config_digest=run_digest(node.config),
            state=training_state(view),
            outer_step=metrics.outer_step,
            outer_steps=node.config.diloco.outer_steps,
            inner_steps=lease.committed if lease is not None else metrics.inner_steps,
            samples_per_s=self._mean_speed(metrics.num_samples, first_unix_s, lease),
            first_step_unix_s=first_unix_s,
            finished=finished,
            eval=evaluation(lease),
            batches=batches(lease),
        )

    def _mean_speed(
        self, num_samples: int, first_unix_s: float | None, lease: LeaseRecord | None
    ) -> float:
        if first_unix_s is None:
            return 0.0
        over = lease is not None and lease.finished_unix_s > 0
        end = lease.finished_unix_s if lease and over else self._node.seams.clock.now()
        return num_samples / max(end - first_unix_s, 1e-3)

    async def invite(self) -> s.Invite:
        """Return what lets another machine join; it holds the swarm's secret."""
        return s.Invite(text=str(self._invite()), command=self.join_command())

    def _invite(self) -> Invite:
        node = self._node
        return Invite(
            swarm_name=node.swarm.name,
            open=node.swarm.is_open,
            secret=self._secret,
            addresses=node.addresses(),
            peer_id=node.identity.peer_id,
            operator=node.operators.of_swarm,
        )

    def join_command(self) -> str:
        """Return the line that a volunteer types."""
        return f"distqatd --role expert --join {self._invite()}"

    async def stop(self, reason: str) -> s.Stopping:
        """Begin to stop as on SIGTERM, and return at once."""
        self._node.stop(reason)
        return s.Stopping(peer_id=self._node.identity.peer_id, reason=reason)

    async def mirror(self) -> Mirror:
        """Return what the param mirror of this daemon does."""
        return mirror_answers.describe(self._node.crew.mirror)

    async def keep_checkpoint(self) -> Mirror:
        """Have the param mirror keep a checkpoint as soon as it can, and return at once."""
        return mirror_answers.keep_now(self._node.crew.mirror)
