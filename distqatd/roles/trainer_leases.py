"""The leases that a trainer holds: what comes next, what is done, when to ask for more. No I/O."""

from dataclasses import dataclass

from distqatd.roles import client_calls as calls


@dataclass(slots=True)
class Lent:
    """A lease [first, end): batches below `next` are decided, or applied by a trainer before us.

    Attributes:
        is_known: the experts of the route were asked how far they have come in it.
    """

    fence: int
    first: int
    next: int
    end: int
    is_known: bool = False

    @property
    def is_done(self) -> bool:
        """Return whether no batch is left to run."""
        return self.next >= self.end


class Leases:
    """The leases of one job, in the order in which they were granted; MAX_HELD at most."""

    def __init__(self) -> None:
        self._lent: list[Lent] = []

    @property
    def current(self) -> Lent | None:
        """Return the lease to go on with, if there is one."""
        return next((lease for lease in self._lent if not lease.is_done), None)

    @property
    def num_left(self) -> int:
        """Return how many batches are left to run."""
        return sum(lease.end - lease.next for lease in self._lent if not lease.is_done)

    def take(self, grant: calls.Grant) -> None:
        """Add what a client has granted; a lease that is held already is not taken twice."""
        is_new = all(lease.fence != grant.fence for lease in self._lent)
        num_open = sum(not lease.is_done for lease in self._lent)
        if grant.fence and is_new and num_open < calls.MAX_HELD:
            self._lent.append(Lent(grant.fence, grant.first, grant.first, grant.end))

    def wants_more(self, step_s: float) -> bool:
        """Return whether to ask for another lease.

        Args:
            step_s: seconds that a step takes; 0.0 while that is unknown: then one at a time.
        """
        if not self.num_left:
            return True
        num_open = sum(not lease.is_done for lease in self._lent)
        return num_open < calls.MAX_HELD and 0.0 < self.num_left * step_s < calls.AHEAD_S

    def replay(self, batch: int) -> None:
        """Go back to a batch that was decided, but that a stage has dropped."""
        for lease in self._lent:
            if lease.first <= batch < lease.next:
                lease.next = batch

    def forget_experts(self) -> None:
        """Ask again how far the experts have come in each lease: they are others now."""
        for lease in self._lent:
            lease.is_known = False

    def held(self, unconfirmed: int | None) -> tuple[calls.Held, ...]:
        """Return the leases for a report.

        Args:
            unconfirmed: a batch that is decided, but perhaps not applied by every stage yet: if
                we died now it would have to be run again, so it is not reported as committed.
        """
        return tuple(
            calls.Held(lease.fence, lease.first, _confirmed(lease, unconfirmed), lease.end)
            for lease in self._lent
        )

    def answered(self, held: tuple[calls.Held, ...]) -> None:
        """Forget the leases that a client has been told are done."""
        told = {lease.fence for lease in held if lease.is_done}
        self._lent = [x for x in self._lent if not (x.is_done and x.fence in told)]


def _confirmed(lease: Lent, unconfirmed: int | None) -> int:
    if unconfirmed is None or not lease.first <= unconfirmed < lease.next:
        return lease.next
    return unconfirmed
