from dataclasses import replace

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distqatd.base.errors import (
    DistqatError,
    IdentityError,
    KindRefused,
    MisdirectedDirective,
    NotAllowed,
    OutOfScope,
    TamperedDirective,
    UnknownOperator,
)
from distqatd.base.ids import PeerId
from distqatd.base.rng import seeded_rng
from distqatd.identity.directive import (
    Directive,
    Gate,
    Operator,
    SignedDirective,
    sign,
)
from distqatd.identity.keys import Identity

ME, CALLER = PeerId("m" * 52), PeerId("c" * 52)
OPERATOR = Identity.generate(seeded_rng("operator"))
STRANGER = Identity.generate(seeded_rng("stranger"))
GATE = Gate(ME, "swarm", "run", (Operator(OPERATOR.public_key),))


def directive(**changes):
    order = Directive("drain", ME, "swarm", "run", b"n" * 16, ("back.0.1.0",), {"deadline_s": 9.0})
    return replace(order, **changes)


def test_what_the_operator_signed_for_us_is_let_through_as_it_was():
    assert GATE.check(sign(OPERATOR, directive())) == directive()


def test_a_key_that_is_no_operators_is_refused():
    with pytest.raises(UnknownOperator, match=r"control\.operators"):
        GATE.check(sign(STRANGER, directive()))


def test_a_signature_by_another_key_under_the_operators_name_is_refused():
    forged = replace(sign(STRANGER, directive()), public_key=OPERATOR.public_key)
    with pytest.raises(TamperedDirective):
        GATE.check(forged)


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "reassign"},
        {"args": {"deadline_s": 1e9}},
        {"scope": ()},
        {"nonce": b"x" * 16},
        {"target": CALLER},
        {"valid_s": 1e9},
    ],
)
def test_anything_changed_after_signing_is_refused(change):
    payload = sign(OPERATOR, directive(**change)).payload
    with pytest.raises(TamperedDirective):
        GATE.check(replace(sign(OPERATOR, directive()), payload=payload))


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_no_single_byte_can_be_changed(position, difference):
    signed = sign(OPERATOR, directive())
    payload = bytearray(signed.payload)
    payload[position % len(payload)] ^= difference
    with pytest.raises(TamperedDirective):
        GATE.check(replace(signed, payload=bytes(payload)))


@pytest.mark.parametrize(
    ("change", "word"),
    [({"target": CALLER}, "peer"), ({"swarm_id": "other"}, "swarm"), ({"run_id": "old"}, "run")],
)
def test_a_directive_for_another_peer_swarm_or_run_is_refused(change, word):
    with pytest.raises(MisdirectedDirective, match=f"is for {word}"):
        GATE.check(sign(OPERATOR, directive(**change)))


def test_an_operator_may_only_ask_for_the_kinds_it_was_given():
    gate = replace(GATE, operators=(Operator(OPERATOR.public_key, frozenset({"resume"})),))
    with pytest.raises(OutOfScope, match="may resume here, not drain"):
        gate.check(sign(OPERATOR, directive()))


def test_the_owner_of_the_machine_can_refuse_a_kind():
    with pytest.raises(KindRefused, match="refuses to drain"):
        replace(GATE, refused=("drain",)).check(sign(OPERATOR, directive()))


def test_every_refusal_is_not_allowed_and_exits_with_6():
    for kind in NotAllowed.__subclasses__():
        assert kind.exit_code == 6
        assert kind.wire_code.startswith("directive-")


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xc1",
        msgpack.packb(["drain"]),
        msgpack.packb({"kind": "drain"}),
        msgpack.packb(["explode", ME, "swarm", "run", b"n", [], {}, 1.0]),
        msgpack.packb(["drain", ME, "swarm", "run", b"n", [1], {}, 1.0]),
        msgpack.packb(["drain", ME, "swarm", "run", b"n", [], {"x": []}, 1.0]),
        msgpack.packb(["drain", ME, "swarm", "run", b"n", ["u"] * 65, {}, 1.0]),
        msgpack.packb(["drain", ME, "swarm", "run", b"n" * 3000, [], {}, 1.0]),
    ],
)
def test_nonsense_that_an_operator_signed_is_refused_as_unreadable(payload):
    signature = OPERATOR.sign(b"distqat directive v1\0" + payload)
    with pytest.raises(TamperedDirective):
        GATE.check(SignedDirective(payload, OPERATOR.public_key, signature))


@given(st.binary(max_size=80), st.binary(max_size=40), st.binary(max_size=80))
def test_hostile_bytes_are_refused_with_an_error_of_ours(payload, key, signature):
    gate = replace(GATE, operators=(Operator(key),))
    with pytest.raises(DistqatError):
        gate.check(SignedDirective(payload, key, signature))


def test_an_operator_is_written_as_its_key_and_what_it_may_do():
    key = OPERATOR.public_key
    assert Operator.parse(key.hex()) == Operator(key)
    assert Operator.parse(f"{key.hex()}=drain, resume").kinds == {"drain", "resume"}


@pytest.mark.parametrize("text", ["", "ab", "zz" * 32, "00" * 32 + "=reboot", "00" * 33])
def test_what_is_no_operator_is_refused(text):
    with pytest.raises(IdentityError, match="no operator"):
        Operator.parse(text)
