"""A proxy between a host and its database or broker, that cuts the line."""

import socket
import threading
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
