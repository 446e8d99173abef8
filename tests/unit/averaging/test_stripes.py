import pytest

from distqatd.averaging.stripes import ChunkBoard, Flight, Pace, take_over


def pace(chunk_s):
    return Pace(chunk_s)


def test_two_chunks_are_asked_of_a_donor_once_it_is_known_to_be_fast():
    one = Pace()
    assert one.window == 1
    one.add(0.2)
    assert one.window == 2
    assert pace(30.0).window == 1


def test_a_pace_follows_the_newest_chunks():
    one = Pace()
    one.add(1.0)
    for _ in range(20):
        one.add(3.0)
    assert one.chunk_s == pytest.approx(3.0, abs=0.01)


@pytest.mark.parametrize(
    ("age_s", "expected_s", "idle_s", "taken"),
    [
        (0.5, 100.0, 0.1, False),  # too young to say
        (2.0, 10.0, 1.0, True),  # eight seconds to go, another has it in one
        (8.5, 10.0, 1.0, False),  # nearly here
        (5.0, 10.0, 4.0, False),  # nothing gained
        (25.0, 10.0, 4.0, True),  # overdue
        (1.5, 0.0, 0.01, True),  # never measured, and long under way
        (3.0, 0.0, 5.0, False),  # never measured, but the idle one is slow itself
    ],
)
def test_a_chunk_is_taken_over_if_another_has_it_much_sooner(age_s, expected_s, idle_s, taken):
    flight = Flight(0, "slow", 100.0, expected_s)
    assert take_over(flight, idle_s, 100.0 + age_s).value is taken


def test_every_chunk_lands_once():
    board = ChunkBoard(3)
    flights = [board.start("a", Pace(), 0.0) for _ in range(3)]
    assert board.start("a", Pace(), 0.0) is None
    assert [board.land(flight) for flight in flights] == [True] * 3
    assert board.land(flights[0]) is False
    assert board.num_left == 0


def test_a_chunk_that_failed_is_open_for_everybody():
    board = ChunkBoard(1)
    board.fail(board.start("a", Pace(), 0.0))
    assert board.start("b", Pace(), 0.0).index == 0


def test_a_donor_that_was_too_slow_with_a_chunk_does_not_get_it_again():
    board = ChunkBoard(1)
    slow = board.start("slow", pace(60.0), 0.0)
    theirs, ours, _ = board.steal("fast", pace(1.0), 5.0, ["slow"])
    assert theirs == slow
    board.fail(slow)  # its worker gives up: the chunk stays with the other
    assert board.start("slow", pace(60.0), 5.0) is None
    board.fail(ours)
    assert board.start("slow", pace(60.0), 6.0) is None
    assert board.start("third", Pace(), 6.0).index == 0


def test_what_is_here_is_kept_when_a_transfer_goes_on_with_other_donors():
    board = ChunkBoard(3)
    board.land(board.start("a", Pace(), 0.0))
    board.start("a", Pace(), 0.0)
    board.reopen()
    assert [board.start("b", Pace(), 1.0).index for _ in range(2)] == [1, 2]
    assert board.start("b", Pace(), 1.0) is None
