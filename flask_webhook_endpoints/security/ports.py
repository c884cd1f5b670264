"""The ports that deliveries may use.

Source: WHATWG Fetch, "Port blocking".
"""

import re
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from functools import lru_cache

DEFAULT_PORTS = ("80", "443", "1024-65535")

_LARGEST = 65_535
_MAX_DIGITS = 5
_PORT_OR_RANGE = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?")

# Ports of other protocols, whose servers could take a line of the request for a command. Browsers block more below
# 1024.
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


@lru_cache
def ports_of(written: tuple[str | int, ...]) -> frozenset[int]:
    """Return the ports that a setting names; a range leaves out those that browsers block."""
    ports: set[int] = set()
    for each in written:
        first, last = _ends(each)
        ports.update([first] if first == last else set(range(first, last + 1)) - _BLOCKED)
    return frozenset(ports)


def check_port(written: str | int) -> None:
    """Raise `ValueError` unless it is a port, or a range such as `1024-65535`."""
    _ends(written)


@lru_cache
def pattern_of(ports: frozenset[int]) -> str:
    """Return a regular expression (ECMA-262) for these ports, written in five digits at most."""
    numbers = sorted(ports)
    alternatives = [
        f"0{{0,{_MAX_DIGITS - length}}}{digits}"
        for length in range(1, _MAX_DIGITS + 1)
        if (digits := _choice(numbers, 0, length, range(1, 10)))
    ]
    # The empty lookahead matches nothing.
    return f"(?:{'|'.join(alternatives)})" if alternatives else "(?!)"


def _choice(numbers: Sequence[int], start: int, length: int, digits: Iterable[int] = range(10)) -> str | None:
    """Return an expression for those of the sorted numbers that have `length` digits after those of `start`."""
    firsts: dict[str, str] = {}
    for digit in digits:
        rest = _block(numbers, start + digit * 10 ** (length - 1), length - 1)
        if rest is not None:
            firsts[rest] = f"{firsts.get(rest, '')}{digit}"
    alternatives = [f"[{first}]{rest}" if len(first) > 1 else f"{first}{rest}" for rest, first in firsts.items()]
    return f"(?:{'|'.join(alternatives)})" if len(alternatives) > 1 else next(iter(alternatives), None)


def _block(numbers: Sequence[int], start: int, length: int) -> str | None:
    size = 10**length
    found = bisect_left(numbers, start + size) - bisect_left(numbers, start)
    if found == size:
        return f"[0-9]{{{length}}}" if length > 1 else "[0-9]" * length
    return _choice(numbers, start, length) if found else None


def _ends(written: str | int) -> tuple[int, int]:
    found = _PORT_OR_RANGE.fullmatch(str(written))
    first, last = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
    if not 1 <= first <= last <= _LARGEST:
        raise ValueError(f'must be a port from 1 to 65535, or a range such as "1024-65535", not {written!r}.')
    return first, last
