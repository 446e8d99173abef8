"""The swarm as one peer knows it: an immutable snapshot that decisions are made from."""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace

from distqatd.base.errors import IdentityError
from distqatd.base.ids import ExpertUid, PeerId, parse_uid
from distqatd.swarm.records import (
    DRAINING,
    JOINING,
    SERVING,
    STATES,
    ExpertRecord,
    LeaseRecord,
    PeerRecord,
    TrainerRecord,
)


@dataclass(frozen=True, slots=True)
class ExpertInfo:
    """One expert as its peer announced it. `uid` is empty while a joiner has no slot yet."""

    peer_id: PeerId
    uid: ExpertUid
    stage: str
    index: int
    record: ExpertRecord

    @property
    def is_serving(self) -> bool:
        """Return whether the expert takes steps."""
        return self.record.state == SERVING

    @property
    def is_member(self) -> bool:
        """Return whether the expert holds the stage's state: it serves, or is about to leave."""
        return self.record.state in (SERVING, DRAINING)


@dataclass(frozen=True, slots=True)
class TrainerInfo:
    """One job of a trainer, or a trainer that waits for one (`record.pipeline` is -1)."""

    peer_id: PeerId
    record: TrainerRecord

    @property
    def is_training(self) -> bool:
        """Return whether it runs a pipeline."""
        return self.record.pipeline >= 0


@dataclass(frozen=True, slots=True)
class StageView:
    """The experts of one stage, serving or on their way."""

    name: str
    experts: tuple[ExpertInfo, ...]

    @property
    def serving(self) -> tuple[ExpertInfo, ...]:
        """Return the experts that take steps, by replica index."""
        return tuple(expert for expert in self.experts if expert.is_serving)

    @property
    def members(self) -> tuple[ExpertInfo, ...]:
        """Return the experts that hold the stage's state: those that serve or drain."""
        return tuple(expert for expert in self.experts if expert.is_member)

    @property
    def memory_needed(self) -> int:
        """Return the bytes an expert of this stage takes, as far as any has told; else 0."""
        return max((expert.record.memory_used for expert in self.members), default=0)

    @property
    def samples_per_s(self) -> float:
        """Return the stage's total throughput, samples per second."""
        return sum(expert.record.samples_per_s for expert in self.serving)


@dataclass(frozen=True, slots=True)
class SwarmView:
    """Everything one peer knows at one moment; peers it saw die are left out."""

    stages: tuple[StageView, ...]
    joiners: tuple[ExpertInfo, ...] = ()
    trainers: tuple[TrainerInfo, ...] = ()
    peers: Mapping[PeerId, PeerRecord] = field(default_factory=dict)
    leases: Mapping[PeerId, LeaseRecord] = field(default_factory=dict)

    @property
    def stage_names(self) -> tuple[str, ...]:
        """Return the stages in pipeline order."""
        return tuple(stage.name for stage in self.stages)

    @property
    def gaps(self) -> tuple[str, ...]:
        """Return the stages that no expert serves."""
        return tuple(stage.name for stage in self.stages if not stage.serving)

    @property
    def num_complete(self) -> int:
        """Return how many disjoint pipelines the serving experts can form."""
        return min((len(stage.serving) for stage in self.stages), default=0)

    def stage(self, name: str) -> StageView:
        """Return the stage of that name.

        Raises:
            KeyError: the pipeline has no such stage.
        """
        for stage in self.stages:
            if stage.name == name:
                return stage
        raise KeyError(name)

    def unfit(self, expert: ExpertInfo) -> frozenset[str]:
        """Return the stages that do not fit into an expert's machine, as that machine says."""
        bits = expert.record.unfit
        return frozenset(name for i, name in enumerate(self.stage_names) if bits >> i & 1)

    def where(self, keep: Callable[[ExpertInfo], bool]) -> "SwarmView":
        """Return the view with the experts and joiners that `keep` says yes to."""
        stages = tuple(
            StageView(stage.name, tuple(e for e in stage.experts if keep(e)))
            for stage in self.stages
        )
        return replace(self, stages=stages, joiners=tuple(e for e in self.joiners if keep(e)))

    def without(self, peers: Collection[PeerId]) -> "SwarmView":
        """Return the view without the experts of some peers."""
        return self.where(lambda expert: expert.peer_id not in peers)

    def expert(self, uid: ExpertUid) -> ExpertInfo | None:
        """Return the serving or draining expert with this uid, if there is one."""
        for stage in self.stages:
            for expert in stage.members:
                if expert.uid == uid:
                    return expert
        return None


def expert_info(peer_id: PeerId, record: ExpertRecord) -> ExpertInfo | None:
    """Return a record's expert, or None if its uid or state makes no sense."""
    if record.state not in STATES:
        return None
    if record.uid == "":
        return ExpertInfo(peer_id, ExpertUid(""), "", -1, record)
    try:
        stage, index = parse_uid(record.uid)
    except IdentityError:
        return None
    return ExpertInfo(peer_id, ExpertUid(record.uid), stage, index, record)


def build_stage(name: str, experts: Iterable[ExpertInfo]) -> StageView:
    """Collect one stage's experts.

    Of two with one uid it is the one that serves; then the one further on; then the lower peer id.
    """
    best: dict[ExpertUid, ExpertInfo] = {}
    for expert in experts:
        if expert.stage != name:
            continue
        held = best.get(expert.uid)
        if held is None or _precedence(expert) < _precedence(held):
            best[expert.uid] = expert
    return StageView(name, tuple(sorted(best.values(), key=lambda expert: expert.index)))


def _precedence(expert: ExpertInfo) -> tuple[bool, int, PeerId]:
    return (expert.record.state == JOINING, -expert.record.outer_step, expert.peer_id)
