import pytest

from distqatd.base.errors import NotFound
from distqatd.base.ids import nickname
from distqatd.daemon.names import Named, find
from tests.support.views import info, view_of

ME, OTHER, TWIN = "m" * 52, "abcdefgh" + "o" * 44, "abcdefgh" + "p" * 40 + "oooo"
VIEW = view_of(("front",), info(OTHER, "front.0.0.0"))


def named(text, *others):
    return find(text, VIEW, ME, {OTHER, *others})


def test_no_name_is_this_daemon():
    assert named("") == Named(ME)


@pytest.mark.parametrize("text", [OTHER, nickname(OTHER), OTHER[:6]])
def test_a_peer_is_named_by_id_nickname_or_the_beginning_of_its_id(text):
    assert named(text) == Named(OTHER)


def test_an_expert_names_its_peer_and_itself():
    assert named("front.0.0.0") == Named(OTHER, ("front.0.0.0",))


@pytest.mark.parametrize("text", ["nobody", OTHER[:5], "back.0.0.0"])
def test_a_name_that_nobody_has_is_not_found(text):
    with pytest.raises(NotFound, match="distqatctl peers"):
        named(text)


def test_a_name_that_two_peers_share_names_nobody():
    assert nickname(TWIN) == nickname(OTHER)
    for text in (nickname(OTHER), OTHER[:7]):
        with pytest.raises(NotFound, match="fits several peers"):
            named(text, TWIN)
    assert named(TWIN, TWIN) == Named(TWIN)
