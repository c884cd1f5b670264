"""The ports that deliveries may use.

Source: WHATWG Fetch, "Port blocking".
"""

import re
from collections.abc import Iterable

DEFAULT_PORTS = ("80", "443", "1024-65535")

_LARGEST = 65_535
_PORT_OR_RANGE = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?")

# Of other protocols, which could take a line of the request for a command. Below 1024, browsers block more.
_BLOCKED = frozenset(
    {
        *(1719, 1720),  # H.323
        1723,  # PPTP
        2049,  # NFS
        3659,  # Apple's SASL
        4045,  # NFS locks
        4190,  # ManageSieve
        *(5060, 5061),  # SIP
        6000,  # X11
        6566,  # scanners
        *(6665, 6666, 6667, 6668, 6669, 6679, 6697),  # IRC
        10080,  # Amanda
    }
)


def ports_of(written: Iterable[str | int]) -> frozenset[int]:
    """Return the ports that a setting names; a range leaves out those that browsers block."""
    ports: set[int] = set()
    for each in written:
        first, last = _ends(each)
        ports.update([first] if first == last else set(range(first, last + 1)) - _BLOCKED)
    return frozenset(ports)


def check_port(written: str | int) -> None:
    """Raise `ValueError` unless it is a port, or a range such as `1024-65535`."""
    _ends(written)


def _ends(written: str | int) -> tuple[int, int]:
    found = _PORT_OR_RANGE.fullmatch(str(written))
    first, last = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
    if not 1 <= first <= last <= _LARGEST:
        raise ValueError('must be a port from 1 to 65535, or a range such as "1024-65535".')
    return first, last
