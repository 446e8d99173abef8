"""Network namespaces with a rate each way and no delay, shaped by the kernel; needs root.

Each namespace has one link to a common bridge in a namespace of its own; a token bucket at either
end of it shapes one direction. Costs next to no CPU, unlike `ends.switch`, which delays too.
"""

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

BURST_BYTES = 128 << 10
"""What passes at once: two of the largest packets that TCP hands down in one piece."""

QUEUE_MS = 200
"""A packet that would wait longer is dropped, as on a real line."""


@contextmanager
def shaped(names: Sequence[str], hosts: Sequence[str], rates: Sequence[float]) -> Iterator[None]:
    """Make namespaces with addresses `hosts` and `rates` in bytes/s, and remove them at the end."""
    hub = f"{names[0]}hub"
    made = [hub, *names]
    try:
        for name in made:
            _run("ip", "netns", "add", name)
        _run("ip", "-n", hub, "link", "add", "bridge0", "type", "bridge")
        _run("ip", "-n", hub, "link", "set", "bridge0", "up")
        for index, (name, host, rate) in enumerate(zip(names, hosts, rates, strict=True)):
            _plug_in(hub, name, f"port{index}", f"{host}/24", rate)
        yield
    finally:
        for name in made:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


def _plug_in(hub: str, name: str, port: str, address: str, rate: float) -> None:
    ends = ("link", "add", "eth0", "netns", name, "type", "veth")
    _run("ip", *ends, "peer", "name", port, "netns", hub)
    _run("ip", "-n", hub, "link", "set", port, "master", "bridge0", "up")
    _run("ip", "-n", name, "addr", "add", address, "dev", "eth0")
    for device in ("lo", "eth0"):
        _run("ip", "-n", name, "link", "set", device, "up")
    limits = ("burst", str(BURST_BYTES), "latency", f"{QUEUE_MS}ms")
    for where, device in ((name, "eth0"), (hub, port)):
        shape = ("tc", "qdisc", "add", "dev", device, "root", "tbf")
        _run("ip", "netns", "exec", where, *shape, "rate", f"{round(rate * 8)}bit", *limits)


def _run(*command: str) -> None:
    subprocess.run(command, check=True)
