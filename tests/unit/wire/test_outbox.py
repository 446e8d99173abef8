"""The order in which a link sends: whole turns, small messages in between, credit respected."""

from distqatd.wire.limits import KIB, LINK_CREDIT_BYTES, MIB, SLOW_CHUNK_BYTES, STREAM_CREDIT_BYTES
from distqatd.wire.outbox import Outbox


def outbox(*sizes: int) -> Outbox:
    """Return an outbox with frames for a slow link and messages 1, 2, ... of these sizes."""
    made = Outbox(lambda _: None)
    made.chunk_bytes = SLOW_CHUNK_BYTES
    for number, size in enumerate(sizes, start=1):
        queue(made, number, size)
    return made


def queue(box: Outbox, stream: int, size: int) -> None:
    """Queue a message whose every byte is the number of its stream."""
    box.message(stream, b"", [memoryview(bytes([stream]) * size)])


def sent(box: Outbox, most: int = 100) -> list[int]:
    """Return the streams of the next DATA frames."""
    order: list[int] = []
    while box.wants_to_send and len(order) < most:
        buffers = box.next_buffers()
        order += [chunk[0] for chunk in buffers[1:2]]
    return order


def test_messages_go_one_after_the_other_where_frames_are_small() -> None:
    assert sent(outbox(512 * KIB, 512 * KIB, 256 * KIB)) == [1, 1, 2, 2, 3]


def test_a_long_message_lets_others_pass_after_its_turn() -> None:
    assert sent(outbox(2 * MIB, MIB)) == [1] * 4 + [2] * 4 + [1] * 4


def test_on_a_fast_link_every_frame_is_a_turn() -> None:
    box = outbox(2 * MIB, 2 * MIB)
    box.chunk_bytes = MIB
    assert sent(box) == [1, 2, 1, 2]


def test_a_small_message_waits_for_one_frame_at_most() -> None:
    box = outbox(2 * MIB, 2 * MIB)
    assert sent(box, 2) == [1, 1]
    queue(box, 3, 64 * KIB)
    assert sent(box, 3) == [3, 1, 1]


def test_a_stream_without_credit_ends_its_turn_and_has_a_new_one_with_it() -> None:
    box = outbox(STREAM_CREDIT_BYTES + 2 * MIB, STREAM_CREDIT_BYTES)
    box.grant(0, LINK_CREDIT_BYTES)
    assert len(sent(box)) == 2 * STREAM_CREDIT_BYTES // SLOW_CHUNK_BYTES
    assert not box.wants_to_send
    queue(box, 3, MIB)
    box.grant(1, 2 * MIB)
    assert sent(box) == [1] * 4 + [3] * 4 + [1] * 4


def test_small_messages_keep_their_order_before_a_long_one() -> None:
    box = outbox(2 * MIB)
    assert sent(box, 1) == [1]
    for stream in (2, 3, 4):
        queue(box, stream, KIB)
    assert sent(box, 4) == [2, 3, 4, 1]
