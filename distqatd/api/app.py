"""The routes: each one asks the provider and returns its reply."""

import asyncio
from typing import Annotated

from fastapi import Depends, FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.responses import Response

from distqatd.api import checkpoint_schema, round_schema, schema
from distqatd.api.actions import add_actions
from distqatd.api.guard import error_response, owner_only
from distqatd.api.provider import Provider
from distqatd.api.stream import EventStream
from distqatd.base.errors import DistqatError

MAX_ROUNDS = 1000


class StopRequest(BaseModel):
    """Body of `POST /v1/stop`; the reason goes into the daemon's log."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    reason: str = Field("asked over the API", max_length=200)


def create_app(provider: Provider, stopping: asyncio.Event) -> FastAPI:
    """Build the application; event streams end when `stopping` is set.

    Args:
        provider: what answers.
        stopping: set by the server before it waits for open responses.
    """
    # FastAPI would export traces by itself whenever wandb has installed OpenTelemetry, and its
    # documentation pages load scripts from a public server: both are off.
    app = FastAPI(
        title="distqatd",
        openapi_url="/v1/openapi.json",
        docs_url=None,
        redoc_url=None,
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    _add_reads(app, provider)
    _add_owner_routes(app, provider)
    add_actions(app, provider.actions)
    _add_events(app, provider, stopping)
    _add_error_handlers(app)
    return app


def _add_reads(app: FastAPI, provider: Provider) -> None:
    @app.get("/v1/status")
    async def status() -> schema.Status:
        return await provider.status()

    @app.get("/v1/peers")
    async def peers() -> schema.Peers:
        return await provider.peers()

    @app.get("/v1/pipelines")
    async def pipelines() -> schema.Pipelines:
        return await provider.pipelines()

    @app.get("/v1/rounds")
    async def rounds(limit: Annotated[int, Query(ge=1, le=MAX_ROUNDS)] = 20) -> round_schema.Rounds:
        return await provider.rounds(limit)

    @app.get("/v1/run")
    async def run() -> schema.RunInfo:
        return await provider.run()

    @app.get("/v1/mirror")
    async def mirror() -> checkpoint_schema.Mirror:
        return await provider.mirror()


def _add_owner_routes(app: FastAPI, provider: Provider) -> None:
    @app.get("/v1/invite", dependencies=[Depends(owner_only)])
    async def invite() -> schema.Invite:
        return await provider.invite()

    @app.post("/v1/stop", dependencies=[Depends(owner_only)], status_code=202)
    async def stop(request: StopRequest) -> schema.Stopping:
        return await provider.stop(request.reason)

    @app.post("/v1/mirror", dependencies=[Depends(owner_only)], status_code=202)
    async def keep_checkpoint(_: checkpoint_schema.KeepRequest) -> checkpoint_schema.Mirror:
        return await provider.keep_checkpoint()


def _add_events(app: FastAPI, provider: Provider, stopping: asyncio.Event) -> None:
    @app.get("/v1/events", response_class=EventStream, response_model=None, status_code=200)
    async def events(
        since: Annotated[int, Query(ge=0)] = 0,
        follow: bool = False,  # noqa: FBT001, FBT002  a query parameter
    ) -> EventStream:
        return EventStream(provider.events(since, follow=follow), stopping)


def _on_distqat_error(_: Request, error: DistqatError) -> Response:
    reply = schema.ErrorReply(code=error.wire_code, message=str(error), exit_code=error.exit_code)
    return error_response(503 if error.retryable else 409, reply)


def _on_http_error(_: Request, error: HTTPException) -> Response:
    code, exit_code = {403: ("not-allowed", 6), 404: ("not-found", 5)}.get(
        error.status_code, ("http", 1)
    )
    reply = schema.ErrorReply(code=code, message=str(error.detail), exit_code=exit_code)
    return error_response(error.status_code, reply)


def _on_bad_request(_: Request, error: RequestValidationError) -> Response:
    parts = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
    reply = schema.ErrorReply(code="usage", message="; ".join(parts), exit_code=2)
    return error_response(422, reply)


def _on_bug(_: Request, error: Exception) -> Response:
    message = f"a bug in distqatd ({type(error).__name__}); its log has the traceback"
    return error_response(500, schema.ErrorReply(code="internal", message=message))


def _add_error_handlers(app: FastAPI) -> None:
    # starlette types a handler as taking any Exception, though it calls it with the one named.
    app.add_exception_handler(DistqatError, _on_distqat_error)  # type: ignore[arg-type]
    app.add_exception_handler(HTTPException, _on_http_error)  # type: ignore[arg-type]
    app.add_exception_handler(RequestValidationError, _on_bad_request)  # type: ignore[arg-type]
    app.add_exception_handler(Exception, _on_bug)
