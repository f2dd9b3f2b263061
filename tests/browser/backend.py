"""A backend-for-frontend in miniature: it serves a web app and passes its API calls on.

The browser has no credentials of the service's: this adds the gateway token and says which user
is signed in.
"""

import http.client
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

GATEWAY_TOKEN = secrets.token_hex(32)  # one, so that whoever asks is given the same site
PASSED_ON = ("Content-Type", "Retry-After", "ETag", "X-Request-ID")
TYPES = {".html": "text/html", ".js": "text/javascript"}


@contextmanager
def backend(service_url: str, gateway_token: str, files: dict[str, Path]) -> Iterator[str]:
    """Serve `files` by path and the service below /api/ for the block; yield the URL."""

    class Handler(BaseHTTPRequestHandler):
        user_id = str(uuid4())

        def do_GET(self) -> None:
            if self.path.startswith("/api/"):
                self.pass_on()
            elif self.path in files:
                file = files[self.path]
                self.answer(200, {"Content-Type": TYPES[file.suffix]}, file.read_bytes())
            else:
                self.answer(404, {}, b"")

        def do_POST(self) -> None:
            self.pass_on()

        def pass_on(self) -> None:
            connection = http.client.HTTPConnection(str(urlsplit(service_url).netloc))
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            headers = {
                "Authorization": f"Bearer {gateway_token}",
                "X-User-ID": self.user_id,
                "Content-Type": "application/json",
            }
            connection.request(self.command, self.path, body, headers)
            response = connection.getresponse()
            told = {name: response.headers[name] for name in PASSED_ON if name in response.headers}
            self.answer(response.status, told, response.read())
            connection.close()

        def answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
