"""Nothing that opens a door is ever written down: not in a log line, not in an error's body.

The deployed processes do a whole life's worth of work at DEBUG, and fail in every way we know;
everything they print is searched.
"""

import contextlib
import os
import re
import secrets
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
import requests

from devstack.process import Process, find_free_ports, wait_until
from devstack.roles import LISTENER, WEB, WORKER, Role
from mediaservice import PROJECT
from tests.builders import environment, jpeg, production
from tests.scripted_store import HANG, ScriptedStore, answer, fault
from tests.security.service import Web
from tests.security.tokens import ALICE, BOB, token
from tests.service import put_upload

SIGNED = re.compile(r"X-Amz-(Signature|Credential|Security-Token)|AWS4-HMAC|Bearer [A-Za-z0-9]")


@pytest.fixture
def known() -> dict[str, str]:
    """The secrets of this deployment, by their variable; each is used, or fails to be."""
    return {name: secrets.token_hex(24) for name in ("JWT_SECRET", "DATABASE", "S3")}


@pytest.fixture
def environ(known, seaweedfs, postgresql, rabbitmq, amqp) -> Iterator[dict[str, str]]:
    """A production environment whose database password is a secret to look for."""
    role, database = f"role_{uuid4().hex}", f"secrets_{uuid4().hex}"
    with postgresql.connect() as connection:
        connection.execute(f"CREATE ROLE {role} SUPERUSER LOGIN PASSWORD '{known['DATABASE']}'")
        connection.execute(f"CREATE DATABASE {database} TEMPLATE media_template")
    known["S3"] = seaweedfs.secret_key
    yield production(LOG_LEVEL="DEBUG", HOST="127.0.0.1", WEB_CONCURRENCY="1") | {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(PROJECT),
        "JWT_SECRET": known["JWT_SECRET"],
        "DATABASE_URL": f"postgresql://{role}:{known['DATABASE']}"
        f"@127.0.0.1:{postgresql.port}/{database}",
        "BROKER_URL": rabbitmq.url,
        **seaweedfs.variables,
    }
    with postgresql.connect() as connection:
        connection.execute(f"DROP DATABASE {database} WITH (FORCE)")
        connection.execute(f"DROP ROLE {role}")


class Deployment:
    """Processes with logs, and a client that remembers what it was told and must not be shown."""

    def __init__(self, directory: Path, known: dict[str, str]) -> None:
        self._directory = directory
        self._parts = contextlib.ExitStack()
        self._processes: list[Process] = []
        self.secrets = dict(known)
        self.errors: list[str] = []

    def start(self, name: str, arguments: Sequence[str], environ: dict[str, str]) -> Process:
        process = Role(
            name,
            arguments,
            directory=self._directory,
            environ=environ,
            is_ready=lambda: True,
        )
        self._processes.append(self._parts.enter_context(process))
        return process

    def start_web(self, name: str, environ: dict[str, str]) -> Web:
        port = find_free_ports()
        web = Web(environ | {"PORT": str(port)}, port, self._directory, name)
        self._processes.append(self._parts.enter_context(web))
        return web

    def call(self, web: Web, method: str, path: str, **arguments: Any) -> requests.Response:
        bearer = arguments.pop("bearer", None) or token(
            self.secrets["JWT_SECRET"], sub=str(arguments.pop("caller", ALICE))
        )
        self.secrets[f"token {len(self.secrets)}"] = bearer
        response = requests.request(
            method,
            f"{web.url}/api/media{path}",
            headers={"Authorization": f"Bearer {bearer}"},
            timeout=30,
            **arguments,
        )
        if response.status_code >= 400:
            self.errors.append(f"{response.headers} {response.text}")
        return response

    def stop(self) -> str:
        """End everything; return all it has printed."""
        self._parts.close()
        return "\n".join(p.log_path.read_text(errors="replace") for p in self._processes)


@pytest.fixture
def deployment(tmp_path: Path, known: dict[str, str]) -> Iterator[Deployment]:
    found = Deployment(tmp_path, known)
    yield found
    found.stop()


def assert_clean(text: str, known: dict[str, str]) -> None:
    shown = [name for name, secret in known.items() if secret in text]
    assert not shown
    found = SIGNED.search(text)
    assert not found, text[max(0, found.start() - 300) : found.end() + 100]


def test_a_whole_life_leaves_no_secret_in_any_log(deployment: Deployment, environ):
    web = deployment.start_web("web", environ)
    deployment.start("listener", LISTENER, environ)
    deployment.start("worker", WORKER, environ)

    def upload(body: bytes, stored: bytes, **fields: Any) -> str:
        declared = {"content_type": "image/jpeg", "size_bytes": len(body), **fields}
        presigned = deployment.call(web, "POST", "/request-upload", json=declared).json()
        signature = re.search("X-Amz-Signature=([0-9a-f]{64})", presigned["upload_url"])
        assert signature
        deployment.secrets[f"signature {len(deployment.secrets)}"] = signature[1]
        put_upload(presigned, stored)
        complete = {"upload_id": presigned["upload_id"]}
        deployment.call(web, "POST", "/complete", json=complete)
        return str(presigned["upload_id"])

    def final(media_id: str) -> bool:
        status = deployment.call(web, "GET", f"/{media_id}/status").json()["status"]
        return status in ("ready", "failed")

    good, broken = jpeg(), jpeg()[:-40]
    ids = [upload(good, good), upload(broken, broken)]
    rejected = upload(good, good[:-1] + b"x", checksum_sha256="0" * 64)
    for media_id in ids:
        wait_until(lambda media_id=media_id: final(media_id), seconds=60, what=media_id)
    for attempt in (
        {"bearer": "x.y.z"},
        {"bearer": token("q" * 40)},
        {"caller": BOB},
    ):
        deployment.call(web, "DELETE", f"/{ids[0]}", **attempt)
    deployment.call(web, "POST", "/request-upload", data=b"{", json=None)
    deployment.call(web, "POST", "/request-upload", json={"size_bytes": -1, "token": token()})
    deployment.call(web, "DELETE", f"/{ids[0]}")
    printed = deployment.stop()
    assert all(media_id in printed for media_id in (*ids, rejected))
    assert "media_transition" in printed
    assert "transition=processed" in printed or '"processed"' in printed
    assert_clean(printed, deployment.secrets)
    assert len(deployment.errors) >= 6
    assert_clean("\n".join(deployment.errors), deployment.secrets)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"S3_SECRET_ACCESS_KEY": "{wrong}"}, "store_unavailable"),
        ({"S3_ENDPOINT": "http://127.0.0.1:9"}, "store_unavailable"),
        ({"S3_RAW_BUCKET": "no-such-bucket"}, "store_unavailable"),
        ({"DATABASE_URL": "postgresql://media:{wrong}@127.0.0.1:{pg}/x"}, "database_unavailable"),
        ({"DATABASE_URL": "postgresql://media:{wrong}@127.0.0.1:9/x"}, "database_unavailable"),
    ],
    ids=str,
)
def test_a_fault_is_reported_without_the_secret(
    deployment: Deployment, environ, postgresql, change, said
):
    wrong = secrets.token_hex(24)
    deployment.secrets["wrong"] = wrong
    bent = {
        name: value.replace("{wrong}", wrong).replace("{pg}", str(postgresql.port))
        for name, value in change.items()
    }
    web = deployment.start_web("web", environ | bent)
    declared = {"content_type": "image/jpeg", "size_bytes": 100}
    presigned = deployment.call(web, "POST", "/request-upload", json=declared)
    body = {"upload_id": presigned.json().get("upload_id", str(uuid4()))}
    failed = deployment.call(web, "POST", "/complete", json=body)
    assert failed.status_code == 503
    deployment.errors.append(requests.get(f"{web.url}/readyz", timeout=30).text)
    printed = deployment.stop()
    assert f'"event":"{said}"' in printed
    assert_clean(printed + "\n".join(deployment.errors), deployment.secrets)


@pytest.mark.parametrize(
    ("arguments", "broker"),
    [
        (LISTENER, "amqp://media:{wrong}@127.0.0.1:{mq}/"),
        (WORKER, "amqp://a:{wrong}@127.0.0.1:9/"),
    ],
    ids=["listener, refused", "worker, away"],
)
def test_a_broker_that_refuses_us_is_reported_without_the_secret(
    deployment: Deployment, environ, rabbitmq, arguments, broker
):
    wrong = secrets.token_hex(24)
    deployment.secrets["wrong"] = wrong
    url = broker.replace("{wrong}", wrong).replace("{mq}", str(rabbitmq.port))
    process = deployment.start("process", arguments, environ | {"BROKER_URL": url})
    wait_until(
        lambda: "broker_connect_failed" in process.log_path.read_text(), seconds=30, what="a fault"
    )
    assert_clean(deployment.stop(), deployment.secrets)


def test_wrong_settings_are_reported_without_their_values(deployment: Deployment, environ):
    short = {name: f"hush{n}" for n, name in enumerate(("JWT_SECRET", "S3_SECRET_ACCESS_KEY"))}
    for name, arguments in (("web", WEB), ("listener", LISTENER)):
        process = deployment.start(name, arguments, environ | short | {"BROKER_URL": "hush9://x"})
        assert process.wait(30) != 0
    printed = deployment.stop()
    assert printed.count("JWT_SECRET needs") >= 2
    assert "hush" not in printed


FAULT = """
import os
from config.settings import Settings
from mediaservice import create_app
from mediaservice.logs import configure_logging

settings = Settings.from_environ(os.environ)
configure_logging(settings)
app = create_app(settings)

def fail(**_):
    local = "a-local-" + "secret"
    raise LookupError(len(local))

app.extensions["media"].lifecycle.rows.page = fail
headers = {"X-User-ID": os.environ["CALLER"], "Authorization": "Bearer " + os.environ["BEARER"]}
print(app.test_client().get("/api/media", headers=headers).text)
"""


@pytest.mark.slow
@pytest.mark.parametrize("app_env", ["development", "production"])
def test_the_traceback_of_a_fault_of_ours_shows_no_values(app_env: str):
    bearer = secrets.token_hex(24)
    environ = {
        "development": environment(),
        "production": production() | {"AUTH_MODE": "gateway", "GATEWAY_TOKEN": bearer},
    }[app_env]
    done = subprocess.run(
        [sys.executable, "-c", FAULT],
        env=environ | {"PYTHONPATH": str(PROJECT), "CALLER": str(ALICE), "BEARER": bearer},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert "LookupError" in done.stderr
    assert '"code":500' in done.stdout.replace(" ", "")
    for hidden in ("a-local-secret", bearer):
        assert hidden not in done.stdout + done.stderr


STORE_FAULTS = """
import os, traceback
from config.settings import Settings
from mediaservice import s3
from mediaservice.logs import configure_logging
from mediaservice.storage import Storage, StoreUnavailable

settings = Settings.from_environ(os.environ)
configure_logging(settings)
s3._READ_SECONDS = 0.05
storage = Storage(settings)
for number in range(5):
    try:
        storage.read_original(f"uploads/{number}", etag='"e"')
    except StoreUnavailable:
        traceback.print_exc()
"""


def test_no_fault_of_the_store_is_told_with_a_signature():
    """Not even at DEBUG by the HTTP client, whose messages quote URLs."""
    strange_header = answer(500, b"", Strange="1\r\n:\r\n: x")
    faults = [fault(403, "SignatureDoesNotMatch"), strange_header, b"", b"nonsense\r\n\r\n", HANG]
    with ScriptedStore([faults[0], *(one for one in faults[1:] for _ in range(2))]) as store:
        done = subprocess.run(
            [sys.executable, "-c", STORE_FAULTS],
            env=environment(S3_ENDPOINT=store.endpoint, LOG_LEVEL="DEBUG", PYTHONPATH=str(PROJECT)),
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
    assert done.stderr.count("mediaservice.s3.StoreUnavailable: ") == len(faults)
    assert SIGNED.search(store.requests[0])
    assert_clean(done.stdout + done.stderr, {})


def test_a_database_error_does_not_quote_its_url(known: dict[str, str]):
    """Psycopg's own words, which we log."""
    url = f"postgresql://media:{known['DATABASE']}@127.0.0.1:9/x"
    with pytest.raises(psycopg.OperationalError) as raised:
        psycopg.connect(url, connect_timeout=2)
    assert known["DATABASE"] not in str(raised.value)
