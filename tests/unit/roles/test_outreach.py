"""Client mode: everybody that is known is called, again with every look at the swarm."""

import asyncio

from distqatd.base.errors import DialError
from distqatd.base.ids import PeerId
from distqatd.roles.outreach import MAX_REACHED, reach_out
from tests.support.averaging_swarm import on_virtual_time


class Directory:
    """Knows some peers, one of which does not answer, and looks every second."""

    def __init__(self, num: int) -> None:
        self.peers = tuple(PeerId(f"peer{index:03}") for index in range(num))
        self.knocked: list[PeerId] = []

    def others(self) -> tuple[PeerId, ...]:
        return self.peers

    async def next_view(self) -> None:
        await asyncio.sleep(1.0)

    async def knock(self, peer: PeerId) -> None:
        self.knocked.append(peer)
        if peer == "peer001":
            raise DialError("no address is known")


class Context:
    def __init__(self, directory: Directory) -> None:
        self.directory = directory


def knocked(num: int, seconds: float) -> list[PeerId]:
    directory = Directory(num)

    async def scenario() -> None:
        try:
            async with asyncio.timeout(seconds):
                await reach_out(Context(directory))
        except TimeoutError:
            pass

    on_virtual_time(scenario())
    return directory.knocked


def test_everybody_is_called_again_and_again_also_after_one_that_does_not_answer() -> None:
    assert sorted(knocked(3, 1.5)) == sorted(["peer000", "peer001", "peer002"] * 2)


def test_only_so_many_are_kept_in_touch_with() -> None:
    assert len(knocked(MAX_REACHED + 9, 0.5)) == MAX_REACHED
