"""Who is believed to live, record by record."""

from distqatd.base.clock import SystemClock
from distqatd.base.events import EventLog
from distqatd.roles.absence import Absence

SLOT = ("run/stage/0", "0")
PEERS = ("peers", "")


def absence():
    return Absence(EventLog(SystemClock()))


def test_a_record_written_right_before_the_death_and_read_after_it_is_no_sign_of_life():
    known = absence()
    assert known.believes("a", SLOT, 1, 1)
    known.mark("a", "its link broke")
    assert not known.believes("a", SLOT, 2, 1)
    assert known.returning == {"a"}
    known.stayed_away("a")
    assert not known.returning
    assert not known.believes("a", SLOT, 2, 1)
    assert not known.returning, "it is not asked again for what it was asked for already"
    assert not known.believes("a", SLOT, 3, 1)
    assert known.returning == {"a"}


def test_who_answers_is_believed_again():
    known = absence()
    known.believes("a", SLOT, 1, 1)
    known.mark("a", "its link broke")
    known.believes("a", SLOT, 2, 1)
    known.came_back("a")
    assert "a" not in known
    assert known.believes("a", SLOT, 2, 1)


def test_a_later_life_is_believed_at_once_and_the_records_of_the_former_one_never_again():
    known = absence()
    known.believes("a", SLOT, 1, 1)
    known.mark("a", "its link broke")
    assert known.believes("a", PEERS, 9, 2)
    assert "a" not in known
    assert not known.believes("a", SLOT, 1, 1), "what it served, it served in its former life"
    assert known.believes("a", SLOT, 10, 2)
