import pytest

from distqatd.net.gate import Gate, GateLimits, plain_host


def test_one_address_gets_only_its_part():
    gate = Gate(GateLimits(max_per_address=2, max_total=3))
    assert [gate.enter(host) for host in ("1.1.1.1", "1.1.1.1", "1.1.1.1", "2.2.2.2")] == [
        True,
        True,
        False,
        True,
    ]
    assert not gate.enter("3.3.3.3")
    gate.leave("1.1.1.1")
    assert gate.enter("3.3.3.3")
    assert gate.num_connections == 3


def test_handshakes_in_progress_are_bounded():
    gate = Gate(GateLimits(max_handshakes=1))
    assert gate.enter("1.1.1.1")
    assert not gate.enter("2.2.2.2")
    gate.handshake_over()
    assert gate.enter("2.2.2.2")


def test_an_ipv6_network_is_one_place():
    gate = Gate(GateLimits(max_per_address=1))
    assert gate.enter("2001:db8::1")
    assert not gate.enter("2001:db8::2")
    assert gate.enter("2001:db8:0:1::1")


@pytest.mark.parametrize(
    ("seen", "plain"),
    [("::ffff:1.2.3.4", "1.2.3.4"), ("fe80::1%eth0", "fe80::1"), ("1.2.3.4", "1.2.3.4")],
)
def test_hosts_are_written_in_one_way(seen, plain):
    assert plain_host(seen) == plain
