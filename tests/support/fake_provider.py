"""A provider that answers from fixed values, for tests of the API and of distqatctl."""

from collections.abc import AsyncIterator

from distqatd.api import checkpoint_schema, round_schema, schema
from distqatd.base.clock import SystemClock
from distqatd.base.errors import SwarmError
from distqatd.base.events import Event, EventLog
from tests.support.fake_actions import FakeActions

PEER = "a" * 52
OTHER = "b" * 52

GAP = schema.Gap(
    stage="back", reason="no serving expert", suggestion="distqatd --role expert --stage back"
)


def expert(stage: str, index: int, outer_step: int = 3, digest: str = "d1") -> schema.StageExpert:
    return schema.StageExpert(
        uid=f"{stage}.0.{index}.0",
        peer_id=OTHER,
        nickname="birch-bbbb",
        state="serving",
        outer_step=outer_step,
        anchor_digest=digest,
    )


def stage(name: str, *experts: schema.StageExpert) -> schema.Stage:
    return schema.Stage(
        name=name,
        num_replicas=len(experts),
        state="ok" if experts else "gap",
        last_outer_step_age_s=12.0 if experts else None,
        replicas_identical=len({e.anchor_digest for e in experts}) == 1 if experts else None,
        experts=experts,
    )


def status(**changes: object) -> schema.Status:
    values: dict[str, object] = {
        "swarm": schema.SwarmInfo(name="digits", swarm_id="s1", open=False),
        "run": schema.RunBrief(run_id="r1", name="digits", config_digest="c1"),
        "peer": schema.OwnPeer(
            peer_id=PEER,
            nickname="alder-aaaa",
            roles=("monitor", "client"),
            addresses=("/ip4/127.0.0.1/tcp/29700",),
            reachability="loopback",
            uptime_s=61.0,
            state="serving",
            version="0.1.0",
            pid=1234,
        ),
        "training": schema.Training(
            state="training",
            outer_step=3,
            outer_steps=10,
            inner_step=42,
            loss=1.25,
            samples_per_s=412.0,
            num_pipelines=2,
        ),
        "stages": (stage("front", expert("front", 0), expert("front", 1)), stage("back")),
        "gaps": (),
        "experts": (),
        "degraded": (),
    }
    return schema.Status.model_validate({**values, **changes})


def run_info(**changes: object) -> schema.RunInfo:
    values: dict[str, object] = {
        "run_id": "r1",
        "name": "digits",
        "config": {"diloco": {"inner_steps": 50}},
        "config_digest": "c1",
        "state": "training",
        "outer_step": 3,
        "outer_steps": 10,
        "inner_steps": 300,
        "samples_per_s": 400.0,
        "first_step_unix_s": None,
        "finished": False,
        "eval": None,
        "batches": schema.Batches(committed=300),
    }
    return schema.RunInfo.model_validate({**values, **changes})


def mirror(**changes: object) -> checkpoint_schema.Mirror:
    values: dict[str, object] = {
        "folder": "/kept",
        "outer_step": 3,
        "activity": "idle",
        "asked": False,
        "number": 1,
        "ok": True,
        "text": "outer step 3 is kept in /kept/step-000000000003",
    }
    return checkpoint_schema.Mirror.model_validate(values | changes)


class FakeProvider:
    """Answers with what its attributes hold; `stopped` records the reasons of `stop`."""

    def __init__(self) -> None:
        self.status_reply = status()
        self.run_reply: schema.RunInfo | None = run_info()
        self.events_log = EventLog(SystemClock())
        self.stopped: list[str] = []
        self.actions = FakeActions()
        self.limits: list[int] = []
        self.mirror_reply = mirror()
        self.num_asked = 0

    async def status(self) -> schema.Status:
        return self.status_reply

    async def peers(self) -> schema.Peers:
        peer = schema.Peer(
            peer_id=OTHER,
            nickname="birch-bbbb",
            roles=("expert",),
            addresses=("/ip4/127.0.0.1/tcp/1",),
            experts=("front.0.0.0",),
            state="serving",
            rtt_s=0.0004,
            bytes_in=1000,
            bytes_out=2_000_000,
            last_seen_unix_s=1.0,
        )
        return schema.Peers(peers=(peer,))

    async def pipelines(self) -> schema.Pipelines:
        hop = schema.Hop(stage="front", uid="front.0.0.0", peer_id=OTHER, nickname="birch-bbbb")
        pipeline = schema.Pipeline(
            trainer_peer_id=PEER,
            trainer="alder-aaaa",
            hops=(hop,),
            inner_step=42,
            loss=1.25,
            samples_per_s=200.0,
        )
        return schema.Pipelines(pipelines=(pipeline,), gaps=(GAP,))

    async def rounds(self, limit: int) -> round_schema.Rounds:
        self.limits.append(limit)
        record = round_schema.Round(
            outer_step=3,
            stage="front",
            outcome="aborted",
            reason="birch-bbbb sent nothing for 15 s",
            members=(PEER,),
            missing=(OTHER,),
            weights={"front.0.0.0": 320.0},
            bytes_sent=1_500_000,
            seconds=0.8,
            ended_unix_s=1.0,
            shares={"front.0.0.0": 0.6, "front.0.1.0": 0.4},
            bandwidths={"front.0.0.0": 25e6},
            slicing="slices by measured lines: front.0.0.0 60% (200 Mbit/s)",
        )
        wait = round_schema.RoundWait(
            outer_step=4,
            stage="front",
            phase="gathering",
            ready=("front.0.0.0",),
            waiting_for=("front.0.1.0",),
            seconds_left=12.0,
            slices=(
                round_schema.SliceProgress(
                    owner="front.0.1.0",
                    chunks_done=3,
                    chunks=12,
                    bytes_done=3_000_000,
                    num_bytes=12_000_000,
                ),
            ),
            behind=("front.0.1.0",),
        )
        return round_schema.Rounds(rounds=(record,), waits=(wait,))

    async def events(self, since: int, *, follow: bool) -> AsyncIterator[Event]:
        if not follow:
            for event in self.events_log.since(since):
                yield event
            return
        async for event in self.events_log.follow(since):
            yield event

    async def run(self) -> schema.RunInfo:
        if self.run_reply is None:
            raise SwarmError("this daemon knows of no run yet; wait until it has joined")
        return self.run_reply

    async def invite(self) -> schema.Invite:
        return schema.Invite(text="dq1:secret", command="distqatd --role expert --join dq1:secret")

    async def stop(self, reason: str) -> schema.Stopping:
        self.stopped.append(reason)
        return schema.Stopping(peer_id=PEER, reason=reason)

    async def mirror(self) -> checkpoint_schema.Mirror:
        return self.mirror_reply

    async def keep_checkpoint(self) -> checkpoint_schema.Mirror:
        self.num_asked += 1
        return self.mirror_reply
