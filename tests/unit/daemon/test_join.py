import asyncio

import pytest

from distqatd.base.errors import (
    ConfigError,
    DialError,
    DistqatError,
    JoinFailed,
    NotServed,
    Refused,
)
from distqatd.config.run import dump_run
from distqatd.config.sections import Config, DilocoConfig
from distqatd.daemon.join import RUN_CONFIG, RunOffer, adopt_run, fetch_run, join
from distqatd.net.address import Address
from distqatd.net.rpc import Hello
from distqatd.wire.payload import Message
from tests.support.loops import on_virtual_time
from tests.support.memory_rpc import MemoryNetwork


class FakePool:
    """Answers dials as told; the answers of one address are used up in order."""

    def __init__(self, **answers):
        self.answers = {host: list(found) for host, found in answers.items()}

    async def dial(self, address, timeout_s):
        found = self.answers[address.host]
        answer = found.pop(0) if len(found) > 1 else found[0]
        if isinstance(answer, Exception):
            raise answer
        return Hello(answer, "", "", "", (), (), 1, 1, 1)


@on_virtual_time
async def test_one_peer_that_answers_is_enough():
    pool = FakePool(a=[DialError("refused")], b=["peer-b"])
    joined = await join(pool, [Address("a", 1), Address("b", 2)], 10.0)
    assert joined.peers == ("peer-b",)
    assert joined.addresses == (Address("b", 2),)


@on_virtual_time
async def test_a_peer_that_comes_up_late_is_found():
    pool = FakePool(a=[DialError("refused"), DialError("refused"), "peer-a"])
    assert (await join(pool, [Address("a", 1)], 10.0)).peers == ("peer-a",)


@on_virtual_time
async def test_when_nobody_answers_every_address_is_named_with_its_reason():
    pool = FakePool(a=[DialError("TCP refused")], b=[DialError("no answer")])
    with pytest.raises(JoinFailed) as failure:
        await join(pool, [Address("a", 1), Address("b", 2)], 3.0)
    text = str(failure.value)
    assert "a:1   TCP refused" in text
    assert "b:2   no answer" in text
    assert "fix: ask for a fresh join line" in text


@on_virtual_time
async def test_a_refusal_by_all_ends_the_search_at_once():
    pool = FakePool(a=[Refused("this is swarm x, not y")])
    with pytest.raises(Refused, match="swarm x"):
        await join(pool, [Address("a", 1)], 1e6)


def offering(net, name, body):
    async def serve(_, __):
        return Message(body)

    net.peer(name).serve(RUN_CONFIG, serve)


@pytest.mark.parametrize("operator", [None, b"o" * 32])
async def test_run_and_operator_come_from_the_first_peer_that_gives_them(operator):
    net = MemoryNetwork()
    net.peer("a")
    offering(net, "b", RunOffer(b"{}", operator).body())
    assert await fetch_run(net.peer("me"), ["gone", "a", "b"]) == RunOffer(b"{}", operator)


@on_virtual_time
async def test_a_peer_that_reads_a_checkpoint_first_is_asked_again():
    net = MemoryNetwork()
    net.peer("b")
    offer = RunOffer(b"{}", None)
    asyncio.get_running_loop().call_later(2.5, offering, net, "b", offer.body())
    assert await fetch_run(net.peer("me"), ["b"], timeout_s=10.0) == offer
    net.peer("c")
    with pytest.raises(NotServed):
        await fetch_run(net.peer("me"), ["c"], timeout_s=10.0)


@on_virtual_time
async def test_a_peer_that_is_lost_in_this_moment_is_asked_again():
    net = MemoryNetwork()
    offer = RunOffer(b"{}", None)
    asyncio.get_running_loop().call_later(2.5, offering, net, "back", offer.body())
    assert await fetch_run(net.peer("me"), ["back"], timeout_s=10.0) == offer


@pytest.mark.parametrize(
    "body", [{}, {"config": "text", "operator": b""}, {"config": b"{}", "operator": b"short"}]
)
async def test_an_offer_that_is_none_is_refused(body):
    net = MemoryNetwork()
    offering(net, "b", body)
    with pytest.raises(DistqatError):
        await fetch_run(net.peer("me"), ["b"])


def run_of(**diloco):
    return Config(diloco=DilocoConfig(**diloco))


def test_a_joiner_takes_the_runs_values():
    ours, theirs = Config(device="cpu"), run_of(inner_steps=7)
    adopted = adopt_run(ours, {}, dump_run(theirs))
    assert adopted.diloco.inner_steps == 7
    assert adopted.device == "cpu"


def test_another_value_given_here_is_refused_with_both():
    ours, theirs = run_of(inner_steps=9), run_of(inner_steps=7)
    with pytest.raises(ConfigError, match=r"diloco\.inner_steps: 9 here, 7 there"):
        adopt_run(ours, {"diloco.inner_steps": "--set"}, dump_run(theirs))


def test_the_same_value_given_here_is_fine():
    ours = theirs = run_of(inner_steps=7)
    assert adopt_run(ours, {"diloco.inner_steps": "--set"}, dump_run(theirs)) == ours
