import pytest
from hypothesis import given
from hypothesis import strategies as st

from distqatctl import text


@given(st.text())
def test_clean_text_is_printable_and_has_one_line(value: str) -> None:
    assert text.clean(value).isprintable()


def test_clean_shows_what_it_escapes() -> None:
    assert text.clean("birch\x1b[2J\nfake") == r"birch\x1b[2J\nfake"
    assert text.clean("häßlich 日本") == "häßlich 日本"


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0.0004, "0 ms"),
        (0.04, "40 ms"),
        (0.84, "0.8 s"),
        (2.46, "2.5 s"),
        (12, "12 s"),
        (59.7, "1 m 00 s"),
        (125, "2 m 05 s"),
        (3725, "1 h 02 m"),
    ],
)
def test_durations_use_the_units_that_matter(seconds: float, shown: str) -> None:
    assert text.duration(seconds) == shown


@pytest.mark.parametrize(
    ("count", "shown"),
    [(999, "999 B"), (1500, "1.5 KB"), (4_200_000, "4.2 MB"), (3e15, "3000.0 TB")],
)
def test_sizes_are_decimal(count: float, shown: str) -> None:
    assert text.bytes_text(count) == shown


def test_numbers_ages_losses_and_plurals() -> None:
    assert [text.number(n) for n in (0, 3.44, 412.4, 18204)] == ["0", "3.4", "412", "18 204"]
    assert text.ago(None) == "-"
    assert text.ago(12.0) == "12 s ago"
    assert (text.loss_text(None), text.loss_text(1.28449)) == ("-", "1.284")
    assert (text.plural(1, "gap"), text.plural(2, "gap")) == ("1 gap", "2 gaps")
