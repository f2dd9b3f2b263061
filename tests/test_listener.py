"""The loop on real servers: answers in, due work out, and nothing in anybody's way."""

import socket
import threading
import time
from contextlib import ExitStack, contextmanager
from uuid import uuid4

import msgspec
import pytest
import sqlalchemy as sa

from devstack.process import wait_until
from mediaservice import create_listener
from mediaservice.broker import (
    DEAD_LETTER_QUEUE,
    EXCHANGE,
    PROCESS_QUEUE,
    REASON_HEADER,
    RESULTS_QUEUE,
)
from mediaservice.broker.inline import InlineBroker
from mediaservice.database import now_plus
from mediaservice.lifecycle import Lifecycle
from mediaservice.listener import FAULT_WAIT_SECONDS, Listener
from mediaservice.messages import (
    MEDIA_FAILED,
    MEDIA_PROCESS,
    MEDIA_PROCESSED,
    decode,
    encode,
)
from mediaservice.models import Media
from mediaservice.monitoring import MAX_LOOP_SECONDS, Heartbeat
from mediaservice.storage import StoreUnavailable
from mediaworker.worker import Worker
from tests.builders import process_request
from tests.counters import grows, value
from tests.queues import acknowledged, answer, count, put, run_until, settled, take
from tests.world import failed, processed


def all_settled(listener, amqp):
    listener._broker.close()
    return settled(amqp, RESULTS_QUEUE) and not count(amqp, DEAD_LETTER_QUEUE)


def test_a_due_job_is_published_with_its_request_id(world, listener, amqp):
    media_id = world.pending()
    world.uploads.complete(media_id, caller=world.owner, request_id="trace-7")
    run_until(listener, lambda: count(amqp, PROCESS_QUEUE), "the job")
    method, properties, body = take(amqp, PROCESS_QUEUE)
    job = decode(method.routing_key, body)
    assert (job.media_id, job.attempt) == (media_id, 1)
    assert (properties.message_id, properties.correlation_id) == (f"{media_id}:1", "trace-7")
    for _ in range(5):
        listener.run_once()
    assert count(amqp, PROCESS_QUEUE) == 0


def test_answers_are_applied_and_acknowledged(world, listener, amqp):
    good, bad, known = world.claimed(), world.claimed(), acknowledged()
    answer(amqp, processed(good))
    answer(amqp, failed(bad, code="corrupt_image"))
    run_until(listener, lambda: acknowledged() == known + 2, "both answers")
    assert (world.status(good.media_id), world.status(bad.media_id)) == ("ready", "failed")
    assert all_settled(listener, amqp)


def test_an_answer_of_a_minimal_foreign_worker_is_enough(world, listener, amqp):
    job = world.claimed()
    body = f'{{"media_id": "{job.media_id}", "public_key": "{job.public_prefix}x.jpg"}}'
    put(amqp, MEDIA_PROCESSED, body.encode())
    run_until(listener, lambda: world.status(job.media_id) == "ready", "the answer")
    assert world.row(job.media_id).public_key == f"{job.public_prefix}x.jpg"


@pytest.mark.parametrize(
    ("routing_key", "body", "reason"),
    [
        (MEDIA_PROCESSED, b"garbage", "malformed"),
        (MEDIA_FAILED, b"{}", "media_id"),
        (MEDIA_PROCESSED, b'{"media_id": "%s", "public_key": "../x"}' % (b"0" * 32), "public_key"),
    ],
)
def test_a_malformed_answer_is_set_aside_and_the_rest_is_applied(
    world, listener, amqp, routing_key, body, reason
):
    job, known = world.claimed(), acknowledged()
    put(amqp, routing_key, body)
    answer(amqp, processed(job))
    run_until(listener, lambda: acknowledged() == known + 2, "both")
    assert world.status(job.media_id) == "ready"
    _, properties, dead = take(amqp, DEAD_LETTER_QUEUE)
    assert dead == body
    assert reason in properties.headers[REASON_HEADER]
    assert all_settled(listener, amqp)


def test_an_unknown_kind_of_message_is_set_aside(world, listener, amqp):
    put(amqp, RESULTS_QUEUE, b"{}", exchange="")
    run_until(listener, lambda: count(amqp, DEAD_LETTER_QUEUE), "the dead letter")
    assert "unknown routing key" in take(amqp, DEAD_LETTER_QUEUE)[1].headers[REASON_HEADER]


def test_a_job_among_the_answers_is_set_aside(world, listener, amqp):
    amqp.queue_bind(RESULTS_QUEUE, EXCHANGE, MEDIA_PROCESS)
    put(amqp, *encode(process_request()))
    amqp.queue_unbind(RESULTS_QUEUE, EXCHANGE, MEDIA_PROCESS)
    run_until(listener, lambda: count(amqp, DEAD_LETTER_QUEUE), "the dead letter")
    assert "a job is not" in take(amqp, DEAD_LETTER_QUEUE)[1].headers[REASON_HEADER]


def test_values_that_the_database_refuses_are_set_aside_and_the_rest_is_applied(
    world, listener, amqp
):
    with world.engine.begin() as connection:
        connection.execute(sa.text("ALTER TABLE media ADD CHECK (width <> 13)"))
    jobs = [world.claimed() for _ in range(4)]
    for job, width in zip(jobs, (12, 13, 14, 15), strict=True):
        answer(amqp, processed(job, width=width))
    good = [jobs[0], jobs[2], jobs[3]]
    run_until(
        listener,
        lambda: {world.status(job.media_id) for job in good} == {"ready"},
        "the good answers",
    )
    _, properties, body = take(amqp, DEAD_LETTER_QUEUE)
    assert str(jobs[1].media_id).encode() in body
    assert "refuses" in properties.headers[REASON_HEADER]
    assert world.status(jobs[1].media_id) == "processing"


def test_neither_answers_nor_due_work_wait_for_the_other(world, listener, amqp):
    answered = [world.insert(attempt=1, due_at=now_plus(600)) for _ in range(250)]
    for media_id in answered:
        answer(amqp, processed(media_id))
    due = [world.insert() for _ in range(120)]
    doomed = world.ready()
    world.delete(doomed)
    wait_until(lambda: count(amqp, RESULTS_QUEUE) == 250, seconds=10, what="the answers")

    def progress():
        return (
            world.count(Media.c.status == "ready", Media.c.deleted_at.is_(None)),
            world.count(Media.c.id.in_(due), Media.c.attempt == 1),
            world.is_empty(doomed),
        )

    for _ in range(2):
        listener.run_once()
    assert all(progress())
    run_until(listener, lambda: progress() == (250, 120, True), "everything")
    assert count(amqp, PROCESS_QUEUE) == 120


def test_a_steady_stream_of_answers_does_not_hold_up_due_work(world, listener, amqp):
    stranger, media_id = world.ready(), world.completed()
    for _ in range(30):
        answer(amqp, processed(stranger))
        listener.run_once()
        if world.row(media_id).attempt:
            return
    pytest.fail("the job was never published")


def test_what_is_due_is_done(world, listener):
    expired, exhausted, retired, deleted = (
        world.request().media_id,
        world.claimed().media_id,
        world.failed(),
        world.ready(),
    )
    world.age(expired, 1300)
    world.set(exhausted, attempts_left=0)
    world.age(exhausted, 601)
    world.age(retired, days=8)
    world.delete(deleted)
    run_until(
        listener,
        lambda: (
            world.status(expired) == "failed"
            and world.status(exhausted) == "failed"
            and world.status(retired) == "deleted"
            and world.is_empty(deleted)
            and world.is_empty(retired)
        ),
        "everything that is due",
    )
    assert world.row(expired).error_code == "upload_expired"
    assert world.row(exhausted).error_code == "processing_timeout"


def test_a_resend_is_held_while_jobs_wait_in_the_queue(world, listener, amqp):
    job = world.claimed()
    put(amqp, *encode(job))
    world.age(job.media_id, 601)
    run_until(listener, lambda: world.row(job.media_id).attempts_left == 1, "the held resend")
    for _ in range(3):
        listener.run_once()
    assert count(amqp, PROCESS_QUEUE) == 1
    take(amqp, PROCESS_QUEUE)
    world.age(job.media_id, 601)
    run_until(listener, lambda: count(amqp, PROCESS_QUEUE), "the resend")
    assert decode(MEDIA_PROCESS, take(amqp, PROCESS_QUEUE)[2]).attempt == 2


def test_a_resend_with_attempts_left_is_published_when_no_job_waits(world, listener, amqp):
    job = world.claimed()
    world.age(job.media_id, 601)
    run_until(listener, lambda: count(amqp, PROCESS_QUEUE), "the resend")
    assert decode(MEDIA_PROCESS, take(amqp, PROCESS_QUEUE)[2]).attempt == 2
    assert world.row(job.media_id).attempts_left == 1


def test_two_listeners_publish_every_job_once(make_world, make_listener, amqp):
    worlds = make_world(), make_world()
    media_ids = {worlds[0].insert() for _ in range(60)}
    listeners = [make_listener(world) for world in worlds]
    threads = [threading.Thread(target=listener.run) for listener in listeners]
    for thread in threads:
        thread.start()
    try:
        wait_until(lambda: count(amqp, PROCESS_QUEUE) == 60, seconds=20, what="all jobs")
    finally:
        for listener in listeners:
            listener.stop()
        for thread in threads:
            thread.join()
    jobs = [decode(MEDIA_PROCESS, take(amqp, PROCESS_QUEUE)[2]) for _ in range(60)]
    assert {job.media_id for job in jobs} == media_ids
    assert {job.attempt for job in jobs} == {1}


def test_stopping_finishes_what_is_in_hand_and_leaves_the_rest_to_others(
    world, make_listener, amqp
):
    media_ids = [world.insert(attempt=1, due_at=now_plus(600)) for _ in range(300)]
    for media_id in media_ids:
        answer(amqp, processed(media_id))
    listener = make_listener(world)
    acknowledge = listener._broker.ack

    def acknowledge_and_stop(deliveries):
        acknowledge(deliveries)
        listener.stop()

    listener._broker.ack = acknowledge_and_stop
    listener.run()
    left = world.count(Media.c.status == "processing")
    assert 0 < left < len(media_ids)
    wait_until(lambda: count(amqp, RESULTS_QUEUE) == left, seconds=10, what="the rest to be back")


def put_off(listener):
    """Leave a listener nothing to do for a minute but to take answers."""
    later = time.monotonic() + 60
    listener._dispatch_at = listener._housekeeping_at = listener._sample_at = later


def test_a_stop_is_heard_while_there_is_no_broker(world, make_listener):
    listener = make_listener(world, "amqp://guest:guest@127.0.0.1:9/")
    put_off(listener)
    thread = threading.Thread(target=listener.run)
    thread.start()
    link = listener._broker._consuming
    wait_until(lambda: link._wait_seconds, seconds=10, what="the first refusal")
    listener.stop()
    thread.join(timeout=10)
    assert not thread.is_alive()


def test_a_stop_is_heard_while_the_broker_says_nothing(world, make_listener, monkeypatch):
    monkeypatch.setattr("mediaservice.broker.connection.CONNECT_SECONDS", 1)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        listener = make_listener(world, f"amqp://guest:guest@127.0.0.1:{mute.getsockname()[1]}/")
        thread = threading.Thread(target=listener.run)
        thread.start()
        connection, _ = mute.accept()
        with connection:
            listener.stop()
            thread.join(timeout=10)
            is_stopped = not thread.is_alive()
    thread.join()
    assert is_stopped


def test_an_idle_loop_waits_instead_of_spinning(world, listener):
    listener._poll_seconds = 0.1
    listener.run_once()
    started_at = time.monotonic()
    for _ in range(10):
        listener.run_once()
    # All but two: the first has waited in part while the turn before it ended, and another may end
    # early, for housekeeping.
    assert time.monotonic() - started_at >= 8 * listener._poll_seconds


class _SlowPurges:
    """A store whose purges take long, by a clock of the test's; `on_purge` is called in each."""

    def __init__(self, storage, on_purge):
        self._storage = storage
        self._on_purge = on_purge

    def purge(self, **keys):
        self._on_purge()
        return self._storage.purge(**keys)

    def __getattr__(self, name):
        return getattr(self._storage, name)


def purging_listener(world, on_purge, stopping, heartbeat=None):
    storage = _SlowPurges(world.storage, on_purge)
    return Listener(
        Lifecycle(world.engine, storage, world.settings),
        InlineBroker(processed, stopping),
        stopping,
        poll_seconds=0.02,
        heartbeat=heartbeat,
    )


def test_a_stop_is_heard_between_two_purges(world):
    deleted = [world.ready() for _ in range(3)]
    for media_id in deleted:
        world.delete(media_id)
    stopping = threading.Event()
    purging_listener(world, stopping.set, stopping).run_once()
    assert sorted(world.is_empty(media_id) for media_id in deleted) == [False, False, True]


def test_a_loop_with_many_slow_purges_is_not_taken_for_one_that_hangs(world):
    for _ in range(3):
        world.delete(world.ready())
    clock = [0.0]
    heartbeat = Heartbeat("listener", lambda: clock[0])
    seen = []

    def on_purge():
        clock[0] += 0.9 * MAX_LOOP_SECONDS
        seen.append(heartbeat.is_fresh)

    listener = purging_listener(world, on_purge, threading.Event(), heartbeat)
    while len(seen) < 3:
        listener.run_once()
    assert seen == [True] * 3


def test_a_round_purges_for_a_while_and_the_next_one_goes_on(world, monkeypatch):
    deleted = [world.ready() for _ in range(3)]
    for media_id in deleted:
        world.delete(media_id)
    monkeypatch.setattr("mediaservice.listener.PURGE_SECONDS", 0.05)
    purged = []

    def on_purge():
        purged.append(len(purged))
        threading.Event().wait(0.06)

    listener = purging_listener(world, on_purge, threading.Event())
    for rounds in (1, 2, 3):
        listener.run_once()
        assert len(purged) == rounds
    assert all(world.is_empty(media_id) for media_id in deleted)


def test_a_store_that_is_away_is_left_alone_for_a_while(world):
    asked = []

    def on_purge():
        asked.append(len(asked))
        raise StoreUnavailable("away")

    listener = purging_listener(world, on_purge, threading.Event())
    for _ in range(2):
        world.delete(world.ready())
        listener._housekeeping_at = 0
        listener.run_once()
    assert len(asked) == 1
    listener._purge_at = listener._housekeeping_at = 0
    listener.run_once()
    assert len(asked) == 2


def test_a_database_that_is_away_is_left_alone_for_a_while(make_world, monkeypatch):
    world = make_world(DATABASE_URL="postgresql://media:media@127.0.0.1:9/media")
    stopping, pauses = threading.Event(), []
    broker = InlineBroker(processed, stopping)
    monkeypatch.setattr(broker, "sleep", pauses.append)
    Listener(world.lifecycle, broker, stopping, poll_seconds=0.02).run_once()
    assert pauses == [FAULT_WAIT_SECONDS]


def test_the_last_attempt_is_published_though_jobs_wait_in_the_queue(world, listener, amqp):
    job = world.claimed()
    put(amqp, *encode(msgspec.structs.replace(job, media_id=uuid4())))
    world.set(job.media_id, attempts_left=1)
    world.age(job.media_id, 601)
    run_until(listener, lambda: count(amqp, PROCESS_QUEUE) == 2, "the last attempt")
    take(amqp, PROCESS_QUEUE)
    assert decode(MEDIA_PROCESS, take(amqp, PROCESS_QUEUE)[2]).attempt == 2


def test_without_a_broker_jobs_are_answered_inside_the_loop(world):
    stopping = threading.Event()

    def work(job):
        key = world.put_public(job.media_id)
        return processed(job.media_id, attempt=job.attempt) if key else None

    broker = InlineBroker(work, stopping)
    listener = Listener(world.lifecycle, broker, stopping, poll_seconds=0.02)
    media_ids = [world.completed() for _ in range(3)]
    run_until(
        listener, lambda: {world.status(m) for m in media_ids} == {"ready"}, "all to be ready"
    )


@pytest.mark.parametrize("database", ["postgresql_url", "sqlite_url"])
def test_without_a_broker_a_media_is_ready_before_the_next_is_begun(
    request, make_world, monkeypatch, database
):
    world = make_world(DATABASE_URL=request.getfixturevalue(database))
    media_ids = [world.completed() for _ in range(3)]
    ready_before = []

    def work(_worker, job):
        ready_before.append([world.status(m) for m in media_ids].count("ready"))
        world.put_public(job.media_id)
        return processed(job)

    monkeypatch.setattr(Worker, "process", work)
    listener = create_listener(world.settings)
    run_until(
        listener, lambda: {world.status(m) for m in media_ids} == {"ready"}, "all to be ready"
    )
    listener._lifecycle.rows.engine.dispose()
    assert ready_before == [0, 1, 2]


def test_without_a_broker_images_are_limited_as_a_worker_limits_them(make_world):
    world = make_world(MAX_IMAGE_PIXELS="100")
    media_id = world.completed()
    listener = create_listener(world.settings)
    run_until(listener, lambda: world.status(media_id) == "failed", "the refusal")
    listener._broker.close()
    listener._lifecycle.rows.engine.dispose()
    assert world.row(media_id).error_code == "image_too_large"


def test_answers_for_media_that_are_gone_are_acknowledged(world, listener, amqp):
    media_id, known = uuid4(), acknowledged()
    world.put_public(media_id)
    answer(amqp, processed(media_id))
    answer(amqp, failed(uuid4()))
    run_until(listener, lambda: acknowledged() == known + 2, "both answers")
    assert world.status(media_id) == "deleted"
    run_until(listener, lambda: world.is_empty(media_id), "the purge")
    assert all_settled(listener, amqp)


# a batch in flight


@pytest.fixture
def hold(world):
    """Keep the answer for a media in flight for a block, by holding its row."""

    @contextmanager
    def hold(media_id):
        with world.lifecycle.rows.begin() as holder:
            holder.execute(sa.select(Media.c.id).where(Media.c.id == media_id).with_for_update())
            yield

    return hold


def backends_waiting(world):
    """Return the processes of the server that wait for a lock."""
    waiting = sa.text(
        "SELECT pid FROM pg_stat_activity"
        " WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    with world.engine.connect() as connection:
        return [row.pid for row in connection.execute(waiting)]


def begin_to_take(world, listener, amqp, result):
    """Have a listener send an answer to PostgreSQL, where somebody holds its row."""
    # With anything else due it would wait for the answer.
    put_off(listener)
    answer(amqp, result)
    run_until(listener, lambda: listener._in_flight, "the answer")
    wait_until(lambda: backends_waiting(world), seconds=10, what="PostgreSQL to wait")
    listener._dispatch_at = listener._housekeeping_at = listener._sample_at = 0.0


def duplicates():
    """Return how many successes have changed nothing, as this process counts them."""
    return value("media_results_total", routing_key="media.processed", outcome="duplicate")


def test_a_batch_is_acknowledged_once_it_is_committed(world, listener, amqp, hold, monkeypatch):
    job = world.claimed()
    seen = []
    ack = listener._broker.ack

    def look_and_ack(deliveries):
        seen.append(world.status(job.media_id))
        ack(deliveries)

    monkeypatch.setattr(listener._broker, "ack", look_and_ack)
    with hold(job.media_id):
        begin_to_take(world, listener, amqp, processed(job))
        assert not seen
    run_until(listener, lambda: seen, "the acknowledgement")
    assert seen == ["ready"]
    assert all_settled(listener, amqp)


def test_the_next_batch_is_read_while_one_is_in_flight(world, listener, amqp, hold, monkeypatch):
    held, following = world.claimed(), world.claimed()
    consume, row_held = listener._broker.consume, ExitStack()

    def consume_and_let_go(*, limit, wait_seconds):
        assert wait_seconds == 0
        deliveries = consume(limit=limit, wait_seconds=10)
        row_held.close()
        return deliveries

    with row_held:
        row_held.enter_context(hold(held.media_id))
        begin_to_take(world, listener, amqp, processed(held))
        answer(amqp, processed(following))
        monkeypatch.setattr(listener._broker, "consume", consume_and_let_go)
        listener.run_once()
    assert (world.status(held.media_id), world.status(following.media_id)) == ("ready", "ready")
    assert all_settled(listener, amqp)


def test_a_refused_value_in_flight_is_set_aside_before_the_next_batch(
    world, listener, amqp, monkeypatch
):
    monkeypatch.setattr("mediaservice.listener.RESULT_BATCH", 2)
    with world.engine.begin() as connection:
        connection.execute(sa.text("ALTER TABLE media ADD CHECK (width <> 13)"))
    jobs = [world.claimed() for _ in range(5)]
    for job, width in zip(jobs, (12, 13, 14, 15, 16), strict=True):
        answer(amqp, processed(job, width=width))
    wait_until(lambda: count(amqp, RESULTS_QUEUE) == 5, seconds=10, what="the answers")
    good = [job.media_id for job in jobs if job is not jobs[1]]
    run_until(
        listener, lambda: {world.status(media_id) for media_id in good} == {"ready"}, "the good"
    )
    assert world.status(jobs[1].media_id) == "processing"
    assert str(jobs[1].media_id).encode() in take(amqp, DEAD_LETTER_QUEUE)[2]
    run_until(listener, lambda: not listener._in_flight, "the acknowledgement")
    assert all_settled(listener, amqp)


def test_a_batch_whose_connection_is_lost_is_applied_over_another(
    world, listener, amqp, hold, monkeypatch
):
    monkeypatch.setattr("mediaservice.listener.FAULT_WAIT_SECONDS", 0)
    job = world.claimed()
    with grows("media_listener_database_faults_total"):
        with hold(job.media_id):
            begin_to_take(world, listener, amqp, processed(job))
            terminate(world)
        run_until(listener, lambda: not listener._in_flight, "the answer")
    assert world.status(job.media_id) == "ready"
    assert all_settled(listener, amqp)


def terminate(world):
    """End the connection that waits for a lock, as a database does that goes away."""
    (pid,) = backends_waiting(world)
    with world.engine.connect() as connection:
        connection.execute(sa.text("SELECT pg_terminate_backend(:pid, 15000)"), {"pid": pid})


def test_stopping_finishes_the_batch_in_flight(world, listener, amqp, hold):
    job = world.claimed()
    with hold(job.media_id):
        begin_to_take(world, listener, amqp, processed(job))
        thread = threading.Thread(target=listener.run)
        listener.stop()
        thread.start()
    thread.join()
    assert world.status(job.media_id) == "ready"
    assert all_settled(listener, amqp)


def test_stopping_without_the_database_gives_back_the_batch_in_flight(world, listener, amqp, hold):
    job = world.claimed()
    with hold(job.media_id):
        begin_to_take(world, listener, amqp, processed(job))
        terminate(world)
        listener.stop()
        listener.run()
    wait_until(lambda: count(amqp, RESULTS_QUEUE) == 1, seconds=10, what="the answer to be back")
    assert world.status(job.media_id) == "processing"


def test_a_batch_in_flight_while_the_broker_is_lost_comes_again_and_changes_nothing(
    world, make_listener, make_proxy, rabbitmq, amqp, hold
):
    proxy = make_proxy(rabbitmq.port)
    listener = make_listener(world, f"amqp://guest:guest@127.0.0.1:{proxy.port}/")
    known = duplicates()
    job = world.claimed()
    with hold(job.media_id):
        begin_to_take(world, listener, amqp, processed(job))
        proxy.cut()
    run_until(listener, lambda: not listener._in_flight, "the answer")
    row = world.row(job.media_id)
    assert row.status == "ready"
    run_until(listener, lambda: duplicates() > known, "the redelivery")
    run_until(listener, lambda: not listener._in_flight, "its acknowledgement")
    assert all_settled(listener, amqp)
    assert world.row(job.media_id) == row


def test_a_listener_that_dies_with_a_batch_in_flight_harms_nobody(world, make_listener, amqp, hold):
    job = world.claimed()
    victim = make_listener(world)
    with hold(job.media_id):
        begin_to_take(world, victim, amqp, processed(job))
        victim._broker.close()
        del victim
        wait_until(lambda: count(amqp, RESULTS_QUEUE), seconds=10, what="the answer to be back")
    survivor, known = make_listener(world), acknowledged()
    run_until(survivor, lambda: acknowledged() == known + 1, "the redelivery")
    assert world.status(job.media_id) == "ready"
    assert all_settled(survivor, amqp)
