from hypothesis import given
from hypothesis import strategies as st

from distqatd.swarm.duty import CLAIM, HOLD, STAND_BY, STEP_DOWN, Situation, decide, turn


def situation(**fields):
    values = {
        "me": "b",
        "term": 0,
        "known_term": 0,
        "rivals": {},
        "settled": (),
        "clients": ("b",),
        "vacant_s": 0.0,
    }
    return Situation(**{**values, **fields})


def outcome(**fields):
    step = decide(situation(**fields)).value
    return step.action, step.term


def test_a_client_that_is_alone_claims_at_once():
    assert outcome() == (CLAIM, 1)


def test_a_client_that_comes_later_stands_by():
    assert outcome(rivals={"a": 4}) == (STAND_BY, 4)


def test_after_the_holder_is_gone_the_clients_have_their_turns():
    clients = ("a", "b", "c")
    waits = [turn(me, [peer for peer in clients if peer != me]) for me in clients]
    assert waits == sorted(waits)
    assert 0 < waits[0] < waits[2] < 3
    for me, wait_s in zip(clients, waits, strict=True):
        early, late = wait_s - 0.01, wait_s
        assert outcome(me=me, known_term=4, clients=clients, vacant_s=early) == (STAND_BY, 4)
        assert outcome(me=me, known_term=4, clients=clients, vacant_s=late) == (CLAIM, 5)


def test_the_holder_holds_while_nobody_else_does():
    assert outcome(term=3, known_term=3) == (HOLD, 3)


def test_of_two_holders_the_one_with_the_lower_term_steps_down():
    assert outcome(term=3, known_term=4, rivals={"z": 4}) == (STEP_DOWN, 4)


def test_of_two_holders_in_one_term_the_lower_peer_id_goes_on():
    assert outcome(term=3, known_term=3, rivals={"a": 3}) == (STEP_DOWN, 3)
    assert outcome(term=3, known_term=3, rivals={"c": 3}) == (CLAIM, 4)


def test_the_holder_that_goes_on_asks_everybody_again_but_only_once():
    assert outcome(term=3, known_term=3, rivals={"a": 2}) == (CLAIM, 4)
    assert outcome(term=4, known_term=4, rivals={"a": 2}, settled={("a", 2)}) == (HOLD, 4)


def test_a_holder_that_hears_of_a_higher_term_takes_one_above_it():
    assert outcome(term=1, known_term=7) == (CLAIM, 8)


def test_the_reason_names_who_and_when():
    decision = decide(situation(term=3, known_term=9, rivals={"z": 9}))
    assert decision.reason == "z holds it in term 9, we in 3"


@given(
    st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 5), min_size=2),
)
def test_of_any_holders_that_see_each_other_exactly_one_goes_on(holders):
    stay = []
    for me, term in holders.items():
        rivals = {peer: theirs for peer, theirs in holders.items() if peer != me}
        action, _ = outcome(me=me, term=term, known_term=max(holders.values()), rivals=rivals)
        stay += [me] if action != STEP_DOWN else []
    assert len(stay) == 1
    assert holders[stay[0]] == max(holders.values())
