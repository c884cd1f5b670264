"""A name server on loopback, whose answers are an attacker's or the network's; and a worker that asks it."""

import socket
import struct
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from ipaddress import ip_address
from types import MappingProxyType
from typing import Any

import aiodns

_KINDS = {4: 1, 6: 28}
"""The records A and AAAA, by the version of their addresses."""

_MAX_DATAGRAM = 1200


class NameServer:
    """Answers as `answers` says, lookup by lookup, the last one for good; a name that begins with `hang` hangs."""

    def __init__(self) -> None:
        self.answers: dict[str, Sequence[Sequence[str]]] = {}
        self.asked: set[str] = set()
        self._times: Counter[tuple[str, int]] = Counter()
        self._tcp = socket.create_server(("127.0.0.1", 0))
        self.port = self._tcp.getsockname()[1]
        self._udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._udp.bind(("127.0.0.1", self.port))
        for serve in (self._serve_udp, self._serve_tcp):
            threading.Thread(target=serve, daemon=True).start()

    def close(self) -> None:
        for each in (self._udp, self._tcp):
            # Threads that wait for a request go on then, and end.
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _serve_udp(self) -> None:
        with suppress(OSError):
            while data := self._udp.recvfrom(4096):
                query, client = data
                if query and (answer := self._answer(query)):
                    if len(answer) > _MAX_DATAGRAM:
                        # Without records, and with the bit that says: ask again by TCP.
                        answer = answer[:2] + b"\x83\x80\0\1\0\0\0\0\0\0" + query[12:]
                    self._udp.sendto(answer, client)

    def _serve_tcp(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._tcp.accept()
                with client, client.makefile("rb") as lines, suppress(OSError, struct.error):
                    (length,) = struct.unpack(">H", lines.read(2))
                    if answer := self._answer(lines.read(length)):
                        client.sendall(struct.pack(">H", len(answer)) + answer)

    def _answer(self, query: bytes) -> bytes:
        labels, at = [], 12
        while query[at]:
            labels.append(query[at + 1 : at + 1 + query[at]].decode().lower())
            at += query[at] + 1
        name, question = ".".join(labels), query[12 : at + 5]
        (kind,) = struct.unpack(">H", question[-4:-2])
        self.asked.add(name)
        if name.startswith("hang"):
            return b""
        known = self.answers.get(name)
        addresses: Sequence[str] = ()
        if known is not None:
            addresses = known[min(self._times[name, kind], len(known) - 1)]
            self._times[name, kind] += 1
        packed = [parsed.packed for parsed in map(ip_address, addresses) if _KINDS[parsed.version] == kind]
        records = [b"\xc0\x0c" + struct.pack(">HHIH", kind, 1, 0, len(each)) + each for each in packed]
        code = 0x8180 if known is not None else 0x8183
        return query[:2] + struct.pack(">HHHHH", code, 1, len(records), 0, 0) + question + b"".join(records)


def ask(port: int) -> None:
    """Have all workers of this process ask a name server on loopback."""
    aiodns.DNSResolver = partial(_real, nameservers=[f"127.0.0.1:{port}"])  # type: ignore[misc]


_real: Any = aiodns.DNSResolver


@contextmanager
def answering(answers: Mapping[str, Sequence[Sequence[str]]] = MappingProxyType({})) -> Iterator[NameServer]:
    """Be the name server of this process."""
    server = NameServer()
    server.answers.update(answers)
    ask(server.port)
    try:
        yield server
    finally:
        aiodns.DNSResolver = _real  # type: ignore[misc]
        server.close()
