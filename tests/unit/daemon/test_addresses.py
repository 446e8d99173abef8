import socket
from types import SimpleNamespace

import psutil
import pytest

from distqatd.config.sections import NetworkConfig
from distqatd.daemon.addresses import advertised, is_wildcard, machine_hosts, reachability


def interfaces(*hosts):
    entries = [
        SimpleNamespace(family=socket.AF_INET6 if ":" in host else socket.AF_INET, address=host)
        for host in hosts
    ]
    return {"eth0": [*entries, SimpleNamespace(family=17, address="00:11:22:33:44:55")]}


def test_what_is_announced_by_hand_is_all_that_is_announced():
    config = NetworkConfig(announce=("/dns/a.example/tcp/1",), public_ip="198.51.100.1")
    assert advertised(config, 29700) == ("/dns/a.example/tcp/1",)


def test_the_public_address_comes_first(monkeypatch):
    monkeypatch.setattr(psutil, "net_if_addrs", lambda: interfaces("10.0.0.5"))
    config = NetworkConfig(public_ip="198.51.100.1")
    assert advertised(config, 7) == ("/ip4/198.51.100.1/tcp/7", "/ip4/10.0.0.5/tcp/7")


def test_a_daemon_that_listens_on_one_address_announces_only_that():
    assert advertised(NetworkConfig(host="127.0.0.1"), 7) == ("/ip4/127.0.0.1/tcp/7",)


def test_global_addresses_come_before_private_ones_and_link_local_ones_never(monkeypatch):
    found = interfaces("127.0.0.1", "10.0.0.5", "fe80::1%eth0", "8.8.8.8", "::1")
    monkeypatch.setattr(psutil, "net_if_addrs", lambda: found)
    assert machine_hosts() == ["8.8.8.8", "10.0.0.5"]


def test_loopback_is_the_answer_of_a_machine_that_has_nothing_else(monkeypatch):
    monkeypatch.setattr(psutil, "net_if_addrs", lambda: interfaces("127.0.0.1", "::1"))
    assert machine_hosts() == ["127.0.0.1"]


@pytest.mark.parametrize(
    ("host", "expected"), [("0.0.0.0", True), ("::", True), ("10.0.0.1", False), ("a.b", False)]
)
def test_a_wildcard_is_an_unspecified_address(host, expected):
    assert is_wildcard(host) is expected


@pytest.mark.parametrize(
    ("addresses", "expected"),
    [
        (("/ip4/127.0.0.1/tcp/1",), "loopback"),
        (("/ip4/127.0.0.1/tcp/1", "/ip4/10.0.0.1/tcp/1"), "private"),
        (("/ip4/10.0.0.1/tcp/1", "/ip4/8.8.8.8/tcp/1"), "public"),
        (("/dns/a.example/tcp/1",), "public"),
    ],
)
def test_reachability_is_that_of_the_best_address(addresses, expected):
    assert reachability(addresses) == expected
