import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest

from distqatd.api import control_schema, schema
from distqatd.api.app import create_app
from distqatd.api.guard import Guard
from distqatd.base.errors import Unsafe
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


LOOKS = {
    "/v1/jobs": control_schema.Jobs,
    "/v1/jobs/1": control_schema.Job,
    "/v1/moves": control_schema.Moves,
    "/v1/why": control_schema.Why,
    "/v1/ping?peer=birch-bbbb": control_schema.Ping,
    "/v1/doctor": control_schema.Doctor,
}


@pytest.mark.parametrize("path", LOOKS)
async def test_the_owner_gets_a_reply_that_names_its_schema(
    owner: httpx.AsyncClient, path: str
) -> None:
    reply = await owner.get(path)
    assert reply.status_code == 200
    assert LOOKS[path].model_validate_json(reply.content).schema_id.startswith("distqat.")


@pytest.mark.parametrize("path", LOOKS)
async def test_nobody_else_can_have_this_daemon_do_something(
    provider: FakeProvider, path: str
) -> None:
    app = Guard(create_app(provider, asyncio.Event()), owner=False)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:1") as anyone:
        assert (await anyone.get(path)).status_code == 403
        assert (await anyone.post("/v1/jobs", json={"kind": "drain"})).status_code == 403
    assert provider.actions.asked == []


async def test_an_order_is_begun_and_answered_with_its_job(
    owner: httpx.AsyncClient, provider: FakeProvider
) -> None:
    body = {"kind": "reassign", "peer": "birch-bbbb", "stage": "back", "deadline_s": 5}
    reply = await owner.post("/v1/jobs", json=body)
    assert reply.status_code == 202
    assert control_schema.Job.model_validate_json(reply.content).state == "running"
    assert provider.actions.asked == [
        control_schema.OrderRequest(
            kind="reassign", peer="birch-bbbb", stage="back", deadline_s=5.0
        )
    ]


async def test_a_refusal_comes_with_the_exit_code_of_the_rule(
    owner: httpx.AsyncClient, provider: FakeProvider
) -> None:
    provider.actions.refusal = Unsafe("back.0.0.0 is the last serving replica of back")
    reply = await owner.post("/v1/jobs", json={"kind": "drain"})
    assert reply.status_code == 409
    error = schema.ErrorReply.model_validate_json(reply.content)
    assert (error.code, error.exit_code) == ("unsafe", 8)


async def test_an_operation_that_is_not_known_is_not_found(owner: httpx.AsyncClient) -> None:
    error = schema.ErrorReply.model_validate_json((await owner.get("/v1/jobs/9")).content)
    assert (error.code, error.exit_code) == ("not-found", 5)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"kind": "explode"},
        {"kind": "drain", "deadline_s": -1},
        {"kind": "drain", "peer": "x" * 200},
        {"kind": "drain", "sudo": True},
    ],
)
async def test_a_request_that_makes_no_sense_is_a_usage_error(
    owner: httpx.AsyncClient, provider: FakeProvider, body: dict[str, object]
) -> None:
    reply = await owner.post("/v1/jobs", json=body)
    assert reply.status_code == 422
    assert schema.ErrorReply.model_validate_json(reply.content).exit_code == 2
    assert provider.actions.asked == []
