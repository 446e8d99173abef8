"""Where peers may be reached: a bounded address book."""

from collections import OrderedDict
from collections.abc import Iterable, Sequence

from distqatd.base.errors import IdentityError
from distqatd.base.ids import PeerId
from distqatd.net.address import Address

MAX_PEERS = 4096
MAX_ADDRESSES = 8


class AddressBook:
    """Addresses by peer, best first; the peer that was learnt of longest ago goes when full."""

    def __init__(self) -> None:
        self._addresses: OrderedDict[PeerId, tuple[Address, ...]] = OrderedDict()

    def learn(self, peer: PeerId, addresses: Sequence[Address]) -> None:
        """Put `addresses` before what is known of `peer`."""
        known = self._addresses.get(peer, ())
        merged = tuple(dict.fromkeys([*addresses, *known]))[:MAX_ADDRESSES]
        self._addresses[peer] = merged
        self._addresses.move_to_end(peer)
        if len(self._addresses) > MAX_PEERS:
            self._addresses.popitem(last=False)

    def addresses(self, peer: PeerId) -> tuple[Address, ...]:
        """Return what is known of `peer`."""
        return self._addresses.get(peer, ())


def parse_advertised(texts: Iterable[str]) -> list[Address]:
    """Return the addresses among what a peer says about itself; the rest is left out."""
    found = []
    for text in texts:
        try:
            found.append(Address.parse(text))
        except IdentityError:
            continue
    return found
