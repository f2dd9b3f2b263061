"""Clients: uploads of every good and bad kind, each call tried until it is answered."""

import random
import socket
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import pyvips
import requests

from tests.chaos.stack import UPLOAD_URL_TTL_SECONDS, Stack

CALL_SECONDS = 90.0
REPEAT_PROBABILITY = 0.2


@dataclass
class Upload:
    """What one client did, and what it may expect to find in the end."""

    scenario: str
    media_id: str | None = None
    is_deleted: bool = False
    notes: list[str] = field(default_factory=list)


class Client:
    """One user of the service; its randomness is its own, so a seed repeats what it intends."""

    def __init__(self, stack: Stack, seed: int) -> None:
        self._stack = stack
        self._random = random.Random(seed)
        self._user = str(uuid.UUID(int=self._random.getrandbits(128), version=4))
        self._pause = threading.Event()

    def run(self) -> Upload:
        """Play one scenario."""
        scenarios: dict[str, tuple[int, Callable[[Upload], None]]] = {
            "normal": (50, self._normal),
            "deleted_while_pending": (6, self._delete_while_pending),
            "deleted_while_processing": (8, self._delete_while_processing),
            "deleted_when_ready": (8, self._delete_when_ready),
            "abandoned": (6, self._abandon),
            "forgotten": (6, self._forget),
            "slow_put_past_expiry": (5, self._put_slowly),
            "damaged": (6, self._damaged),
            "mismatched": (5, self._mismatched),
        }
        names = list(scenarios)
        name = self._random.choices(names, [scenarios[name][0] for name in names])[0]
        upload = Upload(name)
        scenarios[name][1](upload)
        return upload

    def _normal(self, upload: Upload) -> None:
        body = self._photo()
        if self._upload(upload, body):
            self._complete(upload)

    def _delete_while_pending(self, upload: Upload) -> None:
        """Delete, and PUT all the same: the URL is still alive."""
        body = self._photo()
        presigned = self._request(upload, body)
        self._delete(upload)
        self._put(presigned, body)

    def _delete_while_processing(self, upload: Upload) -> None:
        self._normal(upload)
        self._pause.wait(self._random.uniform(0, 0.5))
        self._delete(upload)

    def _delete_when_ready(self, upload: Upload) -> None:
        self._normal(upload)
        deadline = time.monotonic() + CALL_SECONDS
        while time.monotonic() < deadline:
            answer = self._call("GET", f"/{upload.media_id}/status", {200})
            if answer.json()["status"] in ("ready", "failed"):
                break
            self._pause.wait(0.3)
        self._delete(upload)

    def _abandon(self, upload: Upload) -> None:
        self._request(upload, self._photo())

    def _forget(self, upload: Upload) -> None:
        self._upload(upload, self._photo())

    def _put_slowly(self, upload: Upload) -> None:
        """Begin a PUT in time and let its last byte arrive after the URL has died."""
        body = self._photo()
        presigned = self._request(upload, body)
        parts = urlsplit(presigned["upload_url"])
        head = "".join(f"{name}: {value}\r\n" for name, value in presigned["headers"].items())
        request = (
            f"PUT {parts.path}?{parts.query} HTTP/1.1\r\nHost: {parts.netloc}\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n{head}\r\n"
        )
        try:
            with socket.create_connection((parts.hostname, parts.port), timeout=10) as connection:
                connection.settimeout(UPLOAD_URL_TTL_SECONDS + 10)
                connection.sendall(request.encode() + body[:-1])
                self._pause.wait(UPLOAD_URL_TTL_SECONDS + 2)
                connection.sendall(body[-1:])
                connection.recv(100)
        except OSError as error:
            upload.notes.append(f"slow PUT: {error}")

    def _damaged(self, upload: Upload) -> None:
        body = self._photo()
        if self._upload(upload, body[: len(body) // 2]):
            self._complete(upload)

    def _mismatched(self, upload: Upload) -> None:
        if self._upload(upload, b"\x89PNG\r\n\x1a\n" + self._photo()):
            self._complete(upload)

    def _upload(self, upload: Upload, body: bytes) -> bool:
        """Return whether the bytes are stored; if they are not, the upload will expire."""
        key = self._random.randbytes(8).hex()
        for _ in range(5):
            presigned = self._request(upload, body, key)
            if self._put(presigned, body):
                return True
        upload.notes.append("the PUT never succeeded")
        return False

    def _request(self, upload: Upload, body: bytes, key: str | None = None) -> Any:
        key = key or self._random.randbytes(8).hex()
        answer = self._call(
            "POST",
            "/request-upload",
            {201},
            json={"content_type": "image/jpeg", "size_bytes": len(body)},
            headers={"Idempotency-Key": key},
        )
        presigned = answer.json()
        upload.media_id = presigned["upload_id"]
        return presigned

    def _put(self, presigned: Any, body: bytes) -> bool:
        """Return whether the object is stored; a refusal may mean that the URL has died."""
        deadline = time.monotonic() + UPLOAD_URL_TTL_SECONDS
        while time.monotonic() < deadline:
            try:
                answer = requests.put(
                    presigned["upload_url"], data=body, headers=presigned["headers"], timeout=20
                )
            except requests.RequestException:
                self._pause.wait(0.3)
                continue
            if answer.status_code in (200, 412):
                return True
            if answer.status_code == 403:
                return False
            self._pause.wait(0.3)
        return False

    def _complete(self, upload: Upload) -> None:
        # 410 and 422 are the service's last word on an upload.
        self._call(
            "POST",
            "/complete",
            {200, 202, 410, 422},
            json={"upload_id": upload.media_id},
        )

    def _delete(self, upload: Upload) -> None:
        # 404: deleted by an earlier try whose answer was lost, and purged since.
        self._call("DELETE", f"/{upload.media_id}", {204, 404})
        upload.is_deleted = True

    def _call(self, method: str, path: str, expected: set[int], **arguments: Any) -> Any:
        """Call any web process until it gives an expected answer; sometimes once more."""
        headers = {
            "Authorization": f"Bearer {self._stack.gateway_token}",
            "X-User-ID": self._user,
            **arguments.pop("headers", {}),
        }
        repeats = 1 + (self._random.random() < REPEAT_PROBABILITY)
        deadline = time.monotonic() + CALL_SECONDS
        last: object = None
        while time.monotonic() < deadline:
            port = self._random.choice(self._stack.web_ports)
            url = f"http://127.0.0.1:{port}/api/media{path}"
            try:
                answer = requests.request(method, url, headers=headers, timeout=35, **arguments)
            except requests.RequestException as error:
                last = error
                self._pause.wait(0.2)
                continue
            if answer.status_code in expected:
                repeats -= 1
                if not repeats:
                    return answer
                continue
            if answer.status_code < 500:
                raise AssertionError(f"{method} {path}: {answer.status_code} {answer.text}")
            last = f"{answer.status_code} {answer.text}"
            self._pause.wait(0.2)
        raise AssertionError(f"{method} {path} was never answered: {last}")

    def _photo(self) -> bytes:
        """Return a JPEG like no other."""
        width, height = self._random.randint(60, 700), self._random.randint(60, 500)
        noise = pyvips.Image.gaussnoise(
            width, height, mean=128, sigma=20, seed=self._random.getrandbits(31)
        )
        ramp = pyvips.Image.xyz(width, height)
        picture = noise.bandjoin([ramp[0] % 256, ramp[1] % 256]).cast("uchar")
        jpeg: bytes = picture.copy(interpretation="srgb").jpegsave_buffer(Q=75)
        return jpeg
