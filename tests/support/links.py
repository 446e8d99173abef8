"""Two sessions joined back to back, without I/O."""

from distqatd.base.ids import PeerId
from distqatd.wire.budget import Budget
from distqatd.wire.messages import RequestHead
from distqatd.wire.payload import Message, TensorSpec, WireTensor
from distqatd.wire.session import Session


def tensor(data, name="x"):
    return WireTensor(TensorSpec(name, "uint8", (len(data),), len(data)), memoryview(data))


def head_of(message, method="m", sequence=0, acked=0, timeout_ms=1000):
    specs = tuple(item.spec for item in message.tensors)
    return RequestHead(method, timeout_ms, sequence, acked, specs)


class Pair:
    """A dialer `a` and an acceptor `b` that have said HELLO, and what each has seen."""

    def __init__(self, budget_bytes=1 << 26, admit=lambda head, size: None):
        self.budget = Budget(budget_bytes, budget_bytes)
        ours = {"dialer": True, "budget": self.budget, "admit": admit}
        self.a = Session(PeerId("b"), **ours)
        self.b = Session(PeerId("a"), **{**ours, "dialer": False})
        self.events = {"a": [], "b": []}
        self.wire = {"a": [], "b": []}  # bytes each has sent
        self.a.hello({"n": "a"})
        self.b.hello({"n": "b"})
        self.run()
        self.events = {"a": [], "b": []}

    def run(self, steps=10_000):
        """Move units in turns until neither side has anything to send."""
        for _ in range(steps):
            if not (self.move("a") or self.move("b")):
                return
        raise AssertionError("the link never comes to rest")

    def move(self, name):
        """Send one unit of `name`'s to the other side; return whether there was one."""
        source, target = (self.a, self.b) if name == "a" else (self.b, self.a)
        data = b"".join(source.next_buffers())
        self.wire[name].append(data)
        feed(target, data, self.events["b" if name == "a" else "a"])
        return bool(data)

    def ask(self, message, sink=None, **fields):
        return self.a.request(head_of(message, **fields), message, sink)


def feed(session, data, events):
    """Give bytes to a session as a socket would."""
    view = memoryview(data)
    while len(view):
        buffer = session.buffer()
        size = min(len(buffer), len(view))
        buffer[:size] = view[:size]
        view = view[size:]
        events.extend(session.received(size))


def message_of(*chunks, **body):
    return Message(body, tuple(tensor(data) for data in chunks))
