"""An operator's order to one machine, signed so that nobody else can give, change or repeat it.

    operator's daemon                         target
      control.challenge  ───────────────────►  a fresh nonce, for this caller, for 30 s
      sign(kind, target, swarm, run, nonce)
      control.directive  ───────────────────►  verify, redeem the nonce, carry it out

The target gives the nonce and measures the directive's age with its own clock that only counts
seconds, so nobody's wall clock matters, however wrong it is. A nonce is good for one directive
from the peer that asked for it: what was overheard, or kept, is worth nothing.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgpack

from distqatd.base.errors import (
    IdentityError,
    KindRefused,
    MisdirectedDirective,
    OutOfScope,
    TamperedDirective,
    UnknownOperator,
)
from distqatd.base.ids import PeerId
from distqatd.config.control import DIRECTIVE_KINDS
from distqatd.identity.keys import KEY_BYTES, Identity, verify

KINDS = DIRECTIVE_KINDS
"""What a directive can ask for."""

VALID_S = 30.0
"""A challenge can be answered for so long, in seconds of the machine that gave it."""

MAX_PAYLOAD_BYTES = 2048
MAX_SCOPE = 64
_CONTEXT = b"distqat directive v1\0"
"""What is signed begins with this, so that no signature means anything elsewhere."""

ArgValue = str | int | float | bool


@dataclass(frozen=True, slots=True)
class Directive:
    """One order to one machine.

    Attributes:
        kind: one of KINDS.
        args: what the kind needs, such as the stage.
        target: the peer that shall act.
        swarm_id: the swarm it belongs to.
        run_id: the run it is about.
        nonce: the target's challenge.
        valid_s: seconds after the challenge in which it may be carried out.
        scope: the experts it may touch, by uid; empty: all experts of the target.
    """

    kind: str
    target: PeerId
    swarm_id: str
    run_id: str
    nonce: bytes
    scope: tuple[str, ...] = ()
    args: Mapping[str, ArgValue] = field(default_factory=dict)
    valid_s: float = VALID_S


@dataclass(frozen=True, slots=True)
class SignedDirective:
    """A directive as it travels: its bytes, whose key signed them, and the signature."""

    payload: bytes
    public_key: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class Operator:
    """A key that may give directives, and which kinds."""

    public_key: bytes
    kinds: frozenset[str] = frozenset(KINDS)

    @classmethod
    def parse(cls, text: str) -> "Operator":
        """Read `PUBLIC_KEY` or `PUBLIC_KEY=drain,resume`; the key is 64 hex digits.

        Raises:
            IdentityError: not such a text.
        """
        digits, _, names = text.strip().partition("=")
        kinds = frozenset(name.strip() for name in names.split(",")) if names else frozenset(KINDS)
        try:
            key = bytes.fromhex(digits)
        except ValueError:
            key = b""
        if len(key) != KEY_BYTES or not kinds <= set(KINDS):
            raise IdentityError(
                f"{text!r} is no operator; write the public key, {2 * KEY_BYTES} hex digits, and "
                f"what it may do if not everything: KEY={','.join(KINDS[:2])}"
            )
        return cls(key, kinds)


def sign(operator: Identity, directive: Directive) -> SignedDirective:
    """Return the directive signed with the operator's key."""
    payload = _pack(directive)
    signature = operator.sign(_CONTEXT + payload)
    return SignedDirective(payload, operator.public_key, signature)


def _pack(directive: Directive) -> bytes:
    payload: bytes = msgpack.packb(
        [
            directive.kind,
            directive.target,
            directive.swarm_id,
            directive.run_id,
            directive.nonce,
            directive.scope,
            dict(directive.args),
            directive.valid_s,
        ]
    )
    return payload


@dataclass(frozen=True, slots=True)
class Gate:
    """What one machine lets through.

    Attributes:
        me: its peer id.
        swarm_id: its swarm.
        run_id: its run.
        operators: whose directives it takes, for what.
        refused: the kinds that its owner takes from nobody.
    """

    me: PeerId
    swarm_id: str
    run_id: str
    operators: Sequence[Operator]
    refused: Collection[str] = ()

    def check(self, signed: SignedDirective) -> Directive:
        """Return the directive if it is for us, from who may give it. The nonce is not looked at.

        Raises:
            UnknownOperator: its key is not one of ours.
            TamperedDirective: the signature does not fit, or it cannot be read.
            MisdirectedDirective: for another peer, swarm or run.
            OutOfScope: its operator may not ask for this kind.
            KindRefused: the owner of this machine takes no such directive.
        """
        operator = next((o for o in self.operators if o.public_key == signed.public_key), None)
        if operator is None:
            raise UnknownOperator(
                f"the key {signed.public_key.hex()[:16]}... is no operator's here; this machine's "
                "owner can add it: --set control.operators=KEY"
            )
        if not verify(signed.public_key, signed.signature, _CONTEXT + signed.payload):
            raise TamperedDirective("the directive is not what its operator signed")
        directive = _read(signed.payload)
        self._check_target(directive)
        if directive.kind not in operator.kinds:
            may = ", ".join(sorted(operator.kinds))
            raise OutOfScope(f"this operator may {may} here, not {directive.kind}")
        if directive.kind in self.refused:
            raise KindRefused(f"the owner of {self.me} refuses to {directive.kind} when told to")
        return directive

    def _check_target(self, directive: Directive) -> None:
        for what, wanted, ours in (
            ("peer", directive.target, self.me),
            ("swarm", directive.swarm_id, self.swarm_id),
            ("run", directive.run_id, self.run_id),
        ):
            if wanted != ours:
                raise MisdirectedDirective(f"the directive is for {what} {wanted}, this is {ours}")


def _read(payload: bytes) -> Directive:
    """Read what an operator signed; a key does not make its owner's bytes well-formed.

    Raises:
        TamperedDirective: not a directive of this version.
    """
    fields: Any = None
    if len(payload) <= MAX_PAYLOAD_BYTES:
        try:
            fields = msgpack.unpackb(payload, use_list=False, max_ext_len=0)
        except (ValueError, msgpack.UnpackException) as error:
            raise TamperedDirective("the directive cannot be read") from error
    match fields:
        case (
            str(kind),
            str(target),
            str(swarm_id),
            str(run_id),
            bytes(nonce),
            tuple(scope),
            dict(args),
            float(valid_s),
        ) if kind in KINDS and _is_scope(scope) and _are_args(args):
            return Directive(kind, PeerId(target), swarm_id, run_id, nonce, scope, args, valid_s)
        case _:
            raise TamperedDirective("the directive is of a kind this version does not know")


def _is_scope(scope: tuple[Any, ...]) -> bool:
    return len(scope) <= MAX_SCOPE and all(isinstance(uid, str) for uid in scope)


def _are_args(args: dict[Any, Any]) -> bool:
    names = all(isinstance(name, str) for name in args)
    return names and all(isinstance(value, str | int | float | bool) for value in args.values())
