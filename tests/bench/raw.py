"""What there is to reach: blocking sockets, plain or TLS, that do nothing but move the bytes.

A message is a kind, a buffer, a number of bytes and the bytes; see `serve` for the kinds.
"""

import socket
import ssl
import struct

HEAD = struct.Struct("<HHQ")
KEEP, LAST, ECHO = range(3)
"""Receive into memory in use; the same and say so; send the bytes back."""

MOST_SLOTS = 4
"""Tensors are received into at most this many buffers in turn, here and by our own end."""


def serve(listener: socket.socket, context: ssl.SSLContext | None, slot_bytes: int) -> None:
    """Serve one connection until it ends; a message names the buffer it is received into."""
    sock, _ = listener.accept()
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if context is not None:
        sock = context.wrap_socket(sock, server_side=True)
    slots = [memoryview(bytearray(slot_bytes)) for _ in range(MOST_SLOTS)]
    head = memoryview(bytearray(HEAD.size))
    while receive(sock, head):
        kind, slot, num_bytes = HEAD.unpack(head)
        place = slots[slot][:num_bytes]
        receive(sock, place)
        if kind == LAST:
            send(sock, KEEP, memoryview(b""))
        elif kind == ECHO:
            send(sock, ECHO, place)


def connect(port: int, context: ssl.SSLContext | None) -> socket.socket:
    """Connect to a server of this module."""
    sock = socket.create_connection(("127.0.0.1", port))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock if context is None else context.wrap_socket(sock)


def send(sock: socket.socket, kind: int, data: memoryview, slot: int = 0) -> None:
    """Send a message: a small one in one piece, as anybody would."""
    head = HEAD.pack(kind, slot, len(data))
    if len(data) <= 65536:
        sock.sendall(head + bytes(data))
        return
    if isinstance(sock, ssl.SSLSocket):
        sock.sendall(head)
        sock.sendall(data)
        return
    sent = sock.sendmsg([head, data])
    sock.sendall(data[sent - len(head) :])


def receive(sock: socket.socket, place: memoryview) -> bool:
    """Fill `place`; return whether the connection was still there."""
    filled = 0
    while filled < len(place):
        received = sock.recv_into(place[filled:])
        if not received:
            return False
        filled += received
    return True


def stream(sock: socket.socket, sources: list[memoryview], count: int) -> None:
    """Send `count` times one of `sources` in turn and wait until all of it has arrived."""
    for index in range(count):
        slot = index % len(sources)
        send(sock, LAST if index == count - 1 else KEEP, sources[slot], slot)
    receive(sock, memoryview(bytearray(HEAD.size)))


def ping_pong(sock: socket.socket, data: memoryview) -> None:
    """Send a message and receive it back."""
    send(sock, ECHO, data)
    receive(sock, memoryview(bytearray(HEAD.size + len(data))))
