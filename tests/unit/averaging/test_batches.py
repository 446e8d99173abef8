"""A round says which batches it covers, and when a batch was trained twice."""

from distqatd.averaging.member import MemberRound
from distqatd.averaging.plan import Plan
from distqatd.averaging.records import Committed
from distqatd.base.intervals import IntervalSet
from tests.support.averaging_swarm import Swarm, gifts, on_virtual_time

OVERLAP = "round.batches_overlap"


def batches(*pairs: tuple[int, int]) -> IntervalSet:
    return IntervalSet.from_pairs(pairs)


def with_batches(*sets: IntervalSet):
    brought = gifts(len(sets))
    for gift, held in zip(brought, sets, strict=True):
        gift.batches = held
    return brought


def overlaps(swarm: Swarm) -> list[int]:
    kinds = [
        [event.kind for event in replica.averager._tools.events.since()]
        for replica in swarm.replicas
    ]
    return [found.count(OVERLAP) for found in kinds]


def test_every_member_learns_what_all_of_them_have_trained_on() -> None:
    async def scenario() -> None:
        async with Swarm(3) as swarm:
            brought = with_batches(batches((0, 10)), batches((20, 30)), batches((10, 12)))
            outcomes = await swarm.round(brought)
            assert {outcome.batches for outcome in outcomes} == {batches((0, 12), (20, 30))}
            assert overlaps(swarm) == [0, 0, 0]
            records = [replica.averager.rounds[-1] for replica in swarm.replicas]
            assert [record.duplicated for record in records] == [0, 0, 0]

    on_virtual_time(scenario())


def test_a_lone_replica_commits_its_own_batches() -> None:
    async def scenario() -> None:
        async with Swarm(1) as swarm:
            (outcome,) = await swarm.round(with_batches(batches((3, 7))))
            assert outcome.batches == batches((3, 7))

    on_virtual_time(scenario())


def test_batches_that_two_members_trained_on_are_counted_and_told() -> None:
    async def scenario() -> None:
        async with Swarm(2) as swarm:
            await swarm.round(with_batches(batches((0, 10)), batches((8, 20))))
            assert overlaps(swarm) == [1, 1]
            records = [replica.averager.rounds[-1] for replica in swarm.replicas]
            assert [record.duplicated for record in records] == [2, 2]

    on_virtual_time(scenario())


def test_a_plan_that_leaves_out_batches_of_a_member_is_refused(monkeypatch) -> None:
    taken = MemberRound.take_plan

    def robbed(self: MemberRound, plan: Plan, *rest) -> None:
        body = {**plan.to_body(), "batches": batches((0, 10)).to_list()}
        taken(self, Plan.from_body(body), *rest)

    async def scenario() -> None:
        monkeypatch.setattr(MemberRound, "take_plan", robbed)
        async with Swarm(2) as swarm:
            outcomes = await swarm.round(with_batches(batches((0, 10)), batches((10, 20))))
            assert not any(isinstance(outcome, Committed) for outcome in outcomes)
            assert any("leaves out batches 10..19" in str(outcome) for outcome in outcomes)

    on_virtual_time(scenario())
