"""What is counted where it happens, and who may see it."""

import os
import runpy
import socket
import subprocess
import sys
import threading
import time
from datetime import timedelta
from http.client import HTTPConnection
from types import SimpleNamespace
from uuid import uuid4

import pytest
from structlog.testing import capture_logs

from config.settings import ConfigurationError, Settings
from devstack.process import find_free_ports
from mediaservice import PROJECT, create_app, health
from mediaservice.broker import Delivery
from mediaservice.broker.inline import InlineBroker
from mediaservice.lifecycle import ResultOutcome, statistics
from mediaservice.listener import Listener
from mediaservice.messages import MEDIA_FAILED, MEDIA_PROCESSED, encode
from mediaservice.metrics import format_label, routing_key_label
from mediaservice.monitoring import (
    MAX_LOOP_SECONDS,
    Heartbeat,
    create_monitoring_app,
    start_monitoring,
)
from mediaservice.storage import ObjectNotFound, Storage, StoreUnavailable
from mediaworker.renditions import ImageError, Rendered, Rendition
from mediaworker.worker import Worker
from tests.builders import environment, process_request, production, worker_settings
from tests.counters import grows, sample, value
from tests.world import failed, processed

ALICE = uuid4()


@pytest.fixture
def database_url(sqlite_url):
    return sqlite_url


@pytest.fixture
def make_client(environ):
    made = []

    def make(**variables):
        app = create_app(Settings.from_environ({**environ, **variables}))
        made.append(app)
        return app.test_client()

    yield make
    for app in made:
        app.extensions["media"].lifecycle.rows.engine.dispose()


@pytest.fixture
def client(sqlite_app):
    return sqlite_app.test_client()


# Web


def test_requests_are_counted_by_route_method_and_status(client):
    name = "media_http_request_duration_seconds_count"
    route = "/api/media/<uuid:media_id>"
    with (
        grows(name, by=2, method="GET", route=route, status=404),
        grows("media_http_errors_total", by=2, error="media_not_found"),
    ):
        for _ in range(2):
            client.get(f"/api/media/{uuid4()}", headers={"X-User-ID": str(ALICE)})


@pytest.mark.parametrize(("method", "path"), [("GET", "/nowhere"), ("INVENTED", "/healthz")])
def test_what_strangers_make_up_makes_no_new_series(client, method, path):
    status = 404 if method == "GET" else 405
    name = "media_http_request_duration_seconds_count"
    with grows(name, method="other", route="unmatched", status=status):
        client.open(path, method=method)


def test_upload_urls_and_transitions_are_counted(client):
    with (
        grows("media_presigned_uploads_total"),
        grows("media_transitions_total", transition="upload_requested"),
    ):
        client.post(
            "/api/media/request-upload",
            json={"content_type": "image/jpeg", "size_bytes": 3},
            headers={"X-User-ID": str(ALICE)},
        )


def test_in_development_this_machine_sees_the_metrics(client):
    shown = client.get("/metrics", base_url="http://localhost")
    assert shown.status_code == 200
    assert shown.content_type.startswith("text/plain")
    assert "# TYPE media_http_request_duration_seconds histogram" in shown.text


@pytest.mark.parametrize(
    ("environ_base", "headers"),
    [
        ({"REMOTE_ADDR": "10.0.0.9"}, {}),
        ({"REMOTE_ADDR": "127.0.0.1"}, {"X-Forwarded-For": "203.0.113.9"}),
    ],
)
def test_in_development_nobody_else_sees_them(client, environ_base, headers):
    shown = client.get(
        "/metrics", base_url="http://localhost", environ_base=environ_base, headers=headers
    )
    assert shown.status_code == 401


def test_in_production_they_are_hidden_unless_there_is_a_token(make_client):
    variables = production()
    hidden = make_client(**variables)
    assert hidden.get("/metrics", base_url="http://localhost").status_code == 401
    token = uuid4().hex
    guarded = make_client(**variables, METRICS_TOKEN=token)
    assert guarded.get("/metrics").status_code == 401
    for given, status in ((token, 200), (token[:-1], 401), ("", 401)):
        shown = guarded.get("/metrics", headers={"Authorization": f"Bearer {given}"})
        assert shown.status_code == status


def test_workers_of_gunicorn_take_the_slots_of_those_that_ended(monkeypatch, tmp_path):
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    pre_fork = runpy.run_path(str(PROJECT / "config" / "gunicorn.py"))["pre_fork"]
    server = SimpleNamespace(WORKERS={})

    def fork(pid):
        worker = SimpleNamespace()
        pre_fork(server, worker)
        server.WORKERS[pid] = worker
        return worker.metrics_slot

    assert [fork(pid) for pid in (11, 12, 13)] == [0, 1, 2]
    del server.WORKERS[12]
    assert fork(14) == 1
    assert fork(15) == 3


def check_gunicorn(**variables):
    """Have gunicorn read its configuration and load the application, as at each start."""
    return subprocess.run(
        [
            *(sys.executable, "-m", "gunicorn", "--check-config"),
            *("--config", "config/gunicorn.py", "app:app"),
        ],
        cwd=PROJECT,
        env=environment(PATH=os.environ["PATH"], **variables),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize(("host", "bind"), [("0.0.0.0", "0.0.0.0:80"), ("::", "[::]:80")])
def test_web_binds_to_either_version_of_ip(monkeypatch, tmp_path, host, bind):
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    monkeypatch.setenv("HOST", host)
    monkeypatch.setenv("PORT", "80")
    assert runpy.run_path(str(PROJECT / "config" / "gunicorn.py"))["bind"] == bind


@pytest.mark.slow
def test_a_metrics_folder_that_is_not_there_is_made(tmp_path):
    folder = tmp_path / "run" / "metrics"
    checked = check_gunicorn(PROMETHEUS_MULTIPROC_DIR=str(folder))
    assert (checked.returncode, folder.is_dir()) == (0, True), checked.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variable", "value"),
    [("PROMETHEUS_MULTIPROC_DIR", "app.py"), ("WEB_CONCURRENCY", "0")],
)
def test_gunicorn_does_not_start_with_a_wrong_variable_and_names_it(variable, value):
    checked = check_gunicorn(**{variable: value})
    assert checked.returncode == 1
    (line,) = checked.stderr.splitlines()
    assert line.startswith(f"{variable} should be ")


# Readiness


@pytest.fixture
def silent_port():
    """A port that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.mark.slow
def test_readiness_does_not_wait_for_a_store_that_never_answers(
    make_client, silent_port, monkeypatch
):
    monkeypatch.setattr(health, "READY_SECONDS", 0.3)
    client = make_client(S3_ENDPOINT=f"http://127.0.0.1:{silent_port}")
    for _ in range(3):  # each leaves a check behind that hangs
        answer = client.get("/readyz")
    assert answer.status_code == 503
    assert answer.json == {
        "status": "unavailable",
        "checks": {"database": "ok", "store": "no answer in time"},
    }


def test_readiness_tells_what_is_missing(client):
    answer = client.get("/readyz")
    assert answer.status_code == 503
    assert answer.json["checks"] == {"database": "ok", "store": "unavailable"}
    assert client.get("/healthz").json == {"status": "ok"}


# Store


def test_store_calls_are_counted_by_what_they_came_to(world, make_world):
    name = "media_store_request_duration_seconds_count"
    job = world.claimed()
    with grows(name, operation="get_object", outcome="ok"):
        world.storage.read_original(job.raw_key, etag=job.raw_etag)
    with (
        grows(name, operation="get_object", outcome="missing"),
        pytest.raises(ObjectNotFound),
    ):
        world.storage.read_original("uploads/nothing", etag=job.raw_etag)
    away = make_world(S3_ENDPOINT="http://127.0.0.1:9")
    with (
        grows(name, operation="head_bucket", outcome="unavailable"),
        pytest.raises(StoreUnavailable),
    ):
        away.storage.ping()


# Listener


def delivery(routing_key, body):
    return Delivery(routing_key, body, "m:1", "r-1", delivery_tag=0)


@pytest.fixture
def run(world):
    """Let a listener take some deliveries, as one batch."""

    def take(*deliveries):
        stopping = threading.Event()
        broker = InlineBroker(lambda job: failed(job.media_id), stopping)
        broker._results.extend(deliveries)
        Listener(world.lifecycle, broker, stopping, poll_seconds=0.02).run_once()

    return take


def test_answers_are_counted_by_what_they_have_come_to(world, run):
    job = world.claimed()
    good = delivery(*encode(processed(job)))
    stray = delivery(*encode(processed(uuid4())))
    name = "media_results_total"
    with (
        grows(name, routing_key=MEDIA_PROCESSED, outcome="applied"),
        grows(name, routing_key=MEDIA_PROCESSED, outcome="duplicate"),
        grows(name, routing_key=MEDIA_PROCESSED, outcome="stray"),
        grows(name, routing_key=MEDIA_FAILED, outcome="malformed"),
        grows(name, routing_key="other", outcome="malformed"),
        grows("media_transitions_total", transition="processed"),
        grows("media_time_to_ready_seconds_count"),
    ):
        run(good, good, stray, delivery(MEDIA_FAILED, b"{"), delivery("made.up", b"{}"))


def test_the_failure_of_a_last_attempt_is_counted_as_the_end_alone(world):
    job = world.claimed()
    world.set(job.media_id, attempts_left=0)
    with (
        grows("media_transitions_total", transition="processing_failed"),
        grows("media_transitions_total", by=0, transition="attempt_failed"),
    ):
        world.apply(failed(job, retryable=True))


def test_outcomes_are_told_in_the_order_of_the_results(world):
    job, other, pending = world.claimed(), world.claimed(), world.request()
    outcomes = world.apply(
        processed(pending.media_id),
        failed(uuid4()),
        processed(job),
        processed(job),
        failed(other),
        failed(other),
        processed(uuid4()),
    )
    assert outcomes == [
        ResultOutcome.DUPLICATE,
        ResultOutcome.DUPLICATE,
        ResultOutcome.APPLIED,
        ResultOutcome.DUPLICATE,
        ResultOutcome.APPLIED,
        ResultOutcome.DUPLICATE,
        ResultOutcome.STRAY,
    ]


def test_of_a_success_that_comes_twice_in_one_batch_the_first_is_applied(world):
    job = world.claimed()
    outcomes = world.apply(processed(job), processed(job))
    assert outcomes == [ResultOutcome.APPLIED, ResultOutcome.DUPLICATE]


def test_time_to_ready_begins_with_complete_and_anew_with_a_retry(world):
    name = "media_time_to_ready_seconds_sum"
    job = world.claimed()
    world.age(job.media_id, seconds=100)
    before = value(name)
    world.apply(processed(job))
    assert 100 <= value(name) - before < 200
    media_id = world.failed()
    world.age(media_id, days=3)
    world.processing.retry(media_id)
    before = value(name)
    world.apply(processed(media_id))
    assert 0 <= value(name) - before < 100


def test_of_a_job_from_before_its_time_was_kept_no_time_to_ready_is_told(world):
    media_id = world.insert(attempt=1)
    before = value("media_time_to_ready_seconds_count")
    world.apply(processed(media_id))
    assert world.status(media_id) == "ready"
    assert value("media_time_to_ready_seconds_count") == before


def test_what_is_due_is_measured_by_kind_with_its_age(world):
    ago = timedelta(seconds=500)
    now = world.now()
    world.insert(due_at=now - ago, attempts_left=1)
    world.insert(due_at=now - ago / 5, attempts_left=0)
    world.insert(due_at=now - ago / 10, status="pending", raw_etag=None)
    world.insert(due_at=now - 2 * ago, deleted_at=now)
    world.insert(due_at=now - ago, deleted_at=now)
    world.insert(due_at=now + ago)
    asked_at = world.now()
    due = world.lifecycle.statistics.due()
    passed = (world.now() - asked_at).total_seconds()
    assert {kind: work.count for kind, work in due.items()} == {
        "dispatch": 1,
        "give_up": 1,
        "expire": 1,
        "purge": 2,
    }
    before = (asked_at - now).total_seconds()
    ages = {"dispatch": 500, "give_up": 100, "expire": 50, "purge": 1000}
    for kind, seconds in ages.items():
        later = due[kind].oldest_age_seconds - seconds - before
        assert -0.01 < later < passed + 0.01  # SQLite's clock has milliseconds


def test_when_nothing_is_due_there_is_a_zero_of_each_kind(world):
    world.insert(due_at=world.now() + timedelta(days=1))
    due = world.lifecycle.statistics.due()
    assert {(work.count, work.oldest_age_seconds) for work in due.values()} == {(0, 0.0)}
    assert tuple(due) == statistics.DUE_KINDS


def test_measuring_looks_at_the_longest_due_only(world, monkeypatch):
    monkeypatch.setattr(statistics, "MAX_COUNTED", 2)
    now = world.now()
    for seconds in (300, 200, 100):
        world.insert(due_at=now - timedelta(seconds=seconds))
    work = world.lifecycle.statistics.due()["dispatch"]
    assert work.count == 2
    assert 300 <= work.oldest_age_seconds < 350


def test_the_listener_shows_what_it_measures(world, run):
    world.insert(due_at=world.now() - timedelta(seconds=500), attempts_left=0)
    run()
    assert sample("media_due_media", kind="give_up") == 1
    assert 500 <= sample("media_due_oldest_age_seconds", kind="give_up") < 600
    for kind in set(statistics.DUE_KINDS) - {"give_up"}:
        assert sample("media_due_media", kind=kind) == 0
        assert sample("media_due_oldest_age_seconds", kind=kind) == 0
    assert abs(value("media_last_loop_timestamp_seconds", process="listener") - time.time()) < 60


def test_dispatches_and_purges_are_counted(world, run):
    world.completed()
    world.delete(world.pending())
    with (
        grows("media_dispatches_total", attempt="first", outcome="published"),
        grows("media_purges_total", outcome="done"),
    ):
        run()


def test_a_purge_after_which_objects_are_there_again_is_counted_and_told(world, run, monkeypatch):
    world.delete(world.ready())
    monkeypatch.setattr(world.storage, "delete_objects", lambda bucket, keys: None)
    with (
        grows("media_purges_total", outcome="postponed"),
        grows("media_purges_total", by=0, outcome="done"),
        capture_logs() as lines,
    ):
        run()
    (line,) = [line for line in lines if line["event"] == "purge_postponed"]
    assert (line["count"], line["reason"]) == (1, "objects are there again")


# Worker


def rendered(original):
    return Rendered(Rendition("main", b"RIFF" + bytes(8) + b"WEBP", 64, 48), (), "1QcSHQRnh493")


def corrupt(original):
    raise ImageError("corrupt_image", "broken")


@pytest.mark.parametrize(
    ("render", "outcome", "written", "codes"),
    [(rendered, "processed", 16, 0), (corrupt, "failed", 0, 1)],
)
def test_jobs_are_counted_by_format_and_outcome(world, render, outcome, written, codes):
    job = world.claimed()
    worker = Worker(world.storage, render)
    name = "media_processing_duration_seconds_count"
    with (
        grows(name, format="jpeg", outcome=outcome),
        grows("media_processing_failures_total", by=codes, code="corrupt_image"),
        grows("media_processed_bytes_total", by=job.size_bytes, direction="in", format="jpeg"),
        grows("media_processed_bytes_total", by=written, direction="out", format="jpeg"),
    ):
        worker.process(job)


def test_a_job_whose_store_is_away_is_counted_too():
    worker = Worker(Storage(worker_settings()), rendered)
    name = "media_processing_duration_seconds_count"
    with (
        grows(name, format="other", outcome="failed"),
        grows("media_processing_failures_total", code="store_unavailable"),
    ):
        worker.process(process_request(content_type="application/made-up"))


def test_labels_are_bounded():
    assert routing_key_label("media.process") == "media.process"
    assert routing_key_label("x" * 255) == "other"
    assert format_label("image/jpeg") == "jpeg"
    assert format_label("image/x-made-up") == "other"


@pytest.mark.slow
def test_rare_faults_are_shown_before_the_first_of_them():
    """In a process of its own: other tests have made series in this one."""
    program = (
        "import prometheus_client, mediaservice.metrics\n"
        "print(prometheus_client.generate_latest().decode())"
    )
    shown = subprocess.run(
        [sys.executable, "-c", program],
        cwd=PROJECT,
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout.splitlines()
    for series in (
        'media_transitions_total{transition="attempts_exhausted"}',
        'media_broker_publishes_total{outcome="refused"}',
        'media_purges_total{outcome="postponed"}',
        'media_processing_failures_total{code="internal_error"}',
    ):
        assert f"{series} 0.0" in shown


# The port of listener and worker


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


def get(app, path):
    started = {}

    def start_response(status, headers):
        started["status"] = int(status.split()[0])

    environ = {"PATH_INFO": path, "REQUEST_METHOD": "GET", "QUERY_STRING": ""}
    body = b"".join(app(environ, start_response)).decode()
    return started["status"], body


def test_a_process_is_healthy_while_it_goes_round_its_loop():
    clock = Clock()
    heartbeat = Heartbeat("test", clock)
    app = create_monitoring_app(heartbeat)
    assert get(app, "/healthz")[0] == 200
    clock.now += MAX_LOOP_SECONDS + 1
    assert get(app, "/healthz") == (503, "the loop has stalled\n")
    heartbeat.beat()
    assert get(app, "/healthz")[0] == 200
    assert "media_last_loop_timestamp_seconds" in get(app, "/metrics")[1]
    assert get(app, "/")[0] == 404


def test_there_is_no_port_unless_one_is_set():
    assert start_monitoring(worker_settings(), Heartbeat("test")) is None


def has_ipv6():
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        pytest.param("::1", marks=pytest.mark.skipif(not has_ipv6(), reason="no IPv6 here")),
    ],
)
def test_the_port_is_served_by_either_version_of_ip(host):
    port = find_free_ports((0,))
    server = start_monitoring(worker_settings(METRICS_HOST=host, METRICS_PORT=port), Heartbeat("x"))
    try:
        connection = HTTPConnection(host, port, timeout=10)
        connection.request("GET", "/healthz")
        assert connection.getresponse().status == 200
        connection.close()
    finally:
        server.shutdown()
        server.server_close()


def test_a_port_that_is_taken_is_a_fault_of_the_configuration(silent_port):
    with pytest.raises(ConfigurationError, match=f"cannot listen on 127.0.0.1:{silent_port}"):
        start_monitoring(worker_settings(METRICS_PORT=silent_port), Heartbeat("test"))
