"""A proxy between a host and its database or broker, that cuts the line; and an egress proxy."""

import base64
import socket
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress


class Proxy:
    """Stands between a host and its database or broker, and cuts the line."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._server = address
        self._lines: set[socket.socket] = set()
        self._cut_at: bytes | None = None
        self._after_it = False
        self.mode = "through"
        self.cuts = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self, mode: str = "dropped") -> None:
        """Close all lines; new ones are `dropped` or `hanging` (accepted, and no word on them) until `restore`."""
        self.mode = mode
        self._close_lines()

    def hang(self) -> None:
        """Let nothing more through, on lines that are open neither."""
        self.mode = "hanging"

    def restore(self) -> None:
        self.cut("through")

    def lead_to(self, address: tuple[str, int]) -> None:
        """Lead new lines elsewhere; open ones stay."""
        self._server = address

    def cut_at(self, text: bytes, *, after_it: bool = False) -> None:
        """Cut the line that says `text`, before or after the server hears it; the next lines are let through."""
        self._cut_at, self._after_it = text, after_it

    def close(self) -> None:
        self.cut()
        self._listener.close()

    def _close_lines(self) -> None:
        for line in list(self._lines):
            with suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                if self.mode == "dropped":
                    client.close()
                else:
                    threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, socket.create_connection(self._server) as server:
            self._lines |= {client, server}
            back = threading.Thread(target=self._pump, args=(server, client), daemon=True)
            back.start()
            self._pump(client, server)
            back.join()
            self._lines -= {client, server}

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65_536):
                if self._cut_at is not None and self._cut_at in data:
                    self._cut_at = None
                    self.cuts += 1
                    if self._after_it:
                        # Its answer, which the host never gets, says that the server has done it.
                        source.shutdown(socket.SHUT_WR)
                        sink.sendall(data)
                        continue
                    break
                if self.mode != "hanging":
                    sink.sendall(data)
        for line in (source, sink):
            with suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)


class EgressProxy:
    """An HTTP proxy in front of receivers, all of which listen on loopback, whatever their names."""

    def __init__(
        self, *, answer: bytes | None = None, user: str | None = None, tls: ssl.SSLContext | None = None
    ) -> None:
        """Open tunnels, for `user` (name:password) alone if there is one; or give each client the same answer."""
        self.requests: list[bytes] = []
        self._answer = answer
        self.user = user
        self._tls = tls
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=100)
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def url(self, user: str = "", *, host: str = "127.0.0.1") -> str:
        scheme = "http" if self._tls is None else "https"
        return f"{scheme}://{user and f'{user}@'}{host}:{self.port}"

    def close(self) -> None:
        # Without that, a thread that waits in `accept` keeps the port open.
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with (
            suppress(OSError),
            client if self._tls is None else self._tls.wrap_socket(client, server_side=True) as line,
        ):
            request = b""
            while not request.endswith(b"\r\n\r\n"):
                if not (more := line.recv(1)):
                    return
                request += more
            self.requests.append(request)
            if self._answer is not None:
                line.sendall(self._answer)
                line.recv(1)
                return
            password = base64.b64encode((self.user or "").encode())
            if self.user is not None and b"\r\nProxy-Authorization: Basic %s\r\n" % password not in request:
                line.sendall(page(407))
                return
            port = int(request.split(b" ")[1].rpartition(b":")[2])
            with socket.create_connection(("127.0.0.1", port)) as receiver:
                line.sendall(b"HTTP/1.1 200 Connection established\r\nVia: gate-7.corp.example\r\n\r\n")
                back = threading.Thread(target=_pump, args=(receiver.recv, line.sendall), daemon=True)
                back.start()
                _pump(line.recv, receiver.sendall)
                receiver.shutdown(socket.SHUT_RDWR)
                back.join()


def page(status: int) -> bytes:
    """Return a proxy's own answer, with names that no tenant may see."""
    text = b"<html>gate-7.corp.example: user svc-webhooks may not reach 10.7.0.4</html>"
    return b"HTTP/1.1 %d No\r\nProxy-Authenticate: Basic\r\nRetry-After: 7\r\nContent-Length: %d\r\n\r\n%s" % (
        status,
        len(text),
        text,
    )


def _pump(receive: Callable[[int], bytes], send: Callable[[bytes], None]) -> None:
    with suppress(OSError):
        while data := receive(65_536):
            send(data)
