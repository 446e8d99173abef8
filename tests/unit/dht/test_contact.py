import pytest

from distqatd.base.errors import RemoteProtocolError
from distqatd.dht.contact import Contact, endpoint_of, is_loopback, pack_ip, unpack_ip

KEY = b"p" * 32


@pytest.mark.parametrize("ip", ["10.0.0.1", "127.0.0.1", "2001:db8::1", "::1"])
def test_a_contact_survives_the_wire(ip: str) -> None:
    contact = Contact.parse(Contact(KEY, ip, 4000).wire())
    assert (contact.public_key, contact.endpoint) == (KEY, (ip, 4000))


@pytest.mark.parametrize(
    "ip", ["0.0.0.0", "224.0.0.1", "255.255.255.255", "::", "ff02::1", "fe80::1", "::ffff:1.2.3.4"]
)
def test_an_address_no_node_can_have_is_refused(ip: str) -> None:
    with pytest.raises(RemoteProtocolError):
        unpack_ip(pack_ip(ip))


@pytest.mark.parametrize(
    "fields",
    [
        7,
        [],
        [1, 2, 3, 4],
        [KEY, b"\x7f\x00\x00\x01", 99999],
        [KEY, b"\x7f\x00\x00\x01", 0],
        [KEY, b"\x7f\x00\x00\x01", "x"],
        [KEY, b"\x7f\x00\x00\x01", True],
        [KEY, None, 80],
        [KEY, b"nonexistent.invalid", 80],
        [KEY, "127.0.0.1", 80],
        [b"\x01", b"\x7f\x00\x00\x01", 80],
    ],
    ids=str,
)
def test_a_malformed_contact_is_refused(fields: object) -> None:
    with pytest.raises(RemoteProtocolError):
        Contact.parse(fields)


def test_mapped_ipv4_addresses_are_written_as_ipv4() -> None:
    assert endpoint_of(("::ffff:10.0.0.1", 5, 0, 0)) == ("10.0.0.1", 5)
    assert endpoint_of(("::FFFF:10.0.0.1", 5, 0, 0)) == ("10.0.0.1", 5)
    assert endpoint_of(("2001:db8::1", 5, 0, 0)) == ("2001:db8::1", 5)


def test_an_address_with_a_zone_is_refused() -> None:
    with pytest.raises(RemoteProtocolError, match="zone"):
        endpoint_of(("fe80::1%eth0", 5, 0, 2))


def test_loopback_is_recognised() -> None:
    assert is_loopback("127.0.0.9")
    assert is_loopback("::1")
    assert not is_loopback("10.0.0.1")
