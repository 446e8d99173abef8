from distqatd.averaging.looking import MAX_REDIRECTS, Candidates


def drained(candidates):
    found = []
    while (uid := candidates.next()) is not None:
        found.append(uid)
    return found


def test_open_rounds_come_before_the_order_by_hash_and_nobody_comes_twice():
    assert drained(Candidates(["c"], ["a", "b", "c"])) == ["c", "a", "b"]


def test_whom_one_is_sent_to_comes_next_and_then_the_one_who_said_so():
    candidates = Candidates([], ["a", "b"])
    candidates.redirect(candidates.next(), "x")
    assert drained(candidates) == ["x", "a", "b"]


def test_two_that_send_one_to_each_other_do_so_a_few_times_only():
    candidates = Candidates([], ["a", "b"])
    asked = []
    while (uid := candidates.next()) is not None:
        asked.append(uid)
        candidates.redirect(uid, "b" if uid == "a" else "a")
    assert len(asked) <= 2 + 2 * MAX_REDIRECTS
