"""Traces, with an exporter in memory: one upload is one trace, and off means off."""

import sys
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from structlog.testing import capture_logs

import mediaworker.__main__
import worker_listener
from config.settings import Settings
from mediaservice import create_app, process, tracing
from mediaservice.listener import Listener
from mediaservice.models import Media
from mediaservice.tracing import MessageSpan, current_traceparent, set_up_tracing
from mediaworker.consumer import Consumer
from tests.builders import environment, jpeg, worker_settings

ALICE = {"X-User-ID": str(uuid4())}
INCOMING = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.fixture
def exporter():
    found = InMemorySpanExporter()
    tracing.start_tracing(SimpleSpanProcessor(found), "media-test")
    yield found
    tracing.stop_tracing()


@pytest.fixture
def make_app(environ, seaweedfs):
    made = []

    def make():
        variables = {**environ, **seaweedfs.variables}
        made.append(create_app(Settings.from_environ(variables)))
        return made[-1]

    yield make
    for app in made:
        app.extensions["media"].lifecycle.rows.engine.dispose()


def complete(app, seaweedfs, **headers):
    """Complete one upload; return its row's traceparent."""
    client, body = app.test_client(), jpeg()
    declared = {"content_type": "image/jpeg", "size_bytes": len(body)}
    media_id = client.post("/api/media/request-upload", json=declared, headers=ALICE).json[
        "upload_id"
    ]
    seaweedfs.client().put_object(
        Bucket="raw", Key=f"uploads/{media_id}", Body=body, ContentType="image/jpeg"
    )
    answer = client.post(
        "/api/media/complete", json={"upload_id": media_id}, headers={**ALICE, **headers}
    )
    assert answer.status_code == 202
    engine = app.extensions["media"].lifecycle.rows.engine
    with engine.connect() as connection:
        return connection.scalar(sa.select(Media.c.traceparent).where(Media.c.id == UUID(media_id)))


def test_the_row_keeps_the_trace_of_the_completing_request(exporter, make_app, seaweedfs):
    traceparent = complete(make_app(), seaweedfs, traceparent=INCOMING)
    span = next(s for s in exporter.get_finished_spans() if s.name == "POST /api/media/complete")
    assert f"{span.context.trace_id:032x}" == INCOMING.split("-")[1]
    assert traceparent == f"00-{span.context.trace_id:032x}-{span.context.span_id:016x}-01"


def test_statements_and_store_calls_are_part_of_the_request(exporter, make_app, seaweedfs):
    complete(make_app(), seaweedfs)
    spans = exporter.get_finished_spans()
    request = next(span for span in spans if span.name == "POST /api/media/complete")
    children = [s for s in spans if s.parent and s.parent.span_id == request.context.span_id]
    (read,) = (span for span in children if span.name == "S3.GetObject")
    assert read.attributes["aws.s3.bucket"] == "raw"
    assert not any("uploads/" in str(value) for value in read.attributes.values())
    assert any(span.name.startswith("UPDATE") for span in children)
    assert request.resource.attributes["service.name"] == "media-test"


def test_polling_makes_no_traces(exporter, world):
    world.pending()
    assert world.processing.claim(10) == []
    world.storage.ping()
    assert exporter.get_finished_spans() == ()


def test_health_checks_make_no_traces(exporter, make_app):
    client = make_app().test_client()
    for path in ("/healthz", "/metrics"):
        client.get(path)
    assert [s.name for s in exporter.get_finished_spans() if s.name.startswith("GET")] == []


def test_a_message_continues_the_trace_it_came_with(exporter):
    span = MessageSpan("media.process", traceparent=INCOMING, message_id="m:1")
    with span.current():
        onward = current_traceparent()
    assert current_traceparent() is None
    span.end()
    (finished,) = exporter.get_finished_spans()
    assert f"{finished.parent.span_id:016x}" == INCOMING.split("-")[2]
    assert onward == f"{INCOMING[:36]}{finished.context.span_id:016x}-01"
    assert finished.attributes["messaging.message.id"] == "m:1"


@pytest.mark.parametrize("traceparent", [None, "", "nonsense", "00-" + "0" * 32 + "-1-01"])
def test_a_message_without_a_usable_trace_begins_one(exporter, traceparent):
    MessageSpan("media.process", traceparent=traceparent, message_id=None).end()
    (finished,) = exporter.get_finished_spans()
    assert finished.parent is None


def test_without_the_setting_nothing_is_traced(make_app, seaweedfs):
    set_up_tracing(worker_settings(), "media-test")
    assert complete(make_app(), seaweedfs, traceparent=INCOMING) is None
    span = MessageSpan("media.process", traceparent=INCOMING, message_id=None)
    with span.current():
        assert current_traceparent() is None
    span.end()


def test_packages_that_are_missing_are_told_and_do_no_harm(monkeypatch):
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    settings = worker_settings(OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9")
    with capture_logs() as logs:
        set_up_tracing(settings, "media-test")
    assert [line["event"] for line in logs] == ["tracing_not_installed"]
    assert current_traceparent() is None


@pytest.mark.parametrize(
    ("entry", "loop"), [(worker_listener, Listener), (mediaworker.__main__, Consumer)]
)
def test_what_is_left_is_exported_even_if_a_loop_crashes(entry, loop, monkeypatch):
    def crash(_loop):
        raise LookupError

    stopped = []
    monkeypatch.setattr(loop, "run", crash)
    monkeypatch.setattr(process, "stop_tracing", lambda: stopped.append(entry))
    # The tests' own process keeps its logs and signals.
    monkeypatch.setattr(process, "configure_logging", lambda _settings: None)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    for name, value in environment(BROKER_URL="amqp://guest:guest@127.0.0.1:9/").items():
        monkeypatch.setenv(name, value)
    with pytest.raises(LookupError):
        entry.main()
    assert stopped == [entry]
