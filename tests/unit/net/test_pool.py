import asyncio
from dataclasses import replace

import pytest

from distqatd.base.errors import (
    ConnectionClosed,
    DialError,
    Overloaded,
    Refused,
    RemoteProtocolError,
)
from distqatd.net.address import Address
from distqatd.net.links import Dial, keeps_old
from distqatd.net.pool import PoolLimits
from distqatd.wire.payload import Message
from tests.support.links import message_of
from tests.support.pools import Node, memory_nodes, peer, running, settle


async def nothing(caller, message):
    return Message({})


def ask(a, b, method="m", message=None, timeout_s=5, **fields):
    return a.pool.call(
        b.pool.peer_id, method, message or Message({}), timeout_s=timeout_s, **fields
    )


async def test_dialling_a_stranger_returns_what_it_says():
    a, b = memory_nodes()
    b.hello = replace(b.hello, roles=("monitor", "client"), run_id="r")
    async with running(a, b, know_each_other=False):
        hello = await a.pool.dial(b.address, 5)
        assert hello == b.hello
        b.pool.serve("m", nothing)
        await ask(a, b)  # by peer id, though nobody has told us where it is
        assert [info.peer_id for info in a.pool.links()] == [peer("b")]
        assert [event.kind for event in a.events.since()] == ["peer.connected"]


async def test_an_accepted_peer_can_be_called_over_its_own_link():
    a, b = memory_nodes()
    async with running(a, b, know_each_other=False):
        await a.pool.dial(b.address, 5)
        a.pool.serve("m", nothing)
        await ask(b, a)
        assert b.transport.dials == 0


@pytest.mark.parametrize("field", ["swarm_id", "run_id", "config_digest"])
async def test_a_peer_of_something_else_is_refused_with_both_values(field):
    a, b = memory_nodes()
    a.hello = replace(a.hello, **{field: "ours"})
    b.hello = replace(b.hello, **{field: "other"})
    async with running(a, b):
        with pytest.raises(Refused, match="'other'") as refusal:
            await a.pool.dial(b.address, 5)
        assert "'ours'" in str(refusal.value)
        with pytest.raises(Refused):
            await ask(a, b)
        assert a.pool.links() == b.pool.links() == ()


async def test_another_protocol_version_is_refused():
    a, b = memory_nodes()
    b.hello = replace(b.hello, version=2)
    async with running(a, b):
        with pytest.raises(Refused, match=r"protocol version is 2 at .* and 1 at"):
            await a.pool.dial(b.address, 5)


async def test_what_is_not_known_yet_matches_anything():
    a, b = memory_nodes()
    b.hello = replace(b.hello, run_id="r", config_digest="d")
    async with running(a, b):
        assert (await a.pool.dial(b.address, 5)).run_id == "r"


async def test_dialling_oneself_is_an_error():
    [a] = memory_nodes("a")
    async with running(a):
        with pytest.raises(DialError, match="our own"):
            await a.pool.dial(a.address, 5)


async def test_a_peer_that_claims_another_id_is_not_believed():
    a, b = memory_nodes()
    b.hello = replace(b.hello, peer_id=peer("c"))
    async with running(a, b):
        with pytest.raises(RemoteProtocolError, match="HELLO of ccc"):
            await a.pool.dial(b.address, 5)


async def test_a_peer_that_never_says_hello_is_given_up(monkeypatch):
    monkeypatch.setattr("distqatd.net.hello.HELLO_TIMEOUT_S", 0.01)
    [a] = memory_nodes("a")

    async def mute(stream):
        await asyncio.Event().wait()

    async with running(a):
        listener = await a.transport.listen("127.0.0.1", 7, mute)
        listener.peer_id = peer("b")
        with pytest.raises(DialError, match="no HELLO"):
            await a.pool.dial(Address("127.0.0.1", 7), 5)
        await listener.close()


async def test_links_above_the_limit_are_refused():
    a, b, c = memory_nodes("abc")
    b = Node(peer("b"), b.transport, PoolLimits(max_links=1))
    async with running(a, b, c):
        await a.pool.dial(b.address, 5)
        with pytest.raises(Overloaded, match="1 links are open"):
            await c.pool.dial(b.address, 5)
        assert len(b.pool.links()) == 1


async def test_callers_share_one_dial():
    a, b = memory_nodes()
    async with running(a, b):
        b.pool.serve("m", nothing)
        async with asyncio.TaskGroup() as group:
            for _ in range(5):
                group.create_task(ask(a, b))
        assert a.transport.dials == 1


@pytest.mark.parametrize("round_", range(5))
async def test_a_simultaneous_dial_leaves_one_and_the_same_link(round_):
    a, b = memory_nodes()
    async with running(a, b):
        a.pool.serve("m", nothing)
        b.pool.serve("m", nothing)
        async with asyncio.TaskGroup() as group:
            for _ in range(3):
                group.create_task(ask(a, b))
                group.create_task(ask(b, a))
        await settle(lambda: len(a.pool._links.all()) == len(b.pool._links.all()) == 1)
        [link] = a.pool._links.all()
        assert link.dialer  # the smaller id has dialled it
        assert a.lost == b.lost == []
        await ask(a, b)
        await ask(b, a)


@pytest.mark.parametrize("stands", [True, False])
async def test_a_link_that_ends_while_its_successor_is_made_is_lost_only_without_one(stands):
    a, b = memory_nodes()
    async with running(a, b):
        b.pool.serve("m", nothing)
        await ask(a, b)
        [old] = a.pool._links.all()
        gate, dial = asyncio.Event(), a.transport.dial

        async def held(*args, **kwargs):
            await gate.wait()
            if not stands:
                raise DialError("refused")
            return await dial(*args, **kwargs)

        a.transport.dial = held
        async with asyncio.TaskGroup() as group:
            group.create_task(a.pool._dial_peer(b.pool.peer_id, waiting := Dial()))
            a.pool._dials[b.pool.peer_id] = waiting
            await asyncio.sleep(0)
            old.end("reset by peer")
            assert a.lost == []
            gate.set()
        a.pool._dial_over(b.pool.peer_id)
        assert a.lost == ([] if stands else [(b.pool.peer_id, "reset by peer")])


def test_which_of_two_links_stays_is_the_same_on_both_sides():
    for old, new in (("a", "b"), ("b", "a")):
        first = keeps_old(old_dialer=old, new_dialer=new, smaller="a", old_age_s=1)
        second = keeps_old(old_dialer=new, new_dialer=old, smaller="a", old_age_s=1)
        assert first is not second  # seen in the other order, the same link stays
    assert not keeps_old(old_dialer="a", new_dialer="a", smaller="a", old_age_s=1)
    assert not keeps_old(old_dialer="a", new_dialer="b", smaller="a", old_age_s=60)


async def test_a_call_survives_a_broken_link_and_runs_once():
    a, b = memory_nodes()
    runs = []
    async with running(a, b):

        async def answer_and_break(caller, message):
            runs.append(message.body["n"])
            if len(runs) == 1:  # the answer gets no further than our end
                a.transport.net.streams[0][1].frozen = True
                asyncio.get_running_loop().call_later(0.01, a.transport.net.reset_all)
            return Message({"run": len(runs)})

        b.pool.serve("m", answer_and_break)
        answer = await ask(a, b, message=Message({"n": 7}))
        assert answer.body == {"run": 1}
        assert runs == [7]
        assert a.transport.dials == 2


async def test_a_handler_that_was_cut_off_runs_again_for_the_retry():
    a, b = memory_nodes()
    runs = []
    async with running(a, b):

        async def hang_once(caller, message):
            runs.append(caller.peer_id)
            if len(runs) == 1:
                a.transport.net.reset_all()
                await asyncio.Event().wait()
            return Message({})

        b.pool.serve("m", hang_once)
        await ask(a, b)
        assert len(runs) == 2


async def test_a_peer_that_has_restarted_is_not_asked_again():
    a, b = memory_nodes()
    async with running(a, b):

        async def restart(caller, message):
            b.hello = replace(b.hello, boot_epoch=2)
            a.transport.net.reset_all()
            await asyncio.Event().wait()

        b.pool.serve("m", restart)
        with pytest.raises(ConnectionClosed, match="broke during m"):
            await ask(a, b)


async def test_a_peer_that_is_gone_fails_calls_at_once():
    a, b = memory_nodes()
    async with running(a, b):

        async def die(caller, message):
            b.transport.net.listeners.clear()
            a.transport.net.reset_all()

        b.pool.serve("m", die)
        with pytest.raises(ConnectionClosed, match="is not back"):
            await ask(a, b, timeout_s=60)
        assert [who for who, _ in a.lost] == [peer("b")]
        assert a.events.since()[-1].kind == "peer.lost"


async def test_a_new_life_of_a_peer_replaces_its_old_link():
    a, b = memory_nodes()
    async with running(a, b):
        await b.pool.dial(a.address, 5)
        twin = Node(peer("b"), b.transport, boot_epoch=2)
        async with running(twin, know_each_other=False):
            await twin.pool.dial(a.address, 5)
            await settle(lambda: len(a.pool._links.all()) == 1)
            assert a.pool._links.get(peer("b")).hello.boot_epoch == 2
            assert a.pool.links()[0].since_unix_s > 0


async def test_saying_goodbye_is_quick_and_is_heard():
    a, b = memory_nodes()
    async with running(a, b):
        await a.pool.dial(b.address, 5)
        await b.pool.close()
        await settle(lambda: a.lost)
        assert a.lost == [(peer("b"), "the peer is stopping")]
        assert b.lost == []
        with pytest.raises((ConnectionClosed, DialError)):
            await ask(b, a, timeout_s=0.1)


async def test_goodbye_overtakes_a_bulk_transfer():
    a, b = memory_nodes()
    started = asyncio.Event()
    async with running(a, b):

        def start(spec):
            started.set()
            return memoryview(bytearray(spec.nbytes))

        b.pool.serve("m", nothing, max_bytes=1 << 30, sink=start)

        async with asyncio.TaskGroup() as group:
            call = group.create_task(broken(ask(a, b, message=message_of(bytes(64 << 20)))))
            await started.wait()
            await a.pool.close()
            assert await call


async def broken(work):
    with pytest.raises((ConnectionClosed, DialError)):
        await work
    return True


async def test_requests_beyond_the_budget_are_refused_and_leave_nothing_behind():
    a, b = memory_nodes()
    b = Node(peer("b"), b.transport, PoolLimits(bytes_in_flight=1000))
    async with running(a, b):
        b.pool.serve("m", nothing, max_bytes=1 << 20)
        with pytest.raises(Overloaded, match="2000 bytes asked"):
            await ask(a, b, message=message_of(bytes(2000)))
        await ask(a, b, message=message_of(bytes(900)))
        await settle(lambda: b.pool._budget.used_bytes == 0)


async def test_more_calls_than_streams_wait_for_their_turn():
    a, b = memory_nodes()
    at_once = most = 0

    async def count(caller, message):
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await asyncio.sleep(0)
        at_once -= 1
        return Message({})

    async with running(a, b):
        b.pool.serve("m", count)
        async with asyncio.TaskGroup() as group:
            for _ in range(400):
                group.create_task(ask(a, b))
        assert 100 < most <= 128


async def test_a_bug_in_a_handler_or_sink_is_an_error_there_and_the_link_lives():
    a, b = memory_nodes()

    async def bug(caller, message):
        raise ZeroDivisionError("private detail")

    def bad_sink(spec):
        raise KeyError("private detail")

    async with running(a, b):
        b.pool.serve("bug", bug)
        b.pool.serve("sink", nothing, sink=bad_sink)
        b.pool.serve("m", nothing)
        for method in ("bug", "sink"):
            with pytest.raises(Exception, match="see the log there") as failure:
                await ask(a, b, method, message_of(b"x"))
            assert "private" not in str(failure.value)
        await ask(a, b)
        assert a.transport.dials == 1


async def test_a_handler_that_cancels_itself_does_not_leave_its_caller_waiting():
    a, b = memory_nodes()

    async def give_up(caller, message):
        raise asyncio.CancelledError

    async with running(a, b):
        b.pool.serve("m", give_up)
        with pytest.raises(ConnectionClosed, match="the handler of m was cancelled"):
            await ask(a, b)


async def test_a_handler_that_answers_with_nonsense_is_an_error():
    a, b = memory_nodes()

    async def nonsense(caller, message):
        return Message({"x": object()})

    async with running(a, b):
        b.pool.serve("m", nonsense)
        with pytest.raises(Exception, match="cannot be encoded"):
            await ask(a, b)


async def test_cancelling_a_call_while_its_answer_arrives_leaves_the_buffer_alone():
    a, b = memory_nodes()
    target = bytearray(8 << 20)

    async def large(caller, message):
        return message_of(bytes([7]) * len(target))

    async with running(a, b):
        b.pool.serve("m", large)
        b.pool.serve("small", nothing)
        async with asyncio.TaskGroup() as group:
            call = group.create_task(ask(a, b, sink=lambda spec: memoryview(target)))
            await settle(lambda: 7 in target)
            call.cancel()
            await asyncio.wait([call])
            before = bytes(target)
            await ask(a, b, "small")
        assert target == before
        assert before[-1] == 0


async def test_garbage_ends_the_link_and_names_the_reason():
    a, b = memory_nodes()
    async with running(a, b):
        await a.pool.dial(b.address, 5)
        ours, _ = a.transport.net.streams[0]
        await ours.send(memoryview(b"x" * 100))
        await settle(lambda: b.lost)
        assert "broke the protocol" in b.lost[0][1]


async def test_addresses_that_peers_advertise_are_used_later():
    a, b, c = memory_nodes("abc")
    async with running(a, b, c, know_each_other=False):
        b.hello = replace(b.hello, addresses=("nonsense//", str(b.address)), listen_port=0)
        b.pool.serve("m", nothing)
        await b.pool.dial(a.address, 5)
        a.transport.net.reset_all()
        await settle(lambda: not a.pool.links())
        await ask(a, b)


async def test_who_cannot_be_dialled_is_told_as_lost_though_no_link_ever_was():
    a, b = memory_nodes()
    lost = []
    a.pool.on_lost(lambda who, reason: lost.append((who, reason)))
    async with running(a):
        with pytest.raises(DialError):
            await ask(a, b)
        assert lost == [], "without an address nobody has tried"
        a.pool.learn(b.pool.peer_id, [Address("10.9.9.9", 29700)])
        with pytest.raises(DialError):
            await ask(a, b)
    assert [who for who, _ in lost] == [peer("b")]
    assert "peer.lost" not in [event.kind for event in a.events.since()]
