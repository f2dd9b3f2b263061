"""One upload through the deployed processes, as its operators see it: logs, metrics, traces."""

import json
import os
import re
import signal
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from uuid import uuid4

import pika
import pytest
import requests
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from prometheus_client.parser import text_string_to_metric_families

from config.settings import Settings
from devstack.process import answers, find_free_ports, wait_until
from devstack.roles import LISTENER, WEB, WORKER, Role
from mediaservice.messages import MEDIA_FAILED
from mediaservice.storage import Storage
from tests.builders import environment, jpeg
from tests.queues import empty, put_dead
from tests.service import measured, put_upload

METRICS_TOKEN = "f3a1c9e27b5d4860a1b2c3d4e5f60718"
GATEWAY_TOKEN = "0f1e2d3c4b5a69788796a5b4c3d2e1f0"
ALICE = uuid4()


class Collector(ThreadingHTTPServer):
    """An OpenTelemetry collector that remembers spans, each with its service's name."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Receiver)
        self.spans = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"

    def find(self, service, name, **facts):
        return next(
            (
                span
                for one, span in self.spans
                if (one, span.name) == (service, name) and facts.items() <= facts_of(span).items()
            ),
            None,
        )


def facts_of(span):
    attributes = {a.key: a.value.string_value for a in span.attributes}
    return {"trace_id": span.trace_id, "message_id": attributes.get("messaging.message.id")}


class _Receiver(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            facts = {a.key: a.value.string_value for a in resource.resource.attributes}
            for scope in resource.scope_spans:
                self.server.spans += [(facts["service.name"], span) for span in scope.spans]
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def collector():
    with Collector() as server:
        yield server
        server.shutdown()


class Deployment:
    """Web with two processes, one listener, one worker, as in production."""

    def __init__(self, environ, directory):
        self.web_port, self.listener_port, self.worker_port = (find_free_ports() for _ in range(3))
        self.killed = []
        self.processes = {
            name: Role(
                name,
                command,
                directory=directory,
                environ={
                    **environ,
                    **measured(),
                    "PORT": str(self.web_port),
                    "METRICS_PORT": str(port),
                },
                is_ready=lambda url=url: answers(url),
            )
            for name, command, port, url in (
                ("web", WEB, 0, f"http://127.0.0.1:{self.web_port}/readyz"),
                (
                    "listener",
                    LISTENER,
                    self.listener_port,
                    f"http://127.0.0.1:{self.listener_port}/healthz",
                ),
                (
                    "worker",
                    WORKER,
                    self.worker_port,
                    f"http://127.0.0.1:{self.worker_port}/healthz",
                ),
            )
        }

    def start(self):
        """Start what is not running."""
        for process in self.processes.values():
            if not process.is_running:
                process.start(wait=False)
        for process in self.processes.values():
            process.wait_until_ready()

    def stop(self):
        for process in reversed(self.processes.values()):
            process.stop()

    def lines(self, process, **facts):
        """Return the log lines of a process that have these facts; every line must be JSON."""
        text = self.processes[process].log_path.read_text()
        for pid in self.killed:  # the master tells of it in words of gunicorn's own
            text = re.sub(f".*[(]pid:{pid}[)] was sent SIGKILL.*\n", "", text)
        lines = [json.loads(line) for line in text.splitlines()]
        return [line for line in lines if facts.items() <= line.items()]

    def call(self, method, path, **arguments):
        headers = {
            "Authorization": f"Bearer {GATEWAY_TOKEN}",
            "X-User-ID": str(ALICE),
            **arguments.pop("headers", {}),
        }
        url = f"http://127.0.0.1:{self.web_port}/api/media{path}"
        return requests.request(method, url, headers=headers, timeout=20, **arguments)

    def metrics(self, process):
        """Return what a process shows: {(name, labels): value}."""
        port = {
            "web": self.web_port,
            "listener": self.listener_port,
            "worker": self.worker_port,
        }[process]
        shown = requests.get(
            f"http://127.0.0.1:{port}/metrics",
            headers={"Authorization": f"Bearer {METRICS_TOKEN}"},
            timeout=20,
        )
        assert shown.status_code == 200
        return {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(shown.text)
            for sample in family.samples
        }

    def value(self, process, name, **labels):
        return self.metrics(process).get((name, frozenset(labels.items())))


@pytest.fixture(scope="module")
def running_deployment(make_database, rabbitmq, seaweedfs, collector, tmp_path_factory):
    with pika.BlockingConnection(pika.URLParameters(rabbitmq.url)) as connection:
        channel = connection.channel()
        empty(channel)
        put_dead(channel, MEDIA_FAILED, b"{}")
    variables = {
        **environment(),
        **seaweedfs.variables,
        "PATH": os.environ["PATH"],
        "HOST": "127.0.0.1",
        "APP_ENV": "production",
        "AUTH_MODE": "gateway",
        "GATEWAY_TOKEN": GATEWAY_TOKEN,
        "METRICS_TOKEN": METRICS_TOKEN,
        "BROKER_URL": rabbitmq.url,
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_BSP_SCHEDULE_DELAY": "100",
        "POLL_SECONDS": "0.2",
        "WEB_CONCURRENCY": "2",
    }
    with make_database() as database_url:
        variables["DATABASE_URL"] = database_url
        Storage(Settings.from_environ(variables)).create_buckets(())
        made = Deployment(variables, tmp_path_factory.mktemp("operations"))
        try:
            yield made
        finally:
            made.stop()


@pytest.fixture
def deployment(running_deployment):
    """All of it, whatever the test before has stopped."""
    running_deployment.start()
    return running_deployment


def upload(deployment, request_id):
    """Upload a picture under one request id; return its media's id once all is done and told."""
    body = jpeg(640, 480)
    headers = {"X-Request-ID": request_id}
    presigned = deployment.call(
        "POST",
        "/request-upload",
        headers=headers,
        json={"content_type": "image/jpeg", "size_bytes": len(body)},
    ).json()
    put_upload(presigned, body).raise_for_status()
    media_id = presigned["upload_id"]
    answer = deployment.call("POST", "/complete", headers=headers, json={"upload_id": media_id})
    assert answer.headers["X-Request-ID"] == request_id
    wait_until(
        lambda: deployment.call("GET", f"/{media_id}/status").json()["status"] == "ready",
        seconds=30,
        what="the picture",
    )
    # Its answer is seen by clients before the listener has got round to its own line.
    wait_until(
        lambda: deployment.lines("listener", event="message", request_id=request_id),
        seconds=15,
        what="the listener's line",
    )
    return media_id


def test_one_upload_is_followed_through_every_process(deployment, collector):
    media_id = upload(deployment, "bff-42")

    (line,) = deployment.lines("web", event="request", request_id="bff-42", status=202)
    assert line["route"] == "/api/media/complete"
    assert (line["caller"], line["media_id"]) == (str(ALICE), media_id)
    assert deployment.lines("listener", event="job_dispatched", request_id="bff-42")
    (line,) = deployment.lines("worker", event="message", request_id="bff-42")
    assert (line["outcome"], line["media_id"]) == ("processed", media_id)
    assert (line["routing_key"], line["message_id"]) == ("media.process", f"{media_id}:1")
    (line,) = deployment.lines("listener", event="message", request_id="bff-42")
    assert (line["routing_key"], line["outcome"]) == ("media.processed", "applied")
    transitions = [
        line["transition"]
        for process in ("web", "listener")
        for line in deployment.lines(process, event="media_transition", request_id="bff-42")
    ]
    assert transitions == ["upload_requested", "upload_completed", "processed"]

    def spans():
        worker = collector.find("media-worker", "media.process", message_id=f"{media_id}:1")
        trace_id = worker and worker.trace_id
        web = collector.find("media-web", "POST /api/media/complete", trace_id=trace_id)
        listener = collector.find("media-listener", "media.processed", trace_id=trace_id)
        return web, worker, listener

    wait_until(lambda: all(spans()), seconds=15, what="the spans of one trace")
    web, worker, listener = spans()
    assert worker.parent_span_id == web.span_id
    assert listener.parent_span_id == worker.span_id
    children = {s.name for one, s in collector.spans if s.parent_span_id == worker.span_id}
    assert {"S3.GetObject", "S3.PutObject"} <= children


COMPLETED = {"method": "POST", "route": "/api/media/complete", "status": "202"}
PROCESSED = {"format": "jpeg", "outcome": "processed"}
APPLIED = {"routing_key": "media.processed", "outcome": "applied"}
DISPATCHED = {"attempt": "first", "outcome": "published"}


def test_every_process_shows_what_it_has_counted(deployment):
    counters = [
        ("web", "media_http_request_duration_seconds_count", COMPLETED),
        ("web", "media_presigned_uploads_total", {}),
        ("worker", "media_processing_duration_seconds_count", PROCESSED),
        ("listener", "media_results_total", APPLIED),
        ("listener", "media_time_to_ready_seconds_count", {}),
        ("listener", "media_dispatches_total", DISPATCHED),
    ]

    def values():
        return [
            deployment.value(process, name, **labels) or 0 for process, name, labels in counters
        ]

    before = values()
    upload(deployment, "counted")
    assert [now - then for now, then in zip(values(), before, strict=True)] == [1] * len(counters)
    for queue in ("media-worker.process", "media-service.results"):
        assert deployment.value("listener", "media_queue_messages", queue=queue) is not None
    assert deployment.value("listener", "media_queue_messages", queue="media.dead") == 1
    for kind in ("dispatch", "give_up", "expire", "purge"):
        assert deployment.value("listener", "media_due_media", kind=kind) is not None


def test_webs_processes_count_together_and_go_on_after_their_predecessors(deployment):
    """A process that ends takes nothing away, and its successor counts in the same files."""
    labels = {"method": "GET", "route": "/api/media/<uuid:media_id>", "status": "404"}
    name = "media_http_request_duration_seconds_count"
    before = deployment.value("web", name, **labels) or 0
    for _ in range(20):
        assert deployment.call("GET", f"/{uuid4()}").status_code == 404
    assert deployment.value("web", name, **labels) == before + 20
    master = deployment.processes["web"].pid
    children = Path(f"/proc/{master}/task/{master}/children")
    first = children.read_text().split()
    assert len(first) == 2
    for child in first:
        os.kill(int(child), signal.SIGKILL)
        deployment.killed.append(child)
    wait_until(
        lambda: (
            len(set(children.read_text().split()) - set(first)) == 2
            and answers(f"http://127.0.0.1:{deployment.web_port}/healthz")
        ),
        seconds=30,
        what="two new processes",
    )
    assert deployment.call("GET", f"/{uuid4()}").status_code == 404
    assert deployment.value("web", name, **labels) == before + 21


def test_processes_end_in_good_order(deployment):
    upload(deployment, "the-last")
    assert {name: process.stop() for name, process in deployment.processes.items()} == {
        "web": 0,
        "listener": 0,
        "worker": 0,
    }
    for name in ("listener", "worker"):
        assert deployment.lines(name, event=f"{name}_stopped")
    for name in deployment.processes:
        assert deployment.lines(name, level="error") == []
