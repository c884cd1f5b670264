"""The egress policy: which URLs tenants may register, and which addresses deliveries may reach.

Source: IANA IPv4 and IPv6 Special-Purpose Address Registries; RFC 3986 for the URL. The address table is our own,
because `ipaddress.is_global` differs between Python versions and lets 6to4, NAT64 and multicast through.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network

from flask_webhook_endpoints.errors import BlockedAddress, InvalidURL
from flask_webhook_endpoints.security.interfaces import is_own
from flask_webhook_endpoints.security.ports import DEFAULT_PORTS, pattern_of, ports_of

MAX_URL_LENGTH = 2048

_NOT_PUBLIC_IPV4 = tuple(
    IPv4Network(network)
    for network in (
        "0.0.0.0/8",  # this network
        "10.0.0.0/8",  # private
        "100.64.0.0/10",  # carrier-grade NAT
        "127.0.0.0/8",  # loopback
        "168.63.129.16/32",  # a cloud's metadata and health service, though globally routable
        "169.254.0.0/16",  # link-local, and the clouds' metadata services
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # protocol assignments
        "192.0.2.0/24",  # documentation
        "192.88.99.0/24",  # 6to4 relays, deprecated
        "192.168.0.0/16",  # private
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, and broadcast
    )
)
_UNICAST_IPV6 = IPv6Network("2000::/3")
_NOT_PUBLIC_IPV6 = tuple(
    IPv6Network(network)
    for network in (
        "2001::/23",  # protocol assignments: Teredo, ORCHID, benchmarks
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4, which carries any IPv4 address
        "3fff::/20",  # documentation
    )
)

# One parser decides what the host is: a second one could read the same URL differently.
_URL = re.compile(
    r"(?P<scheme>https?)://"
    r"(?:\[(?P<ipv6>[^\[\]@/?#]*)\]|(?P<name>[^\[\]@:/?#]*))"
    r"(?::(?P<port>[^@:/?#]*))?"
    r"(?P<rest>[/?].*)?",
    re.IGNORECASE | re.DOTALL,
)
_LABEL = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_\-]{0,61}[A-Za-z0-9_])?")
_NUMBER = re.compile(r"[0-9]+|0[xX][0-9A-Fa-f]*")

_DEFAULT_PORTS = {"http": 80, "https": 443}

# The rules of `check_url` for the OpenAPI document, whose regular expressions (ECMA-262) have no flags.
_OCTET = "(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_HOST = (
    r"(?:"
    r"\[[0-9A-Fa-f:.]{2,45}\]"
    rf"|{_OCTET}(?:\.{_OCTET}){{3}}"
    rf"|(?![^:\/?]{{254}})(?:{_LABEL.pattern}\.)*(?!(?:{_NUMBER.pattern})\.?(?:[:\/?]|$)){_LABEL.pattern}\.?"
    r")"
)
_REST = r'(?:[\/?][!"$-\[\]-~]*)?'


@dataclass(frozen=True, kw_only=True)
class EgressPolicy:
    """The rules of one host: which schemes, networks and ports deliveries may use."""

    require_https: bool = False
    allowed_networks: tuple[IPv4Network | IPv6Network, ...] = ()
    blocked_networks: tuple[IPv4Network | IPv6Network, ...] = ()
    allowed_ports: frozenset[int] = field(default_factory=lambda: ports_of(DEFAULT_PORTS), repr=False)

    @classmethod
    def of(
        cls,
        *,
        require_https: bool,
        allowed_networks: Iterable[str],
        blocked_networks: Iterable[str] = (),
        allowed_ports: Iterable[str | int] = DEFAULT_PORTS,
    ) -> "EgressPolicy":
        """Make a policy from the settings of these names."""
        return cls(
            require_https=require_https,
            allowed_networks=tuple(ip_network(network) for network in allowed_networks),
            blocked_networks=tuple(ip_network(network) for network in blocked_networks),
            allowed_ports=ports_of(tuple(allowed_ports)),
        )

    @property
    def url_pattern(self) -> str:
        """The rules of `check_url` as a regular expression (ECMA-262), except which addresses are allowed."""
        schemes = {"[Ss]": "https"} if self.require_https else {"": "http", "[Ss]": "https"}
        # A URL that names no port has its scheme's, which may not be allowed.
        portless = {s: _DEFAULT_PORTS[scheme] in self.allowed_ports for s, scheme in schemes.items()}
        if len(portless) > 1 and len(set(portless.values())) == 1:
            portless = {"[Ss]?": portless["[Ss]"]}
        port = f"(?::{pattern_of(self.allowed_ports)})"
        urls = [f"[Hh][Tt][Tt][Pp]{s}://{_HOST}{port}{'?' if may else ''}{_REST}" for s, may in portless.items()]
        return f"^(?:{'|'.join(urls)})$"

    def allows(self, address: IPv4Address | IPv6Address) -> bool:
        """Return whether a delivery may connect to this address."""
        if any(address in network for network in self.allowed_networks):
            return True
        is_blocked = not is_public(address) or any(address in network for network in self.blocked_networks)
        return not is_blocked and not is_own(address)

    def check_url(self, url: str) -> None:
        """Raise `InvalidURL` unless an endpoint may have this URL; a host name in it is not resolved."""
        _check_characters(url)
        parts = _URL.fullmatch(url)
        if parts is None:
            raise InvalidURL(_why_not_a_url(url))
        if self.require_https and parts["scheme"].lower() != "https":
            raise InvalidURL("Must start with https://.")
        if parts["port"] is not None and not _is_port(parts["port"]):
            raise InvalidURL("Must have a port from 1 to 65535, or none.")
        address = _ipv6(parts["ipv6"]) if parts["name"] is None else _ipv4_or_name(parts["name"])
        if address is not None and not self.allows(address):
            raise BlockedAddress("Must not name an address that is not public.")
        if int(parts["port"] or _DEFAULT_PORTS[parts["scheme"].lower()]) not in self.allowed_ports:
            raise InvalidURL("Must have a port that is allowed: by default 80, 443, and most from 1024 to 65535.")


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Return whether an address is public: any host on the Internet may have it."""
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _NOT_PUBLIC_IPV4)
    return (
        address in _UNICAST_IPV6
        and address.scope_id is None
        and not any(address in network for network in _NOT_PUBLIC_IPV6)
    )


def check_network(network: str) -> None:
    """Raise `ValueError` unless `network` is a CIDR network without host bits."""
    try:
        ip_network(network)
    except ValueError as error:
        raise ValueError(f"must be a network in CIDR form: {error}.") from None


def _check_characters(url: str) -> None:
    if len(url) > MAX_URL_LENGTH:
        raise InvalidURL(f"Longer than maximum length {MAX_URL_LENGTH}.")
    if not url.isascii():
        raise InvalidURL("Must be ASCII: write an international name as xn--…, other characters as %XX.")
    if not url.isprintable() or " " in url or "\\" in url:
        raise InvalidURL("Must not contain spaces, backslashes or control characters.")
    if "#" in url:
        raise InvalidURL("Must not have a fragment (#).")


def _why_not_a_url(url: str) -> str:
    authority = re.match(r"https?://([^/?]*)", url, re.IGNORECASE)
    if authority is None:
        return "Must be an absolute URL that starts with http:// or https://."
    if "@" in authority[1]:
        return "Must not have a user name or password."
    return "Must have a valid host and port."


def _is_port(port: str) -> bool:
    # The URL is ASCII already. At most five digits, so that int() stays cheap.
    return port.isdigit() and len(port) <= 5 and 1 <= int(port) <= 65535  # noqa: PLR2004 - the range of TCP


def _ipv6(host: str) -> IPv6Address:
    try:
        address = IPv6Address(host)
    except ValueError:
        raise InvalidURL("Must have a valid IPv6 address in the brackets.") from None
    if address.scope_id is not None:
        raise InvalidURL("Must not have an IPv6 zone.")
    return address


def _ipv4_or_name(host: str) -> IPv4Address | None:
    name = host.removesuffix(".")
    labels = name.split(".")
    if _NUMBER.fullmatch(labels[-1]):
        # Resolvers read 127.1, 0x7f.1 and 2130706433 as 127.0.0.1, so accept one spelling only.
        try:
            return IPv4Address(host)
        except ValueError:
            raise InvalidURL("Must write an IPv4 address as four decimal numbers.") from None
    if len(name) > 253 or not all(_LABEL.fullmatch(label) for label in labels):  # noqa: PLR2004 - RFC 1035
        raise InvalidURL("Must have a valid host name.")
    return None
