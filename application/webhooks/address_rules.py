"""Where webhooks may go: the rules for an address, and for what a name resolves to.

A subscriber chooses where the desk connects to. So that nobody reaches through the desk what only the desk can reach,
addresses that are not public are refused, unless a setting allows them (OWASP, Server-Side Request Forgery). The rules
hold when a subscription is made, and again for each connection: it goes to an address that was checked, not to a name.
"""

import re
import socket
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from urllib.parse import urlsplit

import msgspec

MOST_URL = 2_000
LEAST_FREE_PORT = 1024  # below it, only the two of HTTP: whatever else listens there is no webhook receiver
Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
Resolve = Callable[[str, int], Sequence[str]]
_PLAIN = re.compile(r"[!$%&'()*+,\-./0-9:;=?@A-Z\[\]_a-z~]+")  # the characters of RFC 3986, without "#"
_AUTHORITY = re.compile(r"(\[[^\[\]]*\]|[^\[\]:@]*)(:\d{1,5})?")
_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")
_NUMBER = re.compile(r"\d+|0x[0-9a-f]*")  # a host whose last label is one is an IPv4 address for many programs
_NAT64 = IPv6Network("64:ff9b::/96")
_GLOBAL_UNICAST = IPv6Network("2000::/3")
_ISATAP = (0x0000_5EFE, 0x0200_5EFE)
_NOT_PUBLIC: tuple[Network, ...] = (
    # beside what the library knows, or knows in some versions only
    IPv4Network("192.0.0.0/24"),  # IETF protocol assignments, one cloud's metadata among them
    IPv6Network("2001::/23"),  # the same, Teredo among them
    IPv4Network("168.63.129.16/32"),  # the platform service of a cloud, under a public address
    IPv4Network("192.88.99.0/24"),  # 6to4 relays
    IPv6Network("3fff::/20"),  # documentation
    IPv6Network("fec0::/10"),  # site-local
)


class UrlRefused(ValueError):
    """The desk sends no webhook there; the message says why and what is taken."""


class Rules(msgspec.Struct, frozen=True):
    """What the settings allow: networks that are not public, plain HTTP, and (where there are any) only these hosts.

    A host is a name, `*.` and a domain for all names below it, or an address.
    """

    networks: tuple[Network, ...] = ()
    http: bool = False
    hosts: tuple[str, ...] = ()


class Target(msgspec.Struct, frozen=True):
    """A URL, taken apart once: nothing reads its text again. `path` has the query with it."""

    secure: bool
    host: str
    port: int
    path: str

    @property
    def authority(self) -> str:
        """What the header Host says."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.secure else 80) else f"{host}:{self.port}"


def read_url(url: str, rules: Rules) -> Target:
    """The parts of a URL that webhooks can be sent to, as far as its text tells. Raises UrlRefused."""
    if len(url) > MOST_URL or not _PLAIN.fullmatch(url):
        raise UrlRefused(
            f"the URL has to be at most {MOST_URL} characters of ASCII, without blanks, a fragment or a backslash;"
            " write a name beyond ASCII as xn--…"
        )
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise UrlRefused("the host or the port of the URL cannot be read") from None
    if parts.scheme != "https" and not (rules.http and parts.scheme == "http"):
        raise UrlRefused("the URL has to begin with https://" + (" or http://" if rules.http else ""))
    if "@" in parts.netloc:
        raise UrlRefused("the URL must not have a user or a password: the signature says who sends")
    if not _AUTHORITY.fullmatch(parts.netloc):
        raise UrlRefused("the host or the port of the URL cannot be read")
    port = port if port is not None else 443 if parts.scheme == "https" else 80
    if port < LEAST_FREE_PORT and port not in (80, 443):
        raise UrlRefused(f"the port has to be 443, 80, or {LEAST_FREE_PORT} and above")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    target = Target(parts.scheme == "https", _host(host, "[" in parts.netloc), port, path)
    if rules.hosts and not any(fnmatchcase(target.host, pattern) for pattern in rules.hosts):
        raise UrlRefused(f"the desk sends webhooks to {', '.join(rules.hosts)} only")
    return target


def _host(host: str, bracketed: bool) -> str:
    """A name or an address in the one form that every program reads alike. Raises UrlRefused."""
    labels = host.split(".")
    if bracketed or _NUMBER.fullmatch(labels[-1]):
        address = _literal(host)
        if address is None or "%" in host:
            raise UrlRefused("the host is no IP address: write 203.0.113.7, or [2001:db8::7]")
        return str(address)
    if len(host) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise UrlRefused("the host has to be a name like desk.example.org, or an IP address")
    return host


def _literal(host: str) -> Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None


def look_up(host: str, port: int) -> list[str]:
    """Every address of a name, by the name service of this machine. Raises OSError when there is none."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(info[4][0]) for info in found))


def addresses(target: Target, rules: Rules, resolve: Resolve = look_up) -> list[str]:
    """The addresses that may be connected to: one look-up, and every address of it has to be allowed.

    Raises UrlRefused, also when only some of them are not allowed, and when the name is not known.
    """
    literal = _literal(target.host)
    try:
        found = [str(literal)] if literal else list(resolve(target.host, target.port))
    except (OSError, UnicodeError):
        found = []
    if not found:
        raise UrlRefused(f"the name {target.host} is not known")
    for text in found:
        address = _literal(text)
        if address is None or not is_allowed(address, rules):
            raise UrlRefused(_not_allowed(text))
    return found


def _not_allowed(address: str) -> str:
    return (
        f"{address} is not a public address, and DESKLEDGER_WEBHOOK_ALLOW_NETWORKS, which only whoever runs the desk"
        " can set, does not name its network"
    )


def is_allowed(address: Address, rules: Rules) -> bool:
    """Whether the desk may connect there."""
    if isinstance(address, IPv6Address):
        if address.scope_id is not None:
            return False  # it means something on one machine only
        address = address.ipv4_mapped or address  # a mapped address is the IPv4 one, whoever wrote it how
    return any(address in network for network in rules.networks) or is_public(address)


def is_public(address: Address) -> bool:
    """Whether anybody on the internet could connect there too, through whatever IPv4 address it may lead to."""
    if any(address in network for network in _NOT_PUBLIC):
        return False
    if isinstance(address, IPv6Address):
        known = (address in _GLOBAL_UNICAST and address.is_global) or address in _NAT64
        return known and all(is_public(inner) for inner in _embedded(address))
    return address.is_global and not address.is_multicast


def _embedded(address: IPv6Address) -> Iterator[IPv4Address]:
    """The IPv4 addresses to which gateways on the way would pass it on."""
    last = IPv4Address(int(address) & 0xFFFF_FFFF)
    if address in _NAT64 or (int(address) >> 32) & 0xFFFF_FFFF in _ISATAP:
        yield last
    if address.sixtofour:
        yield address.sixtofour
    yield from address.teredo or ()


def read_hosts(text: str) -> tuple[str, ...]:
    """The hosts of a setting. Raises ValueError."""
    hosts = tuple(part.strip().lower() for part in text.split(","))
    if not all(_literal(host) or all(map(_LABEL.fullmatch, host.removeprefix("*.").split("."))) for host in hosts):
        raise ValueError("hosts, separated by commas, like hooks.example.org,*.example.com,203.0.113.7")
    return hosts


def read_rules(networks: str | None, http: bool, hosts: str | None) -> Rules:
    """The rules that settings make; the networks have been read before."""
    allowed = tuple(ip_network(part.strip()) for part in networks.split(",")) if networks else ()
    return Rules(allowed, http, read_hosts(hosts) if hosts else ())
