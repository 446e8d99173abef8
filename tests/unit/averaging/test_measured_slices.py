"""Slices follow what earlier rounds have measured, and `rounds` says so."""

from distqatd.averaging.records import Committed, RoundRecord
from tests.support.averaging_swarm import Gift, Replica, Swarm, gifts, on_virtual_time

SIZE = 40_960


def line_of(swarm: Swarm, rates: list[float]) -> None:
    """Have every exchange measure these bytes/s, as it happens."""

    def carry(_: str, callee: str, method: str) -> None:
        for replica, rate in zip(swarm.replicas, rates, strict=True):
            if method == "averaging.chunk" and replica.rpc.peer_id == callee:
                replica.meter.down.samples.append((1 << 20, rate))

    swarm.network.on_call = carry


async def step(swarm: Swarm, number: int) -> list[RoundRecord]:
    """Take an outer step; return what each replica notes about it."""
    anchor = f"anchor{number}"
    for replica in swarm.replicas:
        replica.step, replica.anchor = number, anchor
    brought = [
        Gift(gift.pseudo_gradient, 1, number, anchor) for gift in gifts(len(swarm.replicas), SIZE)
    ]
    outcomes = await swarm.round(brought)
    assert all(isinstance(outcome, Committed) for outcome in outcomes)
    return [newest(replica) for replica in swarm.replicas]


def newest(replica: Replica) -> RoundRecord:
    return replica.averager.rounds[-1]


def test_the_second_round_is_planned_by_what_the_first_has_measured() -> None:
    async def scenario() -> None:
        async with Swarm(4) as swarm:
            line_of(swarm, [25e6, 25e6, 25e6, 2.5e6])
            first, second = await step(swarm, 0), await step(swarm, 1)
            assert set(first[0].shares.values()) == {0.25}
            assert first[0].slicing == "equal slices: no line has been measured yet"
            slow = swarm.replicas[3].uid
            assert second[0].shares[slow] == 0.0
            assert second[0].bandwidths[slow] == 2.5e6
            assert f"{slow} 0% (20 Mbit/s)" in second[0].slicing
            assert all(record.shares == second[0].shares for record in second)

    on_virtual_time(scenario())


def test_noise_moves_no_slice_and_a_change_does() -> None:
    async def scenario() -> None:
        async with Swarm(3) as swarm:
            line_of(swarm, [10e6, 10e6, 10e6])
            await step(swarm, 0)
            line_of(swarm, [11e6, 9e6, 12e6])
            steady = [(await step(swarm, number))[0].shares for number in (1, 2)]
            assert steady[0] == steady[1]
            line_of(swarm, [11e6, 9e6, 3e6])
            await step(swarm, 3)
            moved = (await step(swarm, 4))[0].shares
            assert moved[swarm.replicas[2].uid] < steady[0][swarm.replicas[2].uid]

    on_virtual_time(scenario())
