"""What the processes say: one line for each request, failures once, nothing that is secret."""

import json
import subprocess
import sys
from uuid import UUID, uuid4

import pytest
import structlog
from sqlalchemy.exc import OperationalError, ProgrammingError
from structlog.testing import capture_logs

from config.settings import Settings
from mediaservice import PROJECT, create_app
from mediaservice.broker import Delivery
from tests.builders import environment, production

ALICE = uuid4()
DECLARED = {"content_type": "image/jpeg", "size_bytes": 3}


@pytest.fixture
def client(sqlite_app):
    return sqlite_app.test_client()


@pytest.fixture
def caller():
    return {"X-User-ID": str(ALICE)}


def lines_of(logs, event):
    return [line for line in logs if line["event"] == event]


@pytest.fixture
def logged():
    """Everything logged meanwhile, with what is bound to its context."""
    structlog.contextvars.clear_contextvars()
    with capture_logs(processors=[structlog.contextvars.merge_contextvars]) as logs:
        yield logs


def test_a_request_leaves_one_line_that_tells_all(client, caller, logged):
    answer = client.post(
        "/api/media/request-upload", json=DECLARED, headers={**caller, "X-Request-ID": "bff:7"}
    )
    (line,) = lines_of(logged, "request")
    duration = line.pop("duration_seconds")
    assert 0 < duration < 60
    assert line == {
        "event": "request",
        "log_level": "info",
        "request_id": "bff:7",
        "method": "POST",
        "route": "/api/media/request-upload",
        "status": 201,
        "caller": str(ALICE),
        "media_id": answer.json["upload_id"],
    }
    (transition,) = lines_of(logged, "media_transition")
    assert transition["request_id"] == "bff:7"


def test_a_refused_request_tells_its_code(client, caller, logged):
    media_id = uuid4()
    client.get(f"/api/media/{media_id}", headers=caller)
    client.get("/api/media")
    client.get("/nowhere")
    found, anonymous, unmatched = lines_of(logged, "request")
    assert (found["error"], found["media_id"]) == ("media_not_found", str(media_id))
    assert anonymous["error"] == "unauthenticated"
    assert "caller" not in anonymous
    assert (unmatched["error"], unmatched["status"]) == ("not_found", 404)
    assert "route" not in unmatched


@pytest.mark.parametrize("given", ["", "x" * 129, "a b", 'a"b', "ä", "a\tb"])
def test_a_request_id_that_could_forge_a_line_is_replaced(client, logged, given):
    answer = client.get("/healthz", headers={"X-Request-ID": given})
    (line,) = lines_of(logged, "request")
    assert line["request_id"] == answer.headers["X-Request-ID"] != given
    UUID(line["request_id"])


def test_ids_of_one_request_are_not_those_of_the_next(client, logged):
    client.get("/healthz", headers={"X-Request-ID": "first"})
    client.get("/healthz")
    first, second = lines_of(logged, "request")
    assert first["request_id"] == "first" != second["request_id"]


@pytest.fixture
def fail(sqlite_app, monkeypatch):
    """Have looking for a media raise an error."""

    def fail(error):
        def find(*_, **__):
            raise error

        monkeypatch.setattr(sqlite_app.extensions["media"].lifecycle.rows, "find", find)

    return fail


def test_what_nobody_foresaw_is_logged_once_and_answered_in_the_one_shape(
    fail, client, caller, logged
):
    fault = ZeroDivisionError("secret detail")
    fail(fault)
    answer = client.get(f"/api/media/{uuid4()}", headers={**caller, "X-Request-ID": "r-1"})
    assert answer.status_code == 500
    assert (answer.json["error"], answer.json["request_id"]) == ("internal_server_error", "r-1")
    assert "secret detail" not in answer.text
    (line,) = [line for line in logged if line["log_level"] == "error"]
    assert (line["event"], line["request_id"]) == ("internal_server_error", "r-1")
    assert line["exc_info"] is fault
    (line,) = lines_of(logged, "request")
    assert (line["status"], line["error"]) == (500, "internal_server_error")


def test_a_dependency_that_fails_is_logged_once_with_its_reason(fail, client, caller, logged):
    fail(OperationalError("SELECT", {}, Exception("connection refused")))
    answer = client.get(f"/api/media/{uuid4()}", headers=caller)
    assert (answer.status_code, answer.json["error"]) == (503, "database_unavailable")
    (line,) = [line for line in logged if line["log_level"] == "error"]
    assert (line["event"], line["reason"]) == ("database_unavailable", "connection refused")


def test_a_statement_that_the_database_refuses_is_a_fault_of_ours(fail, client, caller, logged):
    fail(ProgrammingError("SELECT", {}, Exception("no such column")))
    answer = client.get(f"/api/media/{uuid4()}", headers=caller)
    assert (answer.status_code, answer.json["error"]) == (500, "internal_server_error")
    (line,) = [line for line in logged if line["log_level"] == "error"]
    assert isinstance(line["exc_info"], ProgrammingError)


def test_credentials_and_upload_urls_are_not_logged(environ, logged):
    token = "a-gateway-token-of-thirty-two-characters"
    variables = {**environ, "AUTH_MODE": "gateway", "GATEWAY_TOKEN": token}
    app = create_app(Settings.from_environ(variables))
    answer = app.test_client().post(
        "/api/media/request-upload?secret=in-the-query",
        json=DECLARED,
        headers={"X-User-ID": str(ALICE), "Authorization": f"Bearer {token}"},
    )
    app.extensions["media"].lifecycle.rows.engine.dispose()
    assert answer.status_code == 201
    assert lines_of(logged, "request")
    said = repr(logged)
    signature = answer.json["upload_url"].rpartition("=")[2]
    key = environ["S3_SECRET_ACCESS_KEY"]
    assert not any(secret in said for secret in (token, signature, "X-Amz", "in-the-query", key))


def test_a_message_names_itself_in_every_line_about_it(logged):
    delivery = Delivery("media.process", b"", "m:1", "r-9", delivery_tag=1)
    log = structlog.get_logger()
    with delivery.log_context():
        log.info("inside")
    log.info("outside")
    assert (
        lines_of(logged, "inside")[0].items()
        >= {
            "routing_key": "media.process",
            "message_id": "m:1",
            "request_id": "r-9",
        }.items()
    )
    assert "request_id" not in lines_of(logged, "outside")[0]


SCRIPT = """
import logging, structlog, uuid
from config.settings import Settings
from mediaservice.logs import configure_logging
configure_logging(Settings.from_environ({environ!r}))
log = structlog.get_logger()
log.debug("too_quiet")
log.info("ours", media_id=uuid.UUID(int=7), key="line\\nbreak")
logging.getLogger("pika").error("said better by us")
logging.getLogger("somebody").warning("a library's %s", "words")
try:
    1 / 0
except ZeroDivisionError as error:
    log.error("crashed", exc_info=error)
    logging.getLogger("somebody").exception("it failed")
"""


def said_by(environ):
    """Return what a process with these settings writes to stderr."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", SCRIPT.format(environ=environ)],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == ""
    return done.stderr


def test_in_production_every_line_is_json_libraries_too():
    lines = [json.loads(line) for line in said_by(production()).splitlines()]
    assert [line["event"] for line in lines] == [
        "ours",
        "a library's words",
        "crashed",
        "it failed",
    ]
    assert all(line["timestamp"].endswith("Z") for line in lines)
    ours, library, crashed, failed = lines
    assert ours["media_id"] == str(UUID(int=7))
    assert (ours["level"], library["level"]) == ("info", "warning")
    for line in (crashed, failed):
        assert "ZeroDivisionError: division by zero" in line["exception"]


def test_in_development_lines_are_for_people():
    said = said_by(environment())
    assert "ours" in said
    assert "ZeroDivisionError" in said
    assert not any(line.startswith("{") for line in said.splitlines())


def test_the_least_level_is_a_setting():
    said = said_by(production(LOG_LEVEL="ERROR"))
    assert [json.loads(line)["event"] for line in said.splitlines()] == ["crashed", "it failed"]
