"""Running the anchors of a route over batches, hop by hop from the trainer."""

from collections.abc import Iterable

from distqatd.compute.precision import in_float32
from distqatd.data.batches import Batch
from distqatd.data.trial import Trial
from distqatd.net.rpc import Rpc
from distqatd.pipeline import messages as m
from distqatd.pipeline.outcome import read_loss
from distqatd.pipeline.tensors import read_tensors, wired
from distqatd.swarm.routes import Route
from distqatd.wire.payload import Message, WireTensor


async def evaluate(
    rpc: Rpc, route: Route, batches: Iterable[Batch], timeout_s: float
) -> dict[str, float]:
    """Run the anchors of a route over batches; return metric sums, see `data.tasks`."""
    totals: dict[str, float] = {}
    for batch in batches:
        values = await _through(rpc, route[:-1], wired(batch.inputs), timeout_s)
        body = {"uid": route[-1].uid, "num_inputs": len(values)}
        message = Message(body, (*values, *wired(batch.targets)))
        reply = await rpc.call(route[-1].peer_id, m.EVALUATE, message, timeout_s=timeout_s)
        result = read_loss(reply)
        for name, value in result.sums.items() if result is not None else ():
            totals[name] = totals.get(name, 0.0) + value
    return totals


async def play(rpc: Rpc, route: Route, trial: Trial, timeout_s: float) -> dict[str, float]:
    """Have the anchors of a route act until the trial is over; return its sums.

    One round trip along the route for each step of the episodes.
    """
    while (inputs := trial.inputs()) is not None:
        values = await _through(rpc, route, wired(inputs), timeout_s)
        trial.act(in_float32(read_tensors(Message({}, values))))
    return trial.sums()


async def _through(
    rpc: Rpc, hops: Route, values: tuple[WireTensor, ...], timeout_s: float
) -> tuple[WireTensor, ...]:
    """Return the outputs of the last of `hops`, given the inputs of the first."""
    for hop in hops:
        body = {"uid": hop.uid, "num_inputs": len(values)}
        message = Message(body, values)
        reply = await rpc.call(hop.peer_id, m.EVALUATE, message, timeout_s=timeout_s)
        values = reply.tensors
    return values
