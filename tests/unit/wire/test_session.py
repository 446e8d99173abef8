import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distqatd.base.errors import LocalProtocolError, NotServed, RemoteProtocolError
from distqatd.wire import limits
from distqatd.wire.events import (
    GoAwayReceived,
    PongReceived,
    RequestCancelled,
    RequestFailed,
    RequestReceived,
    ResponseReceived,
)
from distqatd.wire.frame import FrameType, encode_frame
from distqatd.wire.messages import Failure, data_frame, number_frame, request_frame, response_frame
from distqatd.wire.payload import Message, TensorSpec
from distqatd.wire.streams import TRANSITIONS, State
from tests.support.links import Pair, feed, head_of, message_of


def served(pair):
    return [event for event in pair.events["b"] if isinstance(event, RequestReceived)]


@settings(max_examples=60)
@given(st.lists(st.binary(max_size=50), max_size=4), st.integers(0, 9))
def test_a_request_and_its_answer_arrive_as_they_were_sent(chunks, n):
    pair = Pair()
    stream = pair.ask(message_of(*chunks, n=n))
    pair.run()
    [request] = served(pair)
    assert [bytes(t.data) for t in request.message.tensors] == chunks
    assert request.message.body == {"n": n}
    pair.b.respond(request.stream, message_of(*reversed(chunks), m=n))
    pair.run()
    [answer] = pair.events["a"]
    assert isinstance(answer, ResponseReceived)
    assert answer.stream == stream
    assert [bytes(t.data) for t in answer.message.tensors] == chunks[::-1]
    request.reservation.release()
    assert pair.a.num_streams == pair.b.num_streams == pair.budget.used_bytes == 0


def test_a_tensor_larger_than_all_credit_arrives_in_its_sink():
    data = bytes(range(256)) * (48 * 4096)
    target = bytearray(len(data))
    pair = Pair(admit=lambda head, size: lambda spec: memoryview(target))
    pair.ask(message_of(data))
    pair.run()
    assert len(served(pair)) == 1
    assert target == data


def test_a_sender_without_credit_stops_until_it_is_given():
    pair = Pair()
    pair.ask(message_of(bytes(3 * limits.STREAM_CREDIT_BYTES)))
    sent = b"".join(b"".join(unit) for unit in iter(pair.a.next_buffers, []))
    assert limits.STREAM_CREDIT_BYTES < len(sent) < limits.STREAM_CREDIT_BYTES + 1000
    feed(pair.b, sent, pair.events["b"])
    pair.run()
    assert len(served(pair)) == 1


def test_all_streams_together_stay_below_the_credit_of_the_link():
    pair = Pair(budget_bytes=1 << 30)
    for _ in range(20):
        pair.ask(message_of(bytes(limits.STREAM_CREDIT_BYTES)))
    sent = sum(sum(map(len, unit)) for unit in iter(pair.a.next_buffers, []))
    assert limits.LINK_CREDIT_BYTES < sent < limits.LINK_CREDIT_BYTES + 10_000


def test_small_requests_overtake_bulk_and_bulk_takes_turns():
    pair = Pair()
    first, second = (pair.ask(message_of(bytes(3 << 20))) for _ in range(2))
    pair.a.next_buffers()
    small = pair.ask(message_of())
    frames = decoded(iter(pair.a.next_buffers, []))
    assert frames[0] == (FrameType.REQUEST, small)
    order = [stream for kind, stream in frames if kind is FrameType.DATA]
    assert order == [second, first, second, first, second]


def decoded(units):
    from distqatd.wire.frame import FrameDecoder

    data = b"".join(b"".join(unit) for unit in units)
    return [(f.kind, f.stream) for f in FrameDecoder(lambda frame: None).feed(data)]


def test_cancelling_an_unsent_request_sends_nothing():
    pair = Pair()
    pair.a.cancel(pair.ask(message_of(bytes(100))))
    assert pair.a.next_buffers() == []
    assert pair.a.num_streams == 0


def test_cancelling_drops_queued_frames_and_tells_the_peer():
    pair = Pair()
    stream = pair.ask(message_of(bytes(3 << 20)))
    pair.move("a")
    assert pair.budget.used_bytes > 0
    pair.a.cancel(stream)
    assert decoded([pair.a.next_buffers()]) == [(FrameType.CANCEL, stream)]
    feed(pair.b, encode_frame(FrameType.CANCEL, stream), pair.events["b"])
    assert pair.budget.used_bytes == pair.b.num_streams == 0
    assert pair.events["b"] == []


def test_cancelling_a_served_request_tells_its_handler():
    pair = Pair()
    stream = pair.ask(message_of(b"x"))
    pair.run()
    pair.a.cancel(stream)
    pair.run()
    assert pair.events["b"][-1] == RequestCancelled(stream)
    pair.b.respond(stream, message_of())
    assert not pair.b.wants_to_send


def test_an_answer_on_its_way_to_a_cancelled_request_is_dropped():
    pair = Pair()
    stream = pair.ask(message_of())
    pair.run()
    pair.b.respond(stream, message_of(bytes(3 << 20)))
    pair.move("b")
    pair.a.cancel(stream)
    pair.run()
    assert pair.events["a"] == []
    again = pair.ask(message_of(n=2))
    pair.run()
    assert served(pair)[-1].stream == again


def test_cancelling_while_an_answer_fills_the_sink_leaves_the_sink_alone():
    pair, target = Pair(), bytearray(1 << 20)
    stream = pair.ask(message_of(), sink=lambda spec: memoryview(target))
    pair.run()
    pair.b.respond(stream, message_of(bytes([7]) * (1 << 20)))
    data = b"".join(pair.b.next_buffers())
    feed(pair.a, data[: 1 << 19], pair.events["a"])
    before = bytes(target)
    assert before.count(7) > 1000
    assert pair.a.cancel(stream)
    feed(pair.a, data[1 << 19 :], pair.events["a"])
    assert target == before
    assert pair.events["a"] == []


def test_a_refused_request_is_an_error_and_its_data_is_dropped():
    def refuse(head, size):
        raise NotServed(f"{head.method} of {size} bytes")

    pair = Pair(admit=refuse)
    pair.ask(message_of(bytes(3 << 20)))
    pair.run()
    [failed] = pair.events["a"]
    assert isinstance(failed, RequestFailed)
    assert failed.failure == Failure("not-served", f"m of {3 << 20} bytes")
    assert pair.a.num_streams == pair.b.num_streams == 0


def test_memory_is_reserved_before_it_is_allocated():
    pair = Pair(budget_bytes=1000)
    pair.ask(message_of(bytes(1001)))
    pair.run()
    [failed] = pair.events["a"]
    assert failed.failure.code == "overloaded"


def test_an_answer_above_the_budget_fails_the_call_and_is_cancelled():
    pair = Pair(budget_bytes=1000)
    pair.ask(message_of())
    pair.run()
    pair.b.respond(1, message_of(bytes(2000)))
    pair.run()
    assert pair.events["a"][0].failure.code == "overloaded"
    assert pair.a.num_streams == pair.b.num_streams == pair.budget.used_bytes == 0


def test_an_answer_above_the_budget_with_a_body_fails_once():
    pair = Pair(budget_bytes=1000)
    pair.ask(message_of())
    pair.run()
    pair.b.respond(1, message_of(bytes(2000), n=1))
    pair.run()
    assert [event.failure.code for event in pair.events["a"]] == ["overloaded"]


def test_a_sink_of_the_wrong_size_is_named():
    pair = Pair(admit=lambda head, size: lambda spec: memoryview(bytearray(1)))
    pair.ask(message_of(bytes(10)))
    pair.run()
    assert "has 1 bytes, not 10" in pair.events["a"][0].failure.text
    assert pair.budget.used_bytes == 0


def test_too_many_open_requests_are_refused():
    pair = Pair()
    for _ in range(limits.MAX_INCOMING_STREAMS + 1):
        pair.ask(message_of())
    pair.run()
    assert [event.failure.code for event in pair.events["a"]] == ["overloaded"]


def test_an_error_ends_a_request_that_is_still_being_sent():
    pair = Pair()
    pair.ask(message_of(bytes(6 << 20)))
    pair.move("a")
    pair.b.fail(1, Failure("closed", "no"))
    pair.run()
    assert pair.events["a"] == [RequestFailed(1, Failure("closed", "no"))]
    assert pair.a.num_streams == pair.b.num_streams == pair.budget.used_bytes == 0


def test_pings_are_answered_and_go_away_is_heard():
    pair = Pair()
    pair.a.ping(7)
    pair.b.go_away(Failure("closed", "stopping"))
    pair.run()
    assert set(pair.events["a"]) == {PongReceived(7), GoAwayReceived(Failure("closed", "stopping"))}


def test_sending_what_may_not_travel_leaves_the_link_usable():
    pair = Pair()
    with pytest.raises(LocalProtocolError):
        pair.ask(Message({"x": object()}))
    pair.ask(message_of(n=1))
    pair.run()
    with pytest.raises(LocalProtocolError):
        pair.b.respond(1, Message({"x": object()}))
    pair.b.fail(1, Failure("internal", "bug"))
    pair.run()
    assert isinstance(pair.events["a"][0], RequestFailed)


def test_a_closed_session_gives_its_reservations_back():
    pair = Pair()
    pair.ask(message_of(bytes(3 << 20)))
    pair.move("a")
    pair.b.close()
    assert pair.budget.used_bytes == 0


REQUEST = request_frame(1, head_of(message_of(b"abc")), b"")


@pytest.mark.parametrize(
    "data",
    [
        encode_frame(FrameType.HELLO, 0, msgpack.packb({})),
        encode_frame(FrameType.END, 1),
        response_frame(1, [], b""),
        response_frame(2, [], b""),
        request_frame(2, head_of(message_of()), b""),
        REQUEST + REQUEST,
        REQUEST + encode_frame(FrameType.END, 1),
        REQUEST + data_frame(1, 1, 1) + b"x",
        REQUEST + data_frame(1, 0, 4) + b"xxxx",
        REQUEST + data_frame(1, 0, 3) + b"xxx" + data_frame(1, 3, 1) + b"x",
        REQUEST + data_frame(1, 0, 3) + b"xxx" + encode_frame(FrameType.END, 1) * 2,
        request_frame(1, head_of(message_of()), b"\xc1"),
        number_frame(FrameType.WINDOW, 0, 1 << 62),
        number_frame(FrameType.WINDOW, 3, 1),
        encode_frame(FrameType.PING, 0, msgpack.packb(-1)),
        encode_frame(FrameType.ERROR, 1, msgpack.packb([1, 2])),
        encode_frame(FrameType.GOAWAY, 0, msgpack.packb(["a", "x" * 5000])),
        encode_frame(FrameType.REQUEST, 1, msgpack.packb(["m", 1, 0, 0, [], 1])),
        encode_frame(FrameType.REQUEST, 1, msgpack.packb(["", 1, 0, 0, [], False])),
        encode_frame(
            FrameType.REQUEST, 1, msgpack.packb(["m", 1, 0, 0, [["x", "f", [], 1, "r"]], False])
        ),
        encode_frame(
            FrameType.REQUEST,
            1,
            msgpack.packb(["m", 1, 0, 0, [["x", "int8", ["a"], 1, "raw"]], False]),
        ),
    ],
    ids=range(21),
)
def test_a_peer_that_breaks_the_protocol_is_found_out(data):
    pair = Pair()
    with pytest.raises(RemoteProtocolError):
        feed(pair.b, data, [])


def test_data_beyond_the_credit_is_found_out():
    size = limits.STREAM_CREDIT_BYTES + (1 << 20)
    spec = TensorSpec("x", "uint8", (size,), size)
    pair = Pair(budget_bytes=1 << 30)
    head = head_of(message_of())
    data = request_frame(1, type(head)("m", 1, 0, 0, (spec,)), b"")
    chunk = bytes(1 << 20)
    # The receiver gives credit back at once, so a cheat must be faster than its own window:
    # take the credit away from the bookkeeping, as if nothing had been given back.
    pair.b._credit.take(limits.LINK_CREDIT_BYTES - (1 << 19))
    with pytest.raises(RemoteProtocolError, match="credit"):
        feed(pair.b, data + data_frame(1, 0, len(chunk)) + chunk, [])


def test_nothing_is_listened_to_before_hello():
    pair = Pair()
    fresh = type(pair.a)("x", dialer=False, budget=pair.budget, admit=lambda head, size: None)
    with pytest.raises(RemoteProtocolError, match="before HELLO"):
        feed(fresh, REQUEST, [])


def test_every_open_state_can_be_left():
    for state in State:
        leads_on = any(source is state for source, _ in TRANSITIONS)
        assert leads_on is (state is not State.CLOSED)
