"""A stage begins anew only when those who held its state are gone, not while they are cut off."""

from types import SimpleNamespace

import pytest

from distqatd.base.errors import DialError, NothingListens
from distqatd.roles.lost_state import may_come_back
from tests.support.loops import on_virtual_time


def seen(answers):
    """Return what a daemon knows that saw `answers` at outer step 3; each answers like this."""

    async def knock(peer):
        if isinstance(answers[peer], Exception):
            raise answers[peer]

    directory = SimpleNamespace(
        advanced_at={"back": (3, 0.0)}, holders={"back": {*answers}}, knock=knock
    )
    return SimpleNamespace(directory=directory, peer_id="us")


@pytest.mark.parametrize(
    ("answers", "outer_step", "expected"),
    [
        ({"a": NothingListens("refused"), "b": NothingListens("refused")}, 0, False),
        ({"a": NothingListens("refused"), "b": DialError("no answer")}, 0, True),
        ({"a": None}, 0, False),  # it lives, and has said already what it serves
        ({"us": DialError("ourselves")}, 0, False),  # we hold it no more, or would not ask
        ({"a": DialError("no answer")}, 3, False),  # nobody knows more than we do
    ],
)
@on_virtual_time
async def test_whether_state_may_come_back(answers, outer_step, expected):
    assert (await may_come_back(seen(answers), "back", outer_step)).value is expected
