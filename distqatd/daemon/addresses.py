"""Where this daemon can be reached: what is announced, public first, or what the machine has."""

import ipaddress
import socket

import psutil

from distqatd.config.sections import NetworkConfig
from distqatd.net.address import Address

MAX_ADDRESSES = 4


def advertised(config: NetworkConfig, port: int) -> tuple[str, ...]:
    """Return the addresses others should try, best first, as multiaddrs without a peer id.

    None in client mode: they would try in vain, and wait.
    """
    if config.client_mode:
        return ()
    if config.announce:
        return config.announce[:MAX_ADDRESSES]
    hosts = [config.public_ip] if config.public_ip else []
    hosts += machine_hosts() if is_wildcard(config.host) else [config.host]
    return tuple(str(Address(host, port)) for host in hosts[:MAX_ADDRESSES])


def is_wildcard(host: str) -> bool:
    """Return whether listening there means every interface."""
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


def machine_hosts() -> list[str]:
    """Return this machine's addresses that others may reach, global before private ones.

    Loopback is the answer only of a machine that has nothing else.
    """
    entries = [entry for interface in psutil.net_if_addrs().values() for entry in interface]
    found = [
        ipaddress.ip_address(entry.address.partition("%")[0])
        for entry in entries
        if entry.family in (socket.AF_INET, socket.AF_INET6)
    ]
    usable = [ip for ip in found if not ip.is_loopback and not ip.is_link_local]
    usable.sort(key=lambda ip: (ip.is_private, ip.version))
    return [str(ip) for ip in usable] or ["127.0.0.1"]


def reachability(addresses: tuple[str, ...]) -> str:
    """Return from where the best of the addresses can be reached: public, private or loopback.

    Without any address nobody can connect: unreachable.
    """
    if not addresses:
        return "unreachable"
    best = "loopback"
    for text in addresses:
        host = Address.parse(text).host
        try:
            ip = ipaddress.ip_address(host)
        except ValueError:
            return "public"
        if ip.is_global:
            return "public"
        if not ip.is_loopback:
            best = "private"
    return best
