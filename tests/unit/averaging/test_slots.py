from distqatd.averaging.slots import IDLE_S, MAX_RETRY_S, MAX_WAITING, Joiner, UploadSlots


def joiner(name):
    return Joiner(name, "full.0.0.0")


def test_slots_are_given_first_come_first_served():
    slots = UploadSlots(2)
    assert [slots.ask(joiner(name), 0.0).value for name in "ab"] == [0.0, 0.0]
    assert slots.ask(joiner("c"), 0.0).value == 1.0
    assert slots.ask(joiner("d"), 0.0).value == 2.0
    slots.free(joiner("a"))
    assert slots.ask(joiner("d"), 1.0).value > 0  # c was there before
    assert slots.ask(joiner("c"), 1.0).value == 0.0


def test_who_holds_a_slot_keeps_it_while_it_asks():
    slots = UploadSlots(1)
    for now in (0.0, 100.0, 200.0, 300.0):
        assert slots.ask(joiner("a"), now).value == 0.0
    assert slots.ask(joiner("b"), 300.0 + IDLE_S).value > 0
    assert slots.ask(joiner("b"), 301.0 + IDLE_S).value == 0.0


def test_a_place_in_line_is_lost_by_who_does_not_come_back():
    slots = UploadSlots(1)
    slots.ask(joiner("a"), 0.0)
    slots.ask(joiner("b"), 0.0)
    slots.free(joiner("a"))
    assert slots.ask(joiner("c"), 1.0).value > 0
    assert slots.ask(joiner("c"), 3.0).value == 0.0


def test_a_peer_that_is_lost_frees_all_it_had():
    slots = UploadSlots(2)
    slots.ask(Joiner("a", "x"), 0.0)
    slots.ask(Joiner("a", "y"), 0.0)
    slots.ask(Joiner("a", "z"), 0.0)
    slots.forget("a")
    assert slots.num_held == 0
    assert slots.ask(joiner("b"), 0.0).value == 0.0


def test_the_line_is_bounded_and_so_is_the_wait():
    slots = UploadSlots(1)
    waits = [slots.ask(joiner(str(i)), 0.0).value for i in range(2 * MAX_WAITING)]
    assert max(waits) == MAX_RETRY_S
    assert len(slots._waiting) == MAX_WAITING


def test_the_reason_says_how_many_are_before_one():
    slots = UploadSlots(1)
    slots.ask(joiner("a"), 0.0)
    slots.ask(joiner("b"), 0.0)
    reason = slots.ask(joiner("c"), 0.0).reason
    assert reason == "all 1 upload slots in use, 1 joiners are before you"
