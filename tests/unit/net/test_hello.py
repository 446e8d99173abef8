from dataclasses import asdict, replace

import pytest

from distqatd.base.errors import RemoteProtocolError
from distqatd.net.hello import mismatch, parse_hello
from distqatd.wire.payload import pack_body, unpack_body
from tests.support.pools import hello_of, peer

HELLO = hello_of(peer("a"), roles=("expert", "client"), addresses=("/ip4/1.2.3.4/tcp/5",))


def test_a_hello_comes_back_as_it_was():
    assert parse_hello(unpack_body(pack_body(asdict(HELLO)))) == HELLO


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("peer_id", "short"),
        ("peer_id", 7),
        ("swarm_id", "x" * 300),
        ("run_id", None),
        ("roles", "expert"),
        ("roles", [1]),
        ("addresses", ["x"] * 100),
        ("boot_epoch", -1),
        ("boot_epoch", True),
        ("version", 1 << 63),
        ("listen_port", "1"),
    ],
)
def test_a_hello_out_of_bounds_is_refused(field, value):
    fields = unpack_body(pack_body(asdict(HELLO)))
    with pytest.raises(RemoteProtocolError, match=r"HELLO|peer id"):
        parse_hello({**fields, field: value})
    del fields[field]
    with pytest.raises(RemoteProtocolError):
        parse_hello(fields)


def test_peers_match_unless_both_know_and_differ():
    ours = replace(HELLO, run_id="r")
    assert mismatch(ours, replace(ours, run_id="")) is None
    assert mismatch(replace(ours, run_id=""), ours) is None
    assert "'r'" in mismatch(ours, replace(ours, run_id="q"))
    assert "config digest" in mismatch(
        replace(ours, config_digest="x"), replace(ours, config_digest="y")
    )
