import hashlib

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distqatd.base.errors import IdentityError
from distqatd.base.rng import seeded_rng
from distqatd.identity import invite as module
from distqatd.identity.invite import Invite, is_invite
from distqatd.identity.keys import Identity
from distqatd.identity.swarm import open_swarm, secret_swarm

PEER = Identity.generate(seeded_rng("peer")).peer_id
INVITE = Invite("demo", False, bytes(range(32)), ("/ip4/192.0.2.7/tcp/29700",), PEER, b"o" * 32)

names = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=64)
addresses = st.lists(st.text(min_size=1, max_size=60), max_size=16).map(tuple)
peers = st.none() | st.integers().map(lambda n: Identity.generate(seeded_rng(n)).peer_id)
invites = st.builds(
    lambda name, secret, *rest: Invite(name, secret is None, secret, *rest),
    names,
    st.none() | st.binary(min_size=32, max_size=32),
    addresses,
    peers,
    st.none() | st.binary(min_size=32, max_size=32),
)


@given(invite=invites)
@settings(max_examples=60, deadline=None)
def test_an_invite_survives_being_written_and_read(invite: Invite) -> None:
    assert Invite.parse(str(invite)) == invite


@given(position=st.integers(0, len(str(INVITE)) - 5), letter=st.sampled_from("abcxyz234567"))
@settings(max_examples=100, deadline=None)
def test_any_single_typo_is_noticed(position: int, letter: str) -> None:
    word = str(INVITE)
    position += len(module.PREFIX)
    if word[position] == letter:
        return
    with pytest.raises(IdentityError):
        Invite.parse(word[:position] + letter + word[position + 1 :])


@given(text=st.text(max_size=80) | st.text("abcdefgh234567", max_size=200).map("dq1:".__add__))
@settings(max_examples=100, deadline=None)
def test_garbage_is_an_identity_error_and_nothing_else(text: str) -> None:
    with pytest.raises(IdentityError):
        Invite.parse(text)


@given(body=st.binary(max_size=80))
@settings(max_examples=100, deadline=None)
def test_a_hostile_body_with_a_valid_checksum_is_an_identity_error(body: bytes) -> None:
    data = len(body).to_bytes(2, "big") + body + hashlib.sha256(body).digest()[:4]
    with pytest.raises(IdentityError):
        Invite.parse("dq1:" + module._base32(data))


@pytest.mark.parametrize(
    "fields",
    [
        [],
        ["demo", None, ["x"]],
        ["demo", b"short", ["x"], None, None],
        ["demo", None, ["x"] * 17, None, None],
        ["demo", None, [7], None, None],
        ["demo", None, [""], None, None],
        ["demo", None, "x", None, None],
        ["", None, ["x"], None, None],
        ["demo", None, ["x"], "Qmlibp2p", None],
        ["demo", None, ["x"], None, b"short"],
        ["demo", None, ["x"], None, "text"],
        {"demo": 1},
    ],
)
def test_a_body_with_wrong_fields_is_refused(fields: object) -> None:
    with pytest.raises(IdentityError):
        module._from_body(msgpack.packb(fields))


def test_line_breaks_and_capitals_do_not_matter() -> None:
    word = str(INVITE)
    assert Invite.parse(f"  {word[:40].upper()}\n   {word[40:]}\n") == INVITE


def test_a_cut_off_invite_says_so() -> None:
    with pytest.raises(IdentityError, match=r"cut off after 50 characters.*distqatctl invite"):
        Invite.parse(str(INVITE)[:54])


def test_a_swapped_pair_says_typo() -> None:
    word = str(INVITE)
    at = next(n for n in range(20, len(word)) if word[n] != word[n + 1])
    with pytest.raises(IdentityError, match="typo"):
        Invite.parse(word[:at] + word[at + 1] + word[at] + word[at + 2 :])


def test_an_impossible_character_is_named_with_the_one_it_resembles() -> None:
    word = str(INVITE)
    with pytest.raises(IdentityError, match=r"character 11, '0'.*did you mean 'o'"):
        Invite.parse(word[:10] + "0" + word[11:])


def test_something_else_says_what_an_invite_begins_with() -> None:
    with pytest.raises(IdentityError, match="begins with 'dq1:'"):
        Invite.parse("example.org:29700")
    assert is_invite(" DQ1:xyz")
    assert not is_invite("example.org")


def test_an_invite_leads_to_its_swarm() -> None:
    assert INVITE.swarm().swarm_id == secret_swarm("demo", bytes(range(32))).swarm_id
    assert Invite("demo", True, None, ()).swarm().swarm_id == open_swarm("demo").swarm_id


def test_the_secret_is_not_in_the_repr() -> None:
    assert "secret" not in repr(INVITE)


@pytest.mark.parametrize(("open_", "secret"), [(True, bytes(32)), (False, None)])
def test_a_secret_comes_exactly_with_a_secret_swarm(open_: bool, secret: bytes | None) -> None:
    with pytest.raises(IdentityError, match="exactly if"):
        Invite("demo", open_, secret, ())
