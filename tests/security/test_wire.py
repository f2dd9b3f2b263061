"""Bytes on the wire that no HTTP library would send, against gunicorn as it is deployed."""

import json
import socket
from urllib.parse import urlsplit

import pytest
import requests

from tests.security.service import Web
from tests.security.tokens import ALICE, token

PATH = "/api/media/request-upload"
BODY = json.dumps({"content_type": "image/jpeg", "size_bytes": 1000}).encode()


def send(web: Web, head: str, body: bytes = b"") -> int:
    """Send a head, with token and Host, and a body; return the status, or 0 for a hang-up."""
    lines = head.splitlines()
    lines[1:1] = [f"Authorization: Bearer {token()}", "Connection: close"]
    if not any(line.lower().startswith("host:") for line in lines):
        lines.insert(1, "Host: localhost")
    with socket.create_connection(("127.0.0.1", urlsplit(web.url).port), timeout=20) as connection:
        try:
            # At once: what the server had not read when it hangs up would make its answer lost.
            connection.sendall("\r\n".join([*lines, "", ""]).encode("latin-1") + body)
            connection.shutdown(socket.SHUT_WR)
            answer = connection.makefile("rb").readline()
        except OSError:  # hung up on while sending
            return 0
    return int(answer.split()[1]) if answer else 0


def chunked(*pieces: bytes) -> bytes:
    return b"".join(f"{len(p):x}\r\n".encode() + p + b"\r\n" for p in pieces) + b"0\r\n\r\n"


# What is answered before all has been read may be lost: the hang-up overtakes it.
TOO_LONG = {413, 0}
JSON = f"POST {PATH} HTTP/1.1\nContent-Type: application/json\n"


@pytest.mark.parametrize(
    ("head", "body", "statuses"),
    [
        (JSON + "Transfer-Encoding: chunked", chunked(BODY[:9], BODY[9:]), {201}),
        (JSON + "Transfer-Encoding: chunked", chunked(BODY, b" " * 70_000), TOO_LONG),
        (JSON + "Transfer-Encoding: chunked", chunked(*[b" " * 8000] * 12), TOO_LONG),
        (JSON + "Transfer-Encoding: chunked", b"zz\r\n", {400, 0}),
        (JSON + "Transfer-Encoding: chunked", b"5\r\nab", {400, 0}),
        (JSON + "Transfer-Encoding: chunked", b"-5\r\nabcde\r\n0\r\n\r\n", {400, 0}),
        (JSON + "Transfer-Encoding: gzip, chunked", chunked(BODY), {201, 400, 501}),
        (JSON + "Transfer-Encoding: xchunked", chunked(BODY), {400, 501}),
        (JSON + f"Content-Length: {len(BODY)}\nTransfer-Encoding: chunked", chunked(BODY), {400}),
        (JSON + f"Content-Length: {len(BODY)}\nContent-Length: 5", BODY, {400}),
        (JSON + "Content-Length: 70000", b" " * 70_000, TOO_LONG),
        (JSON + "Content-Length: 99999999999999999999", BODY, {413, 400}),
        (JSON + "Content-Length: -1", BODY, {400}),
        (JSON + "Content-Length: +5", BODY, {400}),
        (JSON + f"Content-Length: {len(BODY) + 9}", BODY, {400}),
        (JSON + f"Content-Length: {len(BODY)}\nContent-Encoding: gzip", BODY, {201, 415}),
        (JSON, b"", {400}),
        ("GET /api/media HTTP/1.1\nHost: a\nHost: b", b"", {200, 400}),
        ("GET /api/media HTTP/1.1\nX-User_ID: x\nX_User_ID: y", b"", {200, 400}),
        ("GET http://evil.example.com/api/media HTTP/1.1", b"", {200, 400, 404}),
        ("GET /api/media?limit=\xff HTTP/1.1", b"", {400}),
        ("GET /api/media/%00 HTTP/1.1", b"", {404}),
        ("GET /api/media/\x00 HTTP/1.1", b"", {400, 404}),
        ("GET /static/../../config/settings.py HTTP/1.1", b"", {404}),
        ("GET /static/%2e%2e/%2e%2e/config/settings.py HTTP/1.1", b"", {404}),
        ("GET /static/..%2fapi.py HTTP/1.1", b"", {404}),
        ("GET /static/%2fetc%2fpasswd HTTP/1.1", b"", {404}),
        ("GET /api/docs/..%2f..%2fpages.py HTTP/1.1", b"", {404}),
        ("GET /api/docs/swagger-ui.css%00.js HTTP/1.1", b"", {404}),
        ("GET / HTTP/1.1\nX: " + "y" * 20_000, b"", {400, 431}),
        ("GET / HTTP/1.1\n" + "\n".join(f"X{n}: y" for n in range(80)), b"", {400, 431}),
        ("GET /" + "x" * 5000 + " HTTP/1.1", b"", {400, 414}),
        ("GET / HTTP/9.9", b"", {400, 505, 0}),
        ("get / HTTP/1.1", b"", {400, 404, 405}),
        ("GET / HTTP/1.1\nBad Header: x", b"", {400}),
        ("GET / HTTP/1.1\n folded", b"", {400}),
    ],
    ids=lambda value: repr(value)[:60] if isinstance(value, str | bytes) else "",
)
def test_no_bytes_on_the_wire_are_an_error_of_ours(web: Web, head, body, statuses):
    said = web.log_path.read_text()
    assert send(web, head, body) in statuses
    assert requests.get(f"{web.url}/healthz", timeout=10).status_code == 200
    assert '"level":"error"' not in web.log_path.read_text().removeprefix(said)


def test_a_request_behind_a_body_that_was_not_read_is_not_smuggled(web: Web):
    hidden = f"DELETE /api/media/{ALICE} HTTP/1.1\r\nHost: a\r\n\r\n".encode()
    with socket.create_connection(("127.0.0.1", urlsplit(web.url).port), timeout=20) as connection:
        connection.sendall(
            b"POST /api/media HTTP/1.1\r\nHost: a\r\nContent-Length: "
            + str(len(hidden)).encode()
            + b"\r\n\r\n"
            + hidden
        )
        connection.shutdown(socket.SHUT_WR)
        answers = connection.makefile("rb").read().count(b"HTTP/1.1 ")
    assert answers == 1


def test_a_client_that_stops_halfway_is_given_up_and_its_process_goes_on(web: Web):
    head = f"{JSON}Host: a\nAuthorization: Bearer {token()}\nContent-Length: {len(BODY)}"
    in_its_head, in_its_body = head[:-9].encode(), head.encode() + b"\n\n" + BODY[:9]
    address = ("127.0.0.1", urlsplit(web.url).port)
    answers = []
    for sent in (in_its_head, in_its_body):
        with socket.create_connection(address, timeout=40) as connection:
            connection.sendall(sent.replace(b"\n", b"\r\n"))
            answers.append(connection.makefile("rb").read()[:13])
    assert answers == [b"", b"HTTP/1.1 400 "]
    assert "WORKER TIMEOUT" not in web.log_path.read_text()
