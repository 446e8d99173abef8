"""What outer steps have cost one expert: their number, the time steps were held back, bytes."""

from dataclasses import dataclass


@dataclass(slots=True)
class Syncs:
    """Sums over the rounds of one expert since it serves.

    Attributes:
        num_committed: rounds that took an outer step here.
        num_aborted: rounds that did not.
        seconds: that steps were held back for rounds, aborted ones included.
        bytes_sent: tensor bytes sent in rounds that committed.
        last_s: seconds of the last round that committed.
        last_bytes: bytes sent in it.
    """

    num_committed: int = 0
    num_aborted: int = 0
    seconds: float = 0.0
    bytes_sent: int = 0
    last_s: float = 0.0
    last_bytes: int = 0

    @property
    def mbit_per_s(self) -> float:
        """Return the rate at which the last round that committed sent, waiting included."""
        return self.last_bytes * 8e-6 / self.last_s if self.last_s > 0 else 0.0

    def committed(self, seconds: float, bytes_sent: int, held_s: float | None = None) -> None:
        """Count a round that took an outer step; steps were held back all the time by default."""
        self.num_committed += 1
        self.seconds += seconds if held_s is None else held_s
        self.bytes_sent += bytes_sent
        self.last_s, self.last_bytes = seconds, bytes_sent

    def aborted(self, seconds: float) -> None:
        """Count a round that did not."""
        self.num_aborted += 1
        self.seconds += seconds
