"""Requests that come in: which method, which limits, and what its handler answers."""

import asyncio
import logging
from dataclasses import dataclass

from distqatd.base.errors import DistqatError, LocalProtocolError, NotServed, PeerTimeout
from distqatd.net.results import Outcome, ResultWindows
from distqatd.net.rpc import Caller, Handler, Sink
from distqatd.wire.messages import Failure, RequestHead
from distqatd.wire.payload import Message, TensorSpec, check_message

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Served:
    handler: Handler
    max_bytes: int
    sink: Sink | None


class Server:
    """The handlers of this daemon."""

    def __init__(self) -> None:
        self._served: dict[str, _Served] = {}
        self._windows = ResultWindows()

    def serve(self, method: str, handler: Handler, max_bytes: int, sink: Sink | None) -> None:
        """Answer `method` with `handler`; replaces an earlier one."""
        guarded = None if sink is None else _guarded(sink)
        self._served[method] = _Served(handler, max_bytes, guarded)

    def admit(self, head: RequestHead, num_bytes: int) -> Sink | None:
        """Return the sink for a request that has begun to arrive.

        Raises:
            NotServed: no handler.
            LocalProtocolError: the request is larger than the method allows.
        """
        served = self._find(head.method)
        if num_bytes > served.max_bytes:
            text = f"{head.method} takes at most {served.max_bytes} bytes, not {num_bytes}"
            raise LocalProtocolError(text)
        return served.sink

    async def answer(self, caller: Caller, head: RequestHead, message: Message) -> Outcome:
        """Return the response to a request, or the failure that its caller will see."""
        window = self._windows.of(caller.peer_id, caller.boot_epoch)
        return await window.once(head, lambda: self._run(caller, head, message))

    async def answer_ourselves(self, caller: Caller, method: str, message: Message) -> Message:
        """Serve a request of our own; errors come out as they are.

        Raises:
            NotServed: no handler.
        """
        return await self._find(method).handler(caller, message)

    def _find(self, method: str) -> _Served:
        served = self._served.get(method)
        if served is None:
            raise NotServed(f"no handler for {method!r}")
        return served

    async def _run(self, caller: Caller, head: RequestHead, message: Message) -> Outcome:
        try:
            async with asyncio.timeout(head.timeout_ms / 1000):
                response = await self._find(head.method).handler(caller, message)
            check_message(response)
        except DistqatError as error:
            return Failure(error.wire_code, str(error))
        except TimeoutError:
            return Failure(PeerTimeout.wire_code, f"{head.method} ran past its deadline")
        except Exception:
            # The boundary to code of others' making: a bug there must not end the link.
            log.exception("rpc.handler_failed", extra={"method": head.method})
            return Failure(DistqatError.wire_code, f"{head.method} failed; see the log there")
        return response


def _guarded(sink: Sink) -> Sink:
    """Make a bug in a sink refuse one message instead of ending the link."""

    def call(spec: TensorSpec) -> memoryview:
        try:
            return sink(spec)
        except DistqatError:
            raise
        except Exception as error:
            log.exception("rpc.sink_failed", extra={"tensor": spec.name})
            raise DistqatError(f"no place for tensor {spec.name!r}; see the log there") from error

    return call
