from distqatctl.local.stalls import Stalls


def test_the_longest_time_without_a_step_is_kept():
    stalls = Stalls()
    for now, inner_step in [(0.0, 1), (0.1, 1), (0.5, 1), (0.6, 2), (0.7, 3)]:
        stalls.note("front.0.0.0", (0, inner_step), now)
    assert stalls.longest(["front.0.0.0"]) == 0.6


def test_an_expert_that_is_still_waiting_counts():
    stalls = Stalls()
    stalls.note("front.0.0.0", (0, 1), 0.0)
    stalls.note("front.0.0.0", (0, 1), 2.0)
    assert stalls.longest(["front.0.0.0", "back.0.0.0"]) == 2.0
    assert stalls.longest(["back.0.0.0"]) is None


def test_an_expert_goes_on_once_it_was_seen_to_take_a_step():
    stalls = Stalls()
    stalls.note("front.0.0.0", (0, 1), 1.0)
    assert not stalls.all_moved_since(["front.0.0.0"], 0.5)
    stalls.note("front.0.0.0", (0, 2), 2.0)
    assert stalls.all_moved_since(["front.0.0.0"], 1.5)
    assert not stalls.all_moved_since(["front.0.0.0"], 2.5)
    assert not stalls.all_moved_since(["front.0.0.0", "back.0.0.0"], 1.5)
