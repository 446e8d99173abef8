"""What the data server decides about its slots."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distqatd.data.slots import (
    MAX_TRAINERS,
    MAX_WANTED,
    Fail,
    Fill,
    Give,
    Instruction,
    Slots,
    validation_index,
    validation_key,
)


def started(num_slots: int = 4, num_trainers: int = 1) -> Slots:
    slots = Slots(num_slots)
    for trainer in range(num_trainers):
        assert slots.join(trainer)
    return slots


def test_a_batch_is_prepared_given_and_the_next_of_the_lease_prepared() -> None:
    slots = started()
    assert slots.want(0, 7, end=10) == [Fill(0, 7)]
    assert slots.filled(0) == [Give(0, 7, 0), Fill(1, 8)]
    assert slots.done(0, 0) == []  # one at a time
    assert slots.filled(1) == [Fill(2, 9)]
    assert slots.filled(2) == []  # the lease ends here
    assert slots.want(0, 8, end=10) == [Give(0, 8, 1)]


def test_what_is_wanted_comes_before_what_will_be() -> None:
    slots = started(num_trainers=2)
    slots.want(0, 0, end=50)
    assert slots.filled(0) == [Give(0, 0, 0), Fill(1, 1)]
    assert slots.want(1, 100, end=150) == []
    assert slots.filled(1) == [Fill(2, 100)]


def test_leases_share_the_slots_that_are_filled_ahead() -> None:
    slots = started(num_slots=5, num_trainers=2)
    slots.want(0, 0, end=50)
    slots.want(1, 100, end=150)
    keys = []
    pending: list[Instruction] = slots.filled(0)
    while fills := [one for one in pending if isinstance(one, Fill)]:
        keys.append(fills[0].key)
        pending = slots.filled(fills[0].slot)
    assert keys == [100, 1, 101, 2]


def test_a_batch_that_another_trainer_takes_over_is_not_prepared_again() -> None:
    slots = started(num_trainers=2)
    slots.want(0, 3)
    slots.filled(0)
    slots.leave(0)
    assert slots.want(1, 3) == [Give(1, 3, 0)]


def test_a_slot_that_is_held_is_never_filled() -> None:
    slots = started(num_slots=2)
    slots.want(0, 0, end=9)
    slots.filled(0)
    slots.filled(1)
    slots.want(0, 1, end=9)
    assert slots.want(0, 5, end=9) == []  # both are held
    assert slots.done(0, 0) == [Fill(0, 5)]


def test_a_trainer_that_dies_frees_what_it_held_and_wanted() -> None:
    slots = started(num_slots=2, num_trainers=2)
    slots.want(0, 0)
    slots.filled(0)
    slots.want(0, 1)
    slots.filled(1)
    assert slots.want(1, 2) == []
    assert slots.leave(0) == [Fill(0, 2)]
    assert slots.filled(0) == [Give(1, 2, 0)]


def test_a_batch_that_cannot_be_prepared_fails_for_those_who_want_it_and_is_not_tried_ahead() -> (
    None
):
    slots = started(num_trainers=2)
    slots.want(0, 0, end=9)
    slots.filled(0)
    slots.want(1, 1)
    assert slots.failed(1, "broken") == [Fail(1, 1, "broken")]
    assert slots.want(1, 1) == [Fill(1, 1)]


def test_there_are_bounds_on_what_trainers_can_ask() -> None:
    slots = started(num_trainers=MAX_TRAINERS)
    assert not slots.join(MAX_TRAINERS)
    for key in range(MAX_WANTED):
        slots.want(0, key)
    (instruction,) = slots.want(0, MAX_WANTED)
    assert isinstance(instruction, Fail)


@pytest.mark.parametrize("index", [0, 1, 99])
def test_validation_has_keys_of_its_own(index: int) -> None:
    assert validation_index(validation_key(index)) == index
    assert validation_key(index) < 0


def test_a_batch_to_train_on_is_none_of_validation() -> None:
    assert validation_index(0) is None


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["want", "done", "filled", "failed", "leave", "join"]),
        st.integers(0, 2),
        st.integers(0, 7),
    ),
    max_size=60,
)


@settings(deadline=None)
@given(EVENTS, st.integers(2, 4))
def test_nobody_is_given_what_is_overwritten_while_they_hold_it(
    events: list[tuple[str, int, int]], num_slots: int
) -> None:
    """Plays trainers and the memory, and ends by giving everybody what they want."""
    slots, memory = Slots(num_slots), dict[int, int]()
    filling: list[Fill] = []
    held: dict[tuple[int, int], int] = {}
    wanted: dict[int, set[int]] = {}

    def do(instructions: list[Instruction]) -> None:
        for one in instructions:
            if isinstance(one, Fill):
                assert one.slot not in {slot for _, slot in held}
                assert not filling
                memory.pop(one.slot, None)
                filling.append(one)
            elif isinstance(one, Give):
                assert memory[one.slot] == one.key
                wanted[one.trainer].remove(one.key)
                held[one.trainer, one.slot] = one.key
            else:
                wanted[one.trainer].remove(one.key)

    def finish(*, well: bool) -> None:
        if filling:
            fill = filling.pop()
            if well:
                memory[fill.slot] = fill.key
            do(slots.filled(fill.slot) if well else slots.failed(fill.slot, "x"))

    def leave(trainer: int) -> None:
        wanted.pop(trainer, None)
        for key in [key for key in held if key[0] == trainer]:
            del held[key]
        do(slots.leave(trainer))

    for what, trainer, number in events:
        if what == "join" and trainer not in wanted:
            slots.join(trainer)
            wanted[trainer] = set()
        elif what == "leave":
            leave(trainer)
        elif what == "want" and trainer in wanted:
            wanted[trainer].add(number)
            do(slots.want(trainer, number, end=8))
        elif what == "done" and trainer in wanted:
            held.pop((trainer, number), None)
            do(slots.done(trainer, number))
        elif what in {"filled", "failed"}:
            finish(well=what == "filled")
    for _ in range(100):
        for trainer, slot in [*held]:
            del held[trainer, slot]
            do(slots.done(trainer, slot))
        finish(well=True)
    assert not any(wanted.values())


def test_several_workers_fill_several_slots_and_never_one_batch_twice() -> None:
    slots = Slots(6, num_workers=3)
    assert slots.join(0)
    assert slots.want(0, 0, end=4) == [Fill(0, 0), Fill(1, 1), Fill(2, 2)]
    assert slots.filled(1) == [Fill(3, 3)]
    assert slots.filled(3) == []
    assert slots.filled(0) == [Give(0, 0, 0)]
    assert slots.want(0, 1, end=4) == [Give(0, 1, 1)]
