from distqatd.base.reasons import Reasons


def test_the_last_reason_of_a_kind_and_subject_is_kept_newest_first():
    reasons = Reasons()
    assert reasons.note("placement", "front.0.0.0", "front has no expert", 1.0)
    assert reasons.note("route", "pipeline 0", "complete", 2.0)
    assert reasons.note("placement", "front.0.0.0", "it is the slowest", 3.0)
    assert [(r.kind, r.text) for r in reasons.all()] == [
        ("placement", "it is the slowest"),
        ("route", "complete"),
    ]


def test_a_reason_that_stays_the_same_keeps_its_time():
    reasons = Reasons()
    reasons.note("route", "pipeline 0", "complete", 1.0)
    assert not reasons.note("route", "pipeline 0", "complete", 9.0)
    assert reasons.all()[0].time_unix_s == 1.0


def test_the_store_is_bounded_in_number_and_in_text():
    reasons = Reasons(max_reasons=3)
    for number in range(9):
        reasons.note("route", str(number), "x" * 5000, float(number))
    assert [r.subject for r in reasons.all()] == ["8", "7", "6"]
    assert len(reasons.all()[0].text) == 1000
