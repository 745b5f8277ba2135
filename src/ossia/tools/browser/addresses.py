"""Which addresses are public: those that a stranger may make this machine connect to."""

from __future__ import annotations

import re
import socket
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network

from ossia.tools.browser.needed import extra

Address = IPv4Address | IPv6Address
NAT64 = IPv6Network("64:ff9b::/96")
# an IPv4 address as resolvers take it: of one to four numbers, also octal or hexadecimal ones
_NUMBERS = re.compile(r"(?:0x[0-9a-f]+|[0-9]+)(?:\.(?:0x[0-9a-f]+|[0-9]+)){0,3}")
# `is_global` says of these that they are public, and they are not to be asked
CLOSED = tuple(
    ip_network(each)
    for each in (
        "192.88.99.0/24",  # relays of 6to4, deprecated
        "fec0::/10",  # site-local
        "64:ff9b:1::/48",  # NAT64 of a network's own
        "2001::/23",  # of protocols, Teredo and ORCHID among them
        "::/96",  # v4-compatible, deprecated
        "5f00::/16",  # segment routing
        "3fff::/20",  # documentation
    )
)


def is_public(address: Address) -> bool:
    """Also not if an IPv4 address that is not public is written inside of it."""
    inner = _inside(address)
    if inner is not None:
        return is_public(inner)
    if any(address in network for network in CLOSED if network.version == address.version):
        return False
    is_odd = address.is_multicast or address.is_reserved or address.is_unspecified
    return address.is_global and not is_odd


def parsed(text: str) -> Address:
    """The address, without the name of an interface. Raises `ValueError`."""
    return ip_address(text.partition("%")[0])


def _inside(address: Address) -> IPv4Address | None:
    """The IPv4 address that an IPv6 address stands for: mapped, translated or tunnelled. Of Teredo
    that of the client; its server is checked no less.
    """
    if isinstance(address, IPv4Address):
        return None
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if address.teredo is not None:
        server, client = address.teredo
        return client if is_public(server) else server
    if address in NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return None


def host_name(host: str) -> str:
    """A host, with or without its port, as there is one way to write it: small letters, other
    alphabets as DNS has them (`xn--`), addresses in their usual form. What is no host is kept.
    """
    name = host.strip().lower()
    if name.startswith("["):
        name = name[1:].partition("]")[0]
    elif name.count(":") == 1:
        name = name.partition(":")[0]
    if not name.isascii():
        name = _encoded(name)
    name = name.strip(".")
    if _NUMBERS.fullmatch(name):
        try:
            name = socket.inet_ntoa(socket.inet_aton(name))
        except OSError:  # a number that is too large
            return name
    try:
        address = parsed(name)
    except ValueError:
        return name
    return str(_inside(address) or address)


def _encoded(name: str) -> str:
    with extra():
        import idna
    try:
        return idna.encode(name, uts46=True).decode()
    except UnicodeError:
        return name
