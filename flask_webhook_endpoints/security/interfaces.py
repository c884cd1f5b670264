"""The machine's own addresses: an address may be public, and still be that of this machine."""

import socket
from ipaddress import IPv4Address, IPv6Address

_DISCARD = 9
"""A port that nothing is sent to: to connect by UDP only asks the kernel for a route."""


def is_own(address: IPv4Address | IPv6Address) -> bool:
    """Return whether one of the machine's interfaces has the address now.

    The kernel reaches its own addresses from the same address, and all others from another one.
    """
    family = socket.AF_INET if isinstance(address, IPv4Address) else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((str(address), _DISCARD))
            own: str = probe.getsockname()[0]
    except OSError:
        # No route leads to the address, or this machine lacks its family: it is not on this machine.
        return False
    return own == str(address)
