from dataclasses import replace

import pytest

from distqatd.base.errors import ExpiredDirective, ReplayedDirective
from distqatd.base.ids import PeerId
from distqatd.base.rng import seeded_rng
from distqatd.identity.challenge import MAX_CHALLENGES, MAX_CHALLENGES_PER_PEER, Challenges
from distqatd.identity.directive import VALID_S, Directive

CALLER = PeerId("c" * 52)


def directive(**changes):
    return replace(Directive("drain", PeerId("m" * 52), "swarm", "run", b"n" * 16), **changes)


def challenges():
    return Challenges(seeded_rng("challenges"))


def test_a_nonce_is_good_for_one_directive():
    book = challenges()
    order = directive(nonce=book.give(CALLER, 0.0))
    book.redeem(order, CALLER, 1.0)
    with pytest.raises(ReplayedDirective):
        book.redeem(order, CALLER, 1.0)


def test_a_nonce_that_was_never_given_or_to_another_peer_is_refused():
    book = challenges()
    with pytest.raises(ReplayedDirective):
        book.redeem(directive(), CALLER, 0.0)
    overheard = directive(nonce=book.give(CALLER, 0.0))
    with pytest.raises(ReplayedDirective):
        book.redeem(overheard, PeerId("e" * 52), 0.0)


def test_a_directive_expires_by_the_targets_own_seconds():
    book = challenges()
    late = directive(nonce=book.give(CALLER, 100.0))
    with pytest.raises(ExpiredDirective, match="31 s after its challenge, at most 30 s"):
        book.redeem(late, CALLER, 100.0 + VALID_S + 1)
    hasty = directive(nonce=book.give(CALLER, 100.0), valid_s=2.0)
    with pytest.raises(ExpiredDirective):
        book.redeem(hasty, CALLER, 103.0)
    book.redeem(directive(nonce=book.give(CALLER, 100.0)), CALLER, 100.0 + VALID_S)


@pytest.mark.parametrize("valid_s", [float("nan"), float("inf"), 1e300])
def test_no_operator_can_stretch_the_validity(valid_s):
    book = challenges()
    order = directive(nonce=book.give(CALLER, 0.0), valid_s=valid_s)
    with pytest.raises(ExpiredDirective):
        book.redeem(order, CALLER, VALID_S + 1)


def test_open_challenges_are_bounded_for_one_peer_and_for_all():
    book = challenges()
    mine = [book.give(CALLER, 0.0) for _ in range(MAX_CHALLENGES_PER_PEER + 3)]
    assert len(book) == MAX_CHALLENGES_PER_PEER
    book.redeem(directive(nonce=mine[-1]), CALLER, 0.0)
    for number in range(MAX_CHALLENGES + 9):
        book.give(PeerId(f"peer {number}"), 0.0)
    assert len(book) == MAX_CHALLENGES
