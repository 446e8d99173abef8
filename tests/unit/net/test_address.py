from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distqatd.base.errors import IdentityError
from distqatd.base.rng import seeded_rng
from distqatd.identity.invite import Invite
from distqatd.identity.keys import Identity
from distqatd.net.address import MAX_ENTRIES, Address, expand, expand_invites

PEER = Identity.generate(seeded_rng("peer")).peer_id
OTHER = Identity.generate(seeded_rng("other")).peer_id

hosts = (
    st.ip_addresses().map(str)
    | st.from_regex(r"[a-z]([a-z0-9-]{0,20})(\.[a-z][a-z0-9]{0,10}){0,3}", fullmatch=True)
)  # fmt: skip
addresses = st.builds(
    lambda host, port, peer: Address(Address.parse(host).host, port, peer),
    hosts,
    st.integers(1, 65535),
    st.sampled_from([None, PEER]),
)


@given(address=addresses)
@settings(max_examples=200, deadline=None)
def test_an_address_survives_being_written_and_read(address: Address) -> None:
    assert Address.parse(str(address)) == address
    assert Address.parse(address.host_port()) == Address(address.host, address.port)


@given(text=st.text(max_size=40) | st.text("/:[]ip4dns.tcp0123", max_size=40))
@settings(max_examples=200, deadline=None)
def test_any_text_gives_an_address_or_an_identity_error(text: str) -> None:
    try:
        address = Address.parse(text)
    except IdentityError:
        return
    assert Address.parse(str(address)) == address


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("192.0.2.7:1234", Address("192.0.2.7", 1234)),
        ("192.0.2.7", Address("192.0.2.7", 29700)),
        ("train.Example.org", Address("train.example.org", 29700)),
        ("train.example.org.:80", Address("train.example.org", 80)),
        ("localhost:5", Address("localhost", 5)),
        ("[2001:db8::1]:5", Address("2001:db8::1", 5)),
        ("[2001:DB8:0::1]", Address("2001:db8::1", 29700)),
        ("2001:db8::1", Address("2001:db8::1", 29700)),
        ("fe80::1%eth0", Address("fe80::1%eth0", 29700)),
        ("[::ffff:192.0.2.7]:5", Address("192.0.2.7", 5)),
        ("  1.2.3.4:5\n", Address("1.2.3.4", 5)),
        ("/ip4/192.0.2.7/tcp/1234", Address("192.0.2.7", 1234)),
        ("/ip4/192.0.2.7", Address("192.0.2.7", 29700)),
        (f"/ip6/::1/tcp/5/p2p/{PEER}", Address("::1", 5, PEER)),
        (f"/dns/a.b/p2p/{PEER}", Address("a.b", 29700, PEER)),
        ("/dns4/a.b/tcp/5", Address("a.b", 5)),
        ("/dns6/a.b/tcp/5", Address("a.b", 5)),
    ],
)
def test_every_form_people_type_is_read(text: str, expected: Address) -> None:
    assert Address.parse(text) == expected


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "host name"),
        ("a b", "host name"),
        ("-a.b", "host name"),
        ("a..b", "host name"),
        ("256.1.1.1", "host name"),
        ("1.2.3", "host name"),
        ("a" * 64, "host name"),
        ("a.b:", "expected 1 to 65535"),
        ("a.b:0", "expected 1 to 65535"),
        ("a.b:65536", "expected 1 to 65535"),
        ("a.b:0000029700", "expected 1 to 65535"),
        ("a.b:port", "expected 1 to 65535"),
        ("http://a.b:5", "write 'a.b:5' without scheme"),
        ("2001:db8::1:zz", r"\[v6\]:port"),
        ("[1.2.3.4]:5", r"\[v6\]"),
        ("[::1", r"\[v6\]"),
        ("[::1]5", r"\[v6\]"),
        ("fe80::1%a/b", r"\[v6\]:port"),
        ("/ip4/a.b/tcp/5", "not an IPv4 address"),
        ("/ip6/1.2.3.4/tcp/5", "not an IPv6 address"),
        ("/ip4/1.2.3.4/udp/5", "/udp is not understood.*/tcp/PORT"),
        ("/ip4/1.2.3.4/tcp/5/ws/x", "/ws is not understood"),
        ("/ip4/1.2.3.4/tcp", "ends in the middle"),
        ("/tcp/5", "begins with /tcp"),
        ("/dns/a.b/tcp/5/p2p/QmHash", "not a peer id"),
    ],
)
def test_what_is_no_address_is_refused_with_the_text_and_the_fix(text: str, why: str) -> None:
    with pytest.raises(IdentityError, match=why) as caught:
        Address.parse(text)
    assert text.split("/p2p/")[-1] in str(caught.value)


def test_a_comma_list_keeps_its_order_and_drops_repetitions() -> None:
    assert expand("b:1, a:2,, /dns/b/tcp/1 ,") == [Address("b", 1), Address("a", 2)]
    assert expand("") == []


def test_a_file_lists_one_entry_a_line_with_comments(tmp_path: Path) -> None:
    path = tmp_path / "initial_peers.txt"
    path.write_text(f"# peers\n\n/ip4/1.2.3.4/tcp/5/p2p/{PEER}  # monitor\na:1, b:2\n")
    expected = [Address("1.2.3.4", 5, PEER), Address("a", 1), Address("b", 2)]
    assert expand(f"@{path}") == expected
    assert expand(f"c:3,@{path}") == [Address("c", 3), *expected]


def test_a_missing_or_nested_or_binary_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(IdentityError, match="absent: No such file"):
        expand(f"@{tmp_path}/absent")
    nested = tmp_path / "nested"
    nested.write_text("a:1\n@other\n")
    with pytest.raises(IdentityError, match="nested:2: @other is a file inside a file"):
        expand(f"@{nested}")
    nested.write_bytes(b"\xff\xfe")
    with pytest.raises(IdentityError, match="not text"):
        expand(f"@{nested}")


def test_a_list_without_end_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "peers"
    path.write_text("a:1\n" * (MAX_ENTRIES + 1))
    with pytest.raises(IdentityError, match="a few are enough"):
        expand(f"@{path}")


def test_an_invites_addresses_are_pinned_to_its_peer() -> None:
    invite = Invite("demo", True, None, ("a:1", f"/dns/b/tcp/2/p2p/{OTHER}"), PEER)
    assert expand(f"c:3,{invite}") == [
        Address("c", 3),
        Address("a", 1, PEER),
        Address("b", 2, OTHER),
    ]
    assert expand_invites(f"c:3,{invite}") == [invite]
    assert expand_invites("c:3") == []
