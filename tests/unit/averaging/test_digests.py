"""Agreement about anchors."""

from distqatd.averaging.digests import DigestBook, agree


def test_all_the_same_is_identical_only_if_everybody_answered() -> None:
    assert agree({"a": "x", "b": "x"}, ()).identical
    assert not agree({"a": "x", "b": "x"}, ("c",)).identical


def test_the_majority_wins_and_a_tie_is_settled_the_same_way_everywhere() -> None:
    assert agree({"a": "x", "b": "y", "c": "y"}, ()).holders == ("b", "c")
    assert agree({"a": "y", "b": "x"}, ()).majority == "x"
    assert agree({"b": "x", "a": "y"}, ()).holders == ("b",)


def test_the_book_is_bounded_in_steps_and_members() -> None:
    book = DigestBook(capacity=3, max_members=2)
    for step in range(10):
        book.note("mine", step, "a", "x")
    assert not book.get("mine", 6)
    for uid in "abcd":
        book.note("mine", 9, uid, "x")
    assert set(book.get("mine", 9)) == {"a", "b"}
    book.forget("mine")
    assert not book.get("mine", 9)
