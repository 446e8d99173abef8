"""Bounds on what others make us hold: reserved memory, and the credit of senders."""

from collections import Counter

from distqatd.base.errors import Overloaded, RemoteProtocolError
from distqatd.base.ids import PeerId


class Budget:
    """How many bytes of incoming messages this process holds at most."""

    def __init__(self, total_bytes: int, per_peer_bytes: int) -> None:
        self._total_bytes = total_bytes
        self._per_peer_bytes = min(per_peer_bytes, total_bytes)
        self._used: Counter[PeerId] = Counter()
        self._used_total = 0

    @property
    def used_bytes(self) -> int:
        """Return how many bytes are reserved now."""
        return self._used_total

    def reserve(self, peer: PeerId, num_bytes: int) -> "Reservation":
        """Reserve memory for a message of `peer`.

        Raises:
            Overloaded: the peer's part or the whole is used up.
        """
        if self._used[peer] + num_bytes > self._per_peer_bytes:
            raise Overloaded(
                f"{num_bytes} bytes asked, {self._used[peer]} of {self._per_peer_bytes} "
                "bytes per peer are in flight"
            )
        if self._used_total + num_bytes > self._total_bytes:
            raise Overloaded(
                f"{num_bytes} bytes asked, {self._used_total} of {self._total_bytes} "
                "bytes of all peers are in flight"
            )
        if num_bytes:
            self._used[peer] += num_bytes
            self._used_total += num_bytes
        return Reservation(self, peer, num_bytes)

    def give_back(self, peer: PeerId, num_bytes: int) -> None:
        """Return reserved bytes; called by `Reservation.release`."""
        self._used_total -= num_bytes
        self._used[peer] -= num_bytes
        if not self._used[peer]:
            del self._used[peer]


class Reservation:
    """Bytes reserved for one message; whoever holds the message releases them, once or more."""

    __slots__ = ("_budget", "_num_bytes", "_peer")

    def __init__(self, budget: Budget, peer: PeerId, num_bytes: int) -> None:
        self._budget = budget
        self._peer = peer
        self._num_bytes = num_bytes

    def release(self) -> None:
        """Give the bytes back; a second time does nothing."""
        if self._num_bytes:
            self._budget.give_back(self._peer, self._num_bytes)
            self._num_bytes = 0


class ReceiveCredit:
    """How many DATA bytes a sender may have on the way, seen from the receiver.

    Credit is given back in parts worth a frame, as soon as bytes are in their destination.
    """

    __slots__ = ("_limit_bytes", "_remaining_bytes", "_unacked_bytes")

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._remaining_bytes = limit_bytes
        self._unacked_bytes = 0

    def take(self, num_bytes: int) -> None:
        """Use up credit.

        Raises:
            RemoteProtocolError: the sender had not so much.
        """
        if num_bytes > self._remaining_bytes:
            raise RemoteProtocolError(
                f"{num_bytes} bytes of DATA on a credit of {self._remaining_bytes}"
            )
        self._remaining_bytes -= num_bytes

    def arrived(self, num_bytes: int) -> int:
        """Note bytes in their place; return how much credit to give back now, mostly 0."""
        self._unacked_bytes += num_bytes
        if self._unacked_bytes < self._limit_bytes // 4:
            return 0
        granted, self._unacked_bytes = self._unacked_bytes, 0
        self._remaining_bytes += granted
        return granted
