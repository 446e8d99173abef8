"""Running the anchors of a route over batches, hop by hop from the trainer."""

from collections.abc import Iterable

from distqatd.data.batches import Batch
from distqatd.net.rpc import Rpc
from distqatd.pipeline import messages as m
from distqatd.pipeline.outcome import read_loss
from distqatd.pipeline.tensors import wired
from distqatd.swarm.routes import Route
from distqatd.wire.payload import Message


async def evaluate(
    rpc: Rpc, route: Route, batches: Iterable[Batch], timeout_s: float
) -> dict[str, float]:
    """Run the anchors of a route over batches; return metric sums, see `data.tasks`."""
    totals: dict[str, float] = {}
    for batch in batches:
        values = wired(batch.inputs)
        for hop in route[:-1]:
            body = {"uid": hop.uid, "num_inputs": len(values)}
            reply = await rpc.call(
                hop.peer_id, m.EVALUATE, Message(body, values), timeout_s=timeout_s
            )
            values = reply.tensors
        body = {"uid": route[-1].uid, "num_inputs": len(values)}
        message = Message(body, (*values, *wired(batch.targets)))
        reply = await rpc.call(route[-1].peer_id, m.EVALUATE, message, timeout_s=timeout_s)
        result = read_loss(reply)
        for name, value in result.sums.items() if result is not None else ():
            totals[name] = totals.get(name, 0.0) + value
    return totals
