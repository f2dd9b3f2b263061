"""A TCP proxy on loopback whose connections can be cut, stalled, half closed or refused."""

import contextlib
import socket
import struct
import threading

_CHUNK = 65_536
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class Proxy:
    """Forwards `port` to `target_port`; threads of its own, gone with the process.

    `held` is set once a stall has held something back.
    """

    def __init__(self, target_port: int) -> None:
        self.held = threading.Event()
        self._target_port = target_port
        self._flowing = threading.Event()
        self._flowing.set()
        self._refusing = threading.Event()
        self._connections: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Reset every connection."""
        for connection in self._taken():
            with contextlib.suppress(OSError):
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            _close(connection)

    def half_close(self) -> None:
        """End one direction of every connection, as a peer that stops sending does."""
        for connection in self._taken():
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_WR)

    def stall(self) -> None:
        """Forward nothing until `resume`."""
        self.held.clear()
        self._flowing.clear()

    def resume(self) -> None:
        """Forward again."""
        self._flowing.set()

    def refuse(self) -> None:
        """Reset every connection and accept none until `accept`, as a dead server does."""
        self._refusing.set()
        self.cut()

    def accept(self) -> None:
        """Accept connections again."""
        self._refusing.clear()

    def close(self) -> None:
        """Reset every connection and free the port."""
        self.refuse()
        self.resume()
        _close(self._server)

    def _taken(self) -> list[socket.socket]:
        with self._lock:
            return list(self._connections)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            if self._refusing.is_set():
                _close(client)
                continue
            try:
                server = socket.create_connection(("127.0.0.1", self._target_port), timeout=5)
            except OSError:
                _close(client)
                continue
            server.settimeout(None)
            with self._lock:
                self._connections |= {client, server}
            for source, sink in ((client, server), (server, client)):
                threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(_CHUNK):
                if not self._flowing.is_set():
                    self.held.set()
                self._flowing.wait()
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            _close(source)
            _close(sink)
        with self._lock:
            self._connections.discard(source)
            is_over = sink not in self._connections
        if is_over:
            _close(source)
            _close(sink)


def _close(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()
