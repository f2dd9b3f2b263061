"""A store that answers what a test has written down, however wrong; one answer for each request."""

import socketserver
import ssl
import threading
from collections.abc import Iterable
from typing import Self

HANG = b"hang"


def answer(status: int, body: bytes = b"", **headers: str) -> bytes:
    """Return the bytes of an answer; in a header's name `_` stands for `-`."""
    fields = {"Content_Length": str(len(body)), **headers}
    lines = [f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items()]
    return f"HTTP/1.1 {status} Words\r\n{''.join(lines)}\r\n".encode() + body


def fault(status: int, code: str, **headers: str) -> bytes:
    """Return an answer as S3 words its errors."""
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>m</Message></Error>"
    return answer(status, body.encode(), **headers)


class ScriptedStore:
    """Listens at `endpoint`; `requests` has the head of each request. An answer may be HANG.

    A connection ends after an answer that is cut short, and after the last one.
    """

    def __init__(self, answers: Iterable[bytes], *, tls: ssl.SSLContext | None = None) -> None:
        self.requests: list[str] = []
        self._answers = list(answers)
        self._is_over = threading.Event()
        store = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                while head := self._read_head():
                    store.requests.append(head)
                    sent = store._answers.pop(0)
                    if sent == HANG:
                        store._is_over.wait()
                        return
                    self.wfile.write(sent)
                    if not store._answers or store._answers[0] == b"" or _is_cut(sent):
                        return

            def _read_head(self) -> str:
                lines = []
                while (line := self.rfile.readline()) not in (b"\r\n", b""):
                    lines.append(line.decode())
                for line in lines:
                    name, _, value = line.partition(":")
                    if name.lower() == "content-length":
                        self.rfile.read(int(value))
                return "".join(lines)

        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        if tls:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        scheme = "https" if tls else "http"
        self.endpoint = "{}://{}:{}".format(scheme, *self._server.server_address[:2])

    def close(self) -> None:
        """Stop listening, and let go of whoever hangs."""
        self._is_over.set()
        self._server.shutdown()
        self._server.server_close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _is_cut(sent: bytes) -> bool:
    """Return whether an answer is shorter than it says, or none at all."""
    head, _, body = sent.partition(b"\r\n\r\n")
    return f"Content-Length: {len(body)}\r\n".encode() not in head + b"\r\n"
