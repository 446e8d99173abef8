import asyncio
import json
from collections.abc import AsyncIterator

import httpx
import pytest

from distqatd.api import checkpoint_schema, round_schema, schema
from distqatd.api.app import create_app
from distqatd.api.guard import Guard
from tests.support.fake_provider import FakeProvider


@pytest.fixture
def provider() -> FakeProvider:
    return FakeProvider()


@pytest.fixture
async def owner(provider: FakeProvider) -> AsyncIterator[httpx.AsyncClient]:
    app = Guard(create_app(provider, asyncio.Event()), owner=True)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://distqat") as client:
        yield client


@pytest.fixture
async def anyone(provider: FakeProvider) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(Guard(create_app(provider, asyncio.Event()), owner=False))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:1") as client:
        yield client


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/v1/status", schema.Status),
        ("/v1/peers", schema.Peers),
        ("/v1/pipelines", schema.Pipelines),
        ("/v1/rounds", round_schema.Rounds),
        ("/v1/run", schema.RunInfo),
        ("/v1/mirror", checkpoint_schema.Mirror),
    ],
)
async def test_reads_are_answered_to_the_owner_and_to_anyone_alike(
    owner: httpx.AsyncClient, anyone: httpx.AsyncClient, path: str, kind: type[schema.Reply]
) -> None:
    for client in (owner, anyone):
        reply = await client.get(path)
        assert reply.status_code == 200
        assert kind.model_validate_json(reply.content).schema_id.startswith("distqat.")


async def test_the_invite_is_the_owners_alone(
    owner: httpx.AsyncClient, anyone: httpx.AsyncClient
) -> None:
    assert (await owner.get("/v1/invite")).json()["text"] == "dq1:secret"
    for path in ("/v1/invite", "/v1/invite/", "/v1//invite", "/v1/invite?x=1"):
        refused = await anyone.get(path, follow_redirects=True)
        assert refused.status_code in {403, 404}
        assert b"dq1:" not in refused.content


async def test_stopping_is_the_owners_alone(
    owner: httpx.AsyncClient, anyone: httpx.AsyncClient, provider: FakeProvider
) -> None:
    refused = await anyone.post("/v1/stop", json={"reason": "mischief"})
    assert refused.status_code == 403
    error = schema.ErrorReply.model_validate_json(refused.content)
    assert (error.code, error.exit_code) == ("not-allowed", 6)
    assert provider.stopped == []
    accepted = await owner.post("/v1/stop", json={"reason": "maintenance"})
    assert accepted.status_code == 202
    assert provider.stopped == ["maintenance"]


async def test_keeping_a_checkpoint_is_the_owners_alone(
    owner: httpx.AsyncClient, anyone: httpx.AsyncClient, provider: FakeProvider
) -> None:
    assert (await anyone.post("/v1/mirror", json={})).status_code == 403
    assert provider.num_asked == 0
    assert (await owner.post("/v1/mirror", json={})).status_code == 202
    assert provider.num_asked == 1


async def test_a_request_that_no_guard_has_marked_is_not_the_owners(provider: FakeProvider) -> None:
    transport = httpx.ASGITransport(create_app(provider, asyncio.Event()))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        assert (await client.get("/v1/invite")).status_code == 403


async def test_an_error_carries_its_code_its_message_and_the_exit_code(
    owner: httpx.AsyncClient, provider: FakeProvider
) -> None:
    provider.run_reply = None
    reply = await owner.get("/v1/run")
    assert reply.status_code == 503
    error = schema.ErrorReply.model_validate_json(reply.content)
    assert (error.code, error.exit_code) == ("swarm", 3)
    assert "no run yet" in error.message


async def test_an_unknown_path_and_a_bad_parameter_are_errors_of_the_same_form(
    owner: httpx.AsyncClient,
) -> None:
    missing = schema.ErrorReply.model_validate_json((await owner.get("/v1/nope")).content)
    assert missing.exit_code == 5
    bad = await owner.get("/v1/rounds?limit=0")
    error = schema.ErrorReply.model_validate_json(bad.content)
    assert (bad.status_code, error.exit_code) == (422, 2)
    assert "limit" in error.message


async def test_a_bug_tells_no_more_than_its_kind(
    owner: httpx.AsyncClient, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken() -> schema.Peers:
        raise KeyError("/home/secret/path")

    monkeypatch.setattr(provider, "peers", broken)
    app = Guard(create_app(provider, asyncio.Event()), owner=True)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://distqat") as client:
        reply = await client.get("/v1/peers")
    assert reply.status_code == 500
    assert "secret" not in reply.text
    assert "KeyError" in reply.text


async def test_rounds_are_limited_by_default_and_on_request(
    owner: httpx.AsyncClient, provider: FakeProvider
) -> None:
    await owner.get("/v1/rounds")
    await owner.get("/v1/rounds?limit=5")
    assert provider.limits == [20, 5]


async def test_events_come_as_one_json_object_a_line(
    owner: httpx.AsyncClient, provider: FakeProvider
) -> None:
    provider.events_log.emit("peer.joined", peer="birch-bbbb")
    provider.events_log.emit("round.aborted", degraded=True, stage="front")
    reply = await owner.get("/v1/events")
    assert reply.headers["content-type"].startswith("application/x-ndjson")
    lines = [json.loads(line) for line in reply.text.splitlines()]
    assert [line["kind"] for line in lines] == ["peer.joined", "round.aborted"]
    assert lines[1]["degraded"] is True
    since = await owner.get("/v1/events?since=1")
    assert [json.loads(line)["number"] for line in since.text.splitlines()] == [2]


async def test_no_documentation_page_loads_scripts_from_elsewhere(
    anyone: httpx.AsyncClient,
) -> None:
    assert (await anyone.get("/docs")).status_code == 404
    assert (await anyone.get("/redoc")).status_code == 404
    assert "/v1/status" in (await anyone.get("/v1/openapi.json")).json()["paths"]
