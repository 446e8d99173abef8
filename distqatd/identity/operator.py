"""The operator's key: made with the swarm, kept by its first machine, known to all by its half.

Whoever holds the file can tell other machines to drain, resume or move. Members learn the public
key from the invite or from the peer they join by; a machine's owner has the last word.
"""

from dataclasses import dataclass
from pathlib import Path

from distqatd.base.errors import IdentityError
from distqatd.identity.directive import Operator
from distqatd.identity.keys import KEY_BYTES, Identity

FILE_NAME = "operator.key"


@dataclass(frozen=True, slots=True)
class Operators:
    """What a daemon knows of operators.

    Attributes:
        signer: the operator's own key, if it is on this machine.
        of_swarm: the public key of the swarm's operator, once known.
        named: further operators that this machine's owner named.
    """

    signer: Identity | None = None
    of_swarm: bytes | None = None
    named: tuple[Operator, ...] = ()

    @property
    def accepted(self) -> tuple[Operator, ...]:
        """Return whose directives this machine takes; what its owner said of a key comes first."""
        swarm = (Operator(self.of_swarm),) if self.of_swarm is not None else ()
        return (*self.named, *swarm)


def load_operators(
    file: Path, *, is_first: bool, invited_by: bytes | None, named: tuple[str, ...]
) -> Operators:
    """Return the operators a daemon starts with.

    Args:
        file: where the operator's private key is, or is to be made with mode 0600.
        is_first: this machine makes the swarm, and the key with it if there is none.
        invited_by: the public key in the invite, which counts more than what peers say later.
        named: `control.operators` of the configuration.

    Raises:
        IdentityError: the file can be read by others or holds no key, or a text is no operator.
    """
    signer = Identity.load_or_create(file) if is_first or file.exists() else None
    own = signer.public_key if signer is not None and is_first else None
    return Operators(signer, invited_by or own, tuple(Operator.parse(text) for text in named))


def check_public_key(key: bytes) -> bytes:
    """Return `key` if it has the length of an Ed25519 public key.

    Raises:
        IdentityError: it has not.
    """
    if len(key) != KEY_BYTES:
        raise IdentityError(f"an operator's public key has {KEY_BYTES} bytes, not {len(key)}")
    return key
