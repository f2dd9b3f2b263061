"""A small HTTP client that keeps a server busy: many connections, one thread, prepared requests.

It reads answers to their end and fails on any that is not a success.
"""

import selectors
import socket
import time
from collections.abc import Callable, Iterator
from itertools import cycle
from typing import Final

TIMEOUT_SECONDS: Final = 30.0


class LoadError(Exception):
    """The server answered with a failure, or not at all."""


def request(method: str, path: str, *, headers: dict[str, str], body: bytes = b"") -> bytes:
    """Return the bytes of an HTTP/1.1 request."""
    lines = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    if body:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode() + body


class Load:
    """Sends requests in turn over `connections` connections, kept open where the server does."""

    def __init__(self, port: int, requests: list[bytes], *, connections: int) -> None:
        self._address = ("127.0.0.1", port)
        self._requests: Iterator[bytes] = cycle(requests)
        self._connections = connections
        self.latencies: list[float] = []

    def run(self, *, seconds: float) -> tuple[int, float]:
        """Send for `seconds`, wait for what is under way; return answers and seconds taken."""
        self.latencies = []
        started = time.perf_counter()
        self._exchange(lambda: time.perf_counter() - started < seconds)
        return len(self.latencies), time.perf_counter() - started

    def run_each(self, requests: list[bytes]) -> tuple[int, float]:
        """Send each of the requests once; return answers and seconds taken."""
        self.latencies = []
        self._requests = iter(requests)
        left = len(requests)

        def more() -> bool:
            nonlocal left
            left -= 1
            return left >= 0

        started = time.perf_counter()
        self._exchange(more)
        return len(self.latencies), time.perf_counter() - started

    def _exchange(self, more: Callable[[], bool]) -> None:
        with selectors.DefaultSelector() as selector:
            live = 0
            for _ in range(self._connections):
                if more():
                    self._begin(selector, _Exchange(self._connect(), next(self._requests)))
                    live += 1
            while live:
                ready = selector.select(TIMEOUT_SECONDS)
                if not ready:
                    raise LoadError("no answer in time")
                for key, _ in ready:
                    exchange: _Exchange = key.data
                    if not exchange.read():
                        continue
                    self.latencies.append(time.perf_counter() - exchange.started)
                    selector.unregister(exchange.socket)
                    if not more():
                        exchange.socket.close()
                        live -= 1
                    elif exchange.keeps_open:
                        self._begin(selector, _Exchange(exchange.socket, next(self._requests)))
                    else:
                        exchange.socket.close()
                        self._begin(selector, _Exchange(self._connect(), next(self._requests)))

    def _begin(self, selector: selectors.BaseSelector, exchange: "_Exchange") -> None:
        selector.register(exchange.socket, selectors.EVENT_READ, exchange)

    def _connect(self) -> socket.socket:
        connection = socket.create_connection(self._address, timeout=TIMEOUT_SECONDS)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection


class _Exchange:
    """One request, and its answer so far."""

    def __init__(self, connection: socket.socket, sent: bytes) -> None:
        self.socket = connection
        self.started = time.perf_counter()
        self.keeps_open = False
        self._received = b""
        self._expected: int | None = None
        connection.sendall(sent)

    def read(self) -> bool:
        """Take what has arrived; say whether the answer is whole."""
        chunk = self.socket.recv(65536)
        if not chunk:
            raise LoadError(f"cut off after {self._received[:200]!r}")
        self._received += chunk
        if self._expected is None:
            head, separator, _ = self._received.partition(b"\r\n\r\n")
            if not separator:
                return False
            if not head.startswith(b"HTTP/1.1 2"):
                raise LoadError(self._received.decode(errors="replace"))
            lowered = head.lower()
            length = lowered.partition(b"content-length:")[2].partition(b"\r\n")[0]
            self._expected = len(head) + 4 + int(length or 0)
            self.keeps_open = b"connection: close" not in lowered
        return len(self._received) >= self._expected
