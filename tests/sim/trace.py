"""What happened in a run, boiled down to one hash: equal hashes mean equal runs."""

import hashlib


class Trace:
    """A running hash over every delivery, and on request the readable lines."""

    def __init__(self, *, keep_lines: bool = False) -> None:
        self.lines: list[str] | None = [] if keep_lines else None
        self.num_entries = 0
        self._hash = hashlib.blake2b(digest_size=16)

    def add(self, time_s: float, kind: str, route: str, data: bytes = b"") -> None:
        """Record that `data` arrived over `route` at `time_s`."""
        self.num_entries += 1
        self._hash.update(f"{time_s!r} {kind} {route} {len(data)}\n".encode())
        self._hash.update(data)
        if self.lines is not None:
            digest = hashlib.blake2b(data, digest_size=4).hexdigest()
            self.lines.append(f"{time_s:.6f} {kind} {route} {len(data)} B {digest}")

    def hexdigest(self) -> str:
        """Return the hash of everything so far."""
        return self._hash.hexdigest()
