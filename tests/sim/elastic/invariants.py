"""What must hold of a swarm after any trouble."""

from collections import Counter

from tests.sim.elastic.fleet import Fleet
from tests.sim.elastic.watch import Batches, Copy, Watch
from tests.sim.streams import SimStream


def check_batches(fleet: Fleet, watch: Watch, crashed: set[str]) -> list[str]:
    """Return where a batch was committed twice, or acked and not committed at all.

    What a killed expert had applied since its anchor is gone with it, an anchor with all that held
    it, and the gradients of the last step that was decided on it; that much is allowed.
    """
    wrong = list(watch.wrong)
    acked = _acked(fleet)
    serving = {id(watch.copy(hosted.expert).expert) for hosted in fleet.serving()}
    for stage in sorted({copy.stage for copy in watch.copies.values()}):
        copies = watch.of_stage(stage)
        living = [copy for copy in copies if id(copy.expert) in serving]
        if not living:
            wrong.append(f"nobody serves {stage}")
            continue
        wrong += [
            f"the book of {copy.name} is wrong: {_odd(copy)}" for copy in living if _odd(copy)
        ]
        newest = max(living, key=lambda copy: copy.expert.outer_step)
        wrong += _twice(stage, newest, living)
        excused = _decided_at_a_death(fleet, watch, stage, crashed)
        wrong += _missing(stage, newest, living, copies, acked - excused, crashed)
    return wrong


def _acked(fleet: Fleet) -> set[int]:
    """Return the batches that a client counts as committed."""
    done = [client.ledger.done for client in fleet.clients() if client.is_finished]
    return {b for each in done for first, end in each.pairs for b in range(first, end)}


def _decided_at_a_death(fleet: Fleet, watch: Watch, stage: str, crashed: set[str]) -> set[int]:
    """Return the batches whose gradients may have died with an expert before it applied them.

    A step begins once the one before it is applied, so it is the last one of each life.
    """
    hosts = fleet.hosts.values()
    dead = {h.identity.peer_id for h in hosts if any(c.startswith(f"{h.ip}#") for c in crashed)}
    last = {
        hop: batch
        for batch, hops in watch.decided
        for hop in hops
        if hop.peer_id in dead and hop.uid.split(".")[0] == stage
    }
    return set(last.values())


def _odd(copy: Copy) -> str:
    """Return how an expert's own book differs from what it was seen to apply."""
    book = copy.expert.book
    for what, says, did in (
        ("anchor", book.anchor, copy.anchor),
        ("local", book.local, copy.local),
    ):
        written = {batch for first, end in says.pairs for batch in range(first, end)}
        if written != set(+did):
            return f"{what} says {sorted(written)}, was {sorted(+did)}"
    return ""


def _twice(stage: str, newest: Copy, living: list[Copy]) -> list[str]:
    total = newest.anchor + sum((c.local for c in living if _same_anchor(c, newest)), Counter())
    twice = sorted(batch for batch, count in total.items() if count > 1)
    holders = {b: [c.name for c in living if c.local[b]] for b in twice}
    return [f"{stage} has batches twice: {holders}"] if twice else []


def _missing(
    stage: str,
    newest: Copy,
    living: list[Copy],
    copies: list[Copy],
    acked: set[int],
    crashed: set[str],
) -> list[str]:
    has = newest.anchor + sum((copy.local for copy in living), Counter())
    kept = set().union(*(copy.held for copy in living))
    died = Counter()
    for copy in copies:
        if copy.life and copy.life.name in crashed:
            is_gone = copy.expert.anchor_digest not in kept
            died += copy.local + (copy.anchor if is_gone else Counter())
    gave_way = sum((copy.dropped for copy in copies), Counter())
    missing = sorted(batch for batch in acked if not (has + died + gave_way)[batch])
    return [f"{stage} never committed acked batches {missing}"] if missing else []


def _same_anchor(one: Copy, other: Copy) -> bool:
    return bool(one.expert.anchor_digest == other.expert.anchor_digest)


def gave_way(watch: Watch) -> dict[str, Batches]:
    """Return what living experts gave up for another's anchor."""
    return {copy.name: copy.dropped for copy in watch.copies.values() if copy.dropped}


def given_up(fleet: Fleet, watch: Watch) -> list[str]:
    """Return what was done twice or dropped; for runs in which nothing breaks."""
    replayed = {client.ledger.replayed for client in fleet.clients()} - {0}
    lost = [f"{name} dropped batches {sorted(each)}" for name, each in gave_way(watch).items()]
    return [*lost, *(f"{number} steps were replayed" for number in replayed)]


def is_identical(fleet: Fleet) -> bool:
    """Return whether replicas of a stage at the same outer step hold the same bits."""
    anchors: dict[tuple[str, int], set[str]] = {}
    for hosted in fleet.serving():
        key = (hosted.uid.split(".")[0], hosted.expert.outer_step)
        anchors.setdefault(key, set()).add(hosted.expert.anchor_digest)
    return all(len(digests) == 1 for digests in anchors.values())


def views_differ(fleet: Fleet) -> str:
    """Return whose view of the serving experts is not the truth, "" if all agree with it."""
    truth = {
        (role.hosted.uid, node.identity.peer_id)
        for node in fleet.living().values()
        for role in node.experts
        if role.hosted is not None
    }
    for name, node in fleet.living().items():
        if node.context is None:
            return f"{name} has not joined"
        view = node.context.directory.view
        seen = {(e.uid, e.peer_id) for stage in view.stages for e in stage.serving}
        if seen != truth:
            gone, new = sorted(u for u, _ in truth - seen), sorted(u for u, _ in seen - truth)
            return f"{name} does not see {gone}, sees {new} which are not there"
    return ""


def two_of_a_uid(fleet: Fleet) -> list[str]:
    """Return the uids that several experts serve."""
    uids = Counter(hosted.uid for hosted in fleet.serving())
    return [uid for uid, count in uids.items() if count > 1]


def leaks(fleet: Fleet) -> list[str]:
    """Return what is still held when nothing is under way any more."""
    return [
        f"{hosted.uid} holds {hosted.expert.stash_bytes} B of graphs"
        for hosted in fleet.serving()
        if hosted.expert.stash_bytes
    ]


def leaks_after_stop(fleet: Fleet) -> list[str]:
    """Return the sockets of machines whose daemon has stopped."""
    left = []
    for name, host in fleet.hosts.items():
        sockets = [
            f"a link with {each.remote.host}"
            if isinstance(each, SimStream)
            else type(each).__name__
            for each in host.sockets
        ]
        if host.alive and sockets:
            left.append(f"{name} still has {sockets}")
    return left
