import pytest

from distqatd.api.guard import refusal


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.0.0.1:29701", "localhost:29701", "[::1]:29701", "[::1]"]
)
def test_a_read_under_a_loopback_name_is_answered(host: str) -> None:
    assert refusal("GET", {"host": host}) is None


@pytest.mark.parametrize(
    "host",
    [
        "",
        "evil.example",
        "evil.example:29701",
        "127.0.0.1.evil.example",
        "localhost.evil.example:29701",
        "evil.example:127.0.0.1",
        "[::1].evil.example",
        "::1",
        "10.0.0.4:29701",
        "localhost:29701:1",
    ],
)
def test_a_page_that_rebinds_its_own_name_is_refused(host: str) -> None:
    assert "not a loopback name" in str(refusal("GET", {"host": host}))


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://localhost:3000", "https://127.0.0.1:29701"]
)
def test_another_origin_is_refused(origin: str) -> None:
    assert "another site" in str(refusal("GET", {"host": "127.0.0.1:29701", "origin": origin}))


def test_the_same_origin_is_answered() -> None:
    headers = {"host": "localhost:29701", "origin": "http://localhost:29701"}
    assert refusal("GET", {**headers, "sec-fetch-site": "same-origin"}) is None


@pytest.mark.parametrize("site", ["cross-site", "same-site", "something-new"])
def test_a_request_started_by_another_site_is_refused(site: str) -> None:
    assert refusal("GET", {"host": "127.0.0.1:1", "sec-fetch-site": site}) is not None


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
def test_whatever_acts_is_refused_on_the_loopback_port(method: str) -> None:
    assert "unix socket" in str(refusal(method, {"host": "127.0.0.1:1"}))
