"""All experts of a daemon behind the `pipeline.*` methods: read, find the expert, answer."""

from distqatd.base.errors import ExpertNotFound, RemoteProtocolError
from distqatd.base.ids import ExpertUid
from distqatd.compute.payload import to_wire, torch_sink
from distqatd.net.rpc import Caller, Rpc
from distqatd.pipeline import messages as m
from distqatd.pipeline.hosted import HostedExpert
from distqatd.pipeline.links import Parcels
from distqatd.pipeline.messages import learn_route
from distqatd.pipeline.tensors import read_tensors
from distqatd.wire.fields import need
from distqatd.wire.payload import Message


class StageHost:
    """All experts of this daemon, behind the `pipeline.*` methods.

    Args:
        rpc: where they are served.
        max_bytes: bound of the requests with tensors.
        boot_epoch: of this daemon. A route that was made for an earlier life of it is refused:
            an expert that has restarted is another one, although it has the same name and peer.
    """

    def __init__(self, rpc: Rpc, max_bytes: int, boot_epoch: int) -> None:
        self._rpc = rpc
        self._boot_epoch = boot_epoch
        self._experts: dict[ExpertUid, HostedExpert] = {}
        for method, handler in (
            (m.OPEN, self._open),
            (m.COMMIT, self._commit),
            (m.ABORT, self._abort),
            (m.ROUND, self._round),
            (m.STANDING, self._standing),
            (m.BOOK, self._book),
            (m.DECIDED, self._decided),
        ):
            rpc.serve(method, handler)
        for method, handler in (
            (m.FORWARD, self._forward),
            (m.EVALUATE, self._evaluate),
        ):
            rpc.serve(method, handler, max_bytes=max_bytes, sink=torch_sink)

    def attach(self, hosted: HostedExpert) -> None:
        """Serve an expert."""
        self._experts[hosted.uid] = hosted

    async def detach(self, uid: ExpertUid) -> None:
        """Stop serving an expert; its session is closed."""
        hosted = self._experts.pop(uid, None)
        if hosted is not None and hosted.session is not None:
            await hosted.abort(hosted.session.id, f"{uid} leaves")

    def _hosted(self, uid: str) -> HostedExpert:
        hosted = self._experts.get(ExpertUid(uid))
        if hosted is None:
            raise ExpertNotFound(f"{uid} is not served here; ask the swarm for a new route")
        return hosted

    async def _open(self, caller: Caller, message: Message) -> Message:
        call = m.OpenCall.read(message.body)
        self._check_life(call)
        learn_route(self._rpc, call.route)
        standing = await self._hosted(call.uid).open(call, caller.peer_id)
        return Message(standing.body())

    def _check_life(self, call: m.OpenCall) -> None:
        """Refuse a route that means an expert which this daemon hosted before it restarted."""
        hop = next((hop for hop in call.route if hop.uid == call.uid), None)
        if hop is None or hop.peer_id != self._rpc.peer_id:
            raise RemoteProtocolError(f"OPEN for {call.uid}, which the route has elsewhere")
        if hop.boot_epoch != self._boot_epoch:
            raise ExpertNotFound(
                f"{call.uid} of boot epoch {hop.boot_epoch} is gone: this daemon has restarted "
                f"and is at {self._boot_epoch}; ask the swarm for a new route"
            )

    async def _forward(self, _: Caller, message: Message) -> Message:
        call = m.MicrobatchCall.read(message.body)
        return await self._hosted(call.uid).forward(call, Parcels.read(message))

    async def _commit(self, _: Caller, message: Message) -> Message:
        call = m.CommitCall.read(message.body)
        return Message((await self._hosted(call.uid).commit(call)).body())

    async def _abort(self, _: Caller, message: Message) -> Message:
        hosted = self._hosted(need(message.body, "uid", str))
        reason = need(message.body, "reason", str)[:200]
        await hosted.abort(m.SessionId.read(message.body), reason)
        return Message({})

    async def _round(self, _: Caller, message: Message) -> Message:
        call = m.AskCall.read(message.body)
        return Message((await self._hosted(call.uid).round_over(call)).body())

    async def _standing(self, _: Caller, message: Message) -> Message:
        call = m.AskCall.read(message.body)
        return Message(self._hosted(call.uid).stand_in(call).body())

    async def _decided(self, _: Caller, message: Message) -> Message:
        call = m.AskCall.read(message.body)
        return Message(self._hosted(call.uid).decided(call.session).body())

    async def _book(self, _: Caller, message: Message) -> Message:
        hosted = self._hosted(need(message.body, "uid", str))
        return Message(hosted.book().body())

    async def _evaluate(self, _: Caller, message: Message) -> Message:
        hosted = self._hosted(need(message.body, "uid", str))
        num_inputs = need(message.body, "num_inputs", int)
        tensors = read_tensors(message)
        outputs = await hosted.evaluation.outputs(tensors[:num_inputs])
        if len(tensors) == num_inputs:
            return Message({}, tuple(to_wire(str(i), out) for i, out in enumerate(outputs)))
        result = await hosted.evaluation.measure(outputs, tensors[num_inputs:])
        return Message({"loss": result.loss, "sums": result.sums})
