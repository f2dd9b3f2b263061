"""The failure matrix: each test breaks one thing, is named for it, and says what must hold.

In one process, where the moment of the fault can be chosen; `test_recovery` does without.
"""

import http.client
import itertools
import random
import threading
import time
from datetime import datetime, timedelta
from urllib.parse import parse_qs, urlsplit
from uuid import UUID, uuid4

import pytest
from sqlalchemy.exc import OperationalError

from devstack.process import wait_until
from mediaservice import create_app
from mediaservice.broker import DEAD_LETTER_QUEUE, EXCHANGE, PROCESS_QUEUE, RESULTS_QUEUE
from mediaservice.broker import rabbitmq as broker_module
from mediaservice.broker.rabbitmq import RabbitMQBroker
from mediaservice.broker.topology import DELIVERY_LIMIT
from mediaservice.messages import MEDIA_PROCESS, decode
from mediaservice.storage import ObjectNotFound, StoreUnavailable
from tests.builders import jpeg
from tests.counters import value
from tests.queues import acknowledged, answer, count, run_until, settled, take
from tests.service import put_upload
from tests.world import failed, processed

TURNS = 5


@pytest.fixture
def make_web():
    """Make the API's client over a world."""
    engines = []

    def make(world):
        app = create_app(world.settings)
        engines.append(app.extensions["media"].lifecycle.rows.engine)
        client = app.test_client()

        def call(method, path="", **arguments):
            headers = {"X-User-ID": str(world.owner)}
            return client.open(f"/api/media{path}", method=method, headers=headers, **arguments)

        return call

    yield make
    for engine in engines:
        engine.dispose()


@pytest.fixture
def store_proxy(make_proxy, seaweedfs):
    return make_proxy(seaweedfs.port)


@pytest.fixture
def world_by_proxy(make_world, store_proxy, seaweedfs):
    """A world whose way to the store can be cut; browsers have their own."""
    return make_world(
        S3_ENDPOINT=f"http://127.0.0.1:{store_proxy.port}", S3_PUBLIC_ENDPOINT=seaweedfs.endpoint
    )


@pytest.fixture
def broker_proxy(make_proxy, rabbitmq):
    return make_proxy(rabbitmq.port)


def next_job(amqp):
    return decode(MEDIA_PROCESS, take(amqp, PROCESS_QUEUE)[2])


def turn(listener, turns=TURNS):
    for _ in range(turns):
        listener.run_once()


def request_upload(web, body):
    declared = {"content_type": "image/jpeg", "size_bytes": len(body)}
    return web("POST", "/request-upload", json=declared).json


# the broker


def test_broker_down_at_complete(world, make_web, make_listener, broker_proxy, amqp):
    web = make_web(world)
    listener = make_listener(world, f"amqp://guest:guest@127.0.0.1:{broker_proxy.port}/")
    broker_proxy.refuse()
    media_id = world.pending()
    assert web("POST", "/complete", json={"upload_id": str(media_id)}).status_code == 202
    turn(listener)
    assert world.row(media_id).attempts_left == 3, "no attempt is spent on a broker that is away"
    broker_proxy.accept()
    run_until(listener, lambda: count(amqp, PROCESS_QUEUE), "the job")
    assert next_job(amqp).attempt == 1


def test_connection_lost_in_the_middle_of_publishing(
    world, make_listener, broker_proxy, amqp, monkeypatch
):
    listener = make_listener(world, f"amqp://guest:guest@127.0.0.1:{broker_proxy.port}/")
    media_ids = {world.insert() for _ in range(10)}
    publish, numbers, lost = broker_module._publish_one, itertools.count(1), threading.Event()

    def publish_and_lose(channel, publication):
        publish(channel, publication)
        if next(numbers) == 4:
            broker_proxy.cut()
            lost.set()

    monkeypatch.setattr(broker_module, "_publish_one", publish_and_lose)
    run_until(listener, lost.is_set, "the loss")
    assert 4 <= count(amqp, PROCESS_QUEUE) < 10, "a queue that is not empty holds nobody back"
    for media_id in media_ids:
        world.age(media_id, 11)
    run_until(listener, lambda: count(amqp, PROCESS_QUEUE) >= 10, "the rest")
    jobs = [next_job(amqp) for _ in range(count(amqp, PROCESS_QUEUE))]
    assert {job.media_id for job in jobs} == media_ids
    assert {world.row(media_id).attempts_left for media_id in media_ids} == {2}


def refused_publishes():
    return value("media_broker_publishes_total", outcome="refused")


def test_unroutable_publish(world, listener, amqp):
    before = refused_publishes()
    turn(listener)  # every connection declares the topology anew
    amqp.queue_unbind(PROCESS_QUEUE, EXCHANGE, MEDIA_PROCESS)
    media_id = world.completed()
    run_until(
        listener,
        lambda: refused_publishes() == before + 1,
        "the alarm",
    )
    row = world.row(media_id)
    assert (row.status, row.attempts_left) == ("processing", 3)
    assert row.due_at > world.now()
    amqp.queue_bind(PROCESS_QUEUE, EXCHANGE, MEDIA_PROCESS)
    world.age(media_id, 11)
    run_until(listener, lambda: count(amqp, PROCESS_QUEUE), "the job")


# crashes


class Crash(BaseException):
    """The process is gone: nothing after this line is run."""


def crash(*_args, **_keywords):
    raise Crash


def test_crash_after_claim_and_before_publish(world, make_listener, amqp, monkeypatch):
    media_id = world.completed()
    victim = make_listener(world)
    with monkeypatch.context() as patch:
        patch.setattr(victim._broker, "publish", crash)
        with pytest.raises(Crash):
            run_until(victim, lambda: False, "the crash")
    victim._broker.close()
    assert count(amqp, PROCESS_QUEUE) == 0
    survivor = make_listener(world)
    turn(survivor)
    assert count(amqp, PROCESS_QUEUE) == 0, "it may still be on its way"
    world.age(media_id, 601)
    run_until(survivor, lambda: count(amqp, PROCESS_QUEUE), "the job")
    job = next_job(amqp)
    answer(amqp, processed(job))
    run_until(survivor, lambda: world.status(media_id) == "ready", "the answer")


def test_crash_of_the_worker_with_the_job_in_hand(world, listener, amqp, rabbitmq):
    media_id = world.completed()
    run_until(listener, lambda: count(amqp, PROCESS_QUEUE), "the job")
    jobs = []
    for number in (1, 2):
        worker = RabbitMQBroker(rabbitmq.url, queue=PROCESS_QUEUE, prefetch=1)
        wait_until(
            lambda worker=worker, number=number: (
                jobs.extend(worker.consume(limit=1, wait_seconds=1)) or len(jobs) == number
            ),
            seconds=10,
            what="the job",
        )
        worker.close()
    first, again = (decode(job.routing_key, job.body) for job in jobs)
    assert first == again
    assert again.media_id == media_id
    assert jobs[1].redelivered


def test_crash_of_the_worker_that_loses_the_job(world, listener, amqp):
    media_id = world.completed()
    run_until(listener, lambda: count(amqp, PROCESS_QUEUE), "the job")
    lost = next_job(amqp)
    world.age(media_id, 601)
    run_until(listener, lambda: count(amqp, PROCESS_QUEUE), "the job again")
    assert next_job(amqp).attempt == lost.attempt + 1
    for _ in range(2):
        world.age(media_id, 601)
        turn(listener)
        amqp.queue_purge(PROCESS_QUEUE)
    run_until(listener, lambda: world.status(media_id) == "failed", "the end")
    assert world.row(media_id).error_code == "processing_timeout"
    answer(amqp, processed(lost))
    run_until(listener, lambda: world.status(media_id) == "ready", "the late success")


def test_crash_after_commit_and_before_ack(world, make_listener, amqp, monkeypatch):
    job = world.claimed()
    answer(amqp, processed(job))
    victim = make_listener(world)
    with monkeypatch.context() as patch:
        patch.setattr(victim._broker, "ack", crash)
        with pytest.raises(Crash):
            run_until(victim, lambda: False, "the crash")
    before = world.row(job.media_id)
    assert before.status == "ready"
    victim._broker.close()
    wait_until(lambda: count(amqp, RESULTS_QUEUE), seconds=10, what="the answer to be back")
    survivor, known = make_listener(world), acknowledged()
    run_until(survivor, lambda: acknowledged() == known + 1, "the redelivery")
    survivor._broker.close()
    assert settled(amqp, RESULTS_QUEUE)
    assert count(amqp, DEAD_LETTER_QUEUE) == 0
    assert world.row(job.media_id) == before


# results


def test_duplicate_reordered_and_late_results(world, listener, amqp):
    for _ in range(4):
        first = world.claimed()
        world.age(first.media_id, 601)
        (second,) = world.processing.claim(1)
        results = [
            processed(first),
            failed(first, retryable=True),
            failed(second.job, code="decoder_timeout"),
            failed(second.job, code="store_unavailable", retryable=True),
        ] * 2
        random.shuffle(results)
        for result in results:
            answer(amqp, result)
            if random.random() < 0.3:
                listener.run_once()
        media_id = first.media_id
        run_until(
            listener,
            lambda media_id=media_id: (
                world.status(media_id) == "ready" and not count(amqp, RESULTS_QUEUE)
            ),
            "the success",
        )
        turn(listener)
        row = world.row(media_id)
        assert (row.status, row.error_code, row.due_at) == ("ready", None, None)
    assert count(amqp, DEAD_LETTER_QUEUE) == 0


def test_result_for_a_deleted_id(world, listener, amqp):
    job = world.claimed()
    world.delete(job.media_id)
    run_until(listener, lambda: world.is_empty(job.media_id), "the purge")
    world.put_public(job.media_id)
    world.put_public(job.media_id, "w640.webp")
    answer(amqp, processed(job))
    run_until(listener, lambda: world.is_empty(job.media_id), "the second purge")
    assert world.status(job.media_id) == "deleted"


def test_result_for_an_id_that_is_gone_for_good(world, listener, amqp):
    job = world.claimed()
    world.delete(job.media_id)
    world.age(job.media_id, 1300)
    run_until(listener, lambda: world.row(job.media_id) is None, "the row to go")
    world.put_public(job.media_id)
    answer(amqp, processed(job))
    run_until(listener, lambda: world.status(job.media_id) == "deleted", "a new tombstone")
    run_until(listener, lambda: world.is_empty(job.media_id), "the purge")


# deletion and late uploads


def test_delete_during_processing(world, listener, amqp):
    media_id = world.completed()
    run_until(listener, lambda: count(amqp, PROCESS_QUEUE), "the job")
    job = next_job(amqp)
    world.delete(media_id)
    run_until(listener, lambda: not world.has_original(media_id), "the purge")
    with pytest.raises(ObjectNotFound):
        world.storage.read_original(job.raw_key, etag=job.raw_etag)
    world.put_public(media_id)  # by a worker that had read it before
    world.age(media_id, 1300)
    run_until(listener, lambda: world.row(media_id) is None, "the row to go")
    assert world.is_empty(media_id)
    assert count(amqp, PROCESS_QUEUE) == 0


def test_delete_while_the_url_is_alive_and_then_put_again(world, make_web, listener):
    web, body = make_web(world), jpeg()
    presigned = request_upload(web, body)
    media_id = world.lifecycle.rows.page(
        owner_id=world.owner, owner_type=None, status=None, before=None, limit=1
    )[0].id
    assert put_upload(presigned, body).status_code == 200
    assert web("DELETE", f"/{media_id}").status_code == 204
    run_until(listener, lambda: world.is_empty(media_id), "the purge")
    assert put_upload(presigned, body).status_code == 200, (
        "the URL lives on, the store knows no better"
    )
    world.age(media_id, 1300)
    run_until(listener, lambda: world.row(media_id) is None, "the row to go")
    assert world.is_empty(media_id)


def test_slow_put_landing_after_expiry(world, make_web, listener):
    """The store looks at the signature when a request begins, not when its last byte comes."""
    web, body = make_web(world), jpeg(400, 400)
    presigned = request_upload(web, body)
    (row,) = world.lifecycle.rows.page(
        owner_id=world.owner, owner_type=None, status=None, before=None, limit=1
    )
    url = urlsplit(presigned["upload_url"])
    connection = http.client.HTTPConnection(url.hostname, url.port, timeout=10)
    connection.putrequest("PUT", f"{url.path}?{url.query}")
    for name, text in {**presigned["headers"], "Content-Length": str(len(body))}.items():
        connection.putheader(name, text)
    connection.endheaders(body[:100])
    world.age(row.id, 1300)
    run_until(listener, lambda: world.status(row.id) == "failed", "the expiry")
    run_until(listener, lambda: world.row(row.id).due_at > world.now(), "the purge")
    connection.send(body[100:])
    assert connection.getresponse().status == 200
    connection.close()
    answer_ = web("POST", "/complete", json={"upload_id": str(row.id)})
    assert (answer_.status_code, answer_.json["error"]) == (410, "upload_expired")
    assert world.has_original(row.id), "it landed, and its row knows of it"
    world.age(row.id, days=8)
    run_until(listener, lambda: world.status(row.id) == "deleted", "the retirement")
    run_until(listener, lambda: world.is_empty(row.id), "the purge of what landed")


# the store


def test_store_down_at_complete(world_by_proxy, make_web, store_proxy):
    world, web = world_by_proxy, make_web(world_by_proxy)
    media_id = world.pending()
    store_proxy.refuse()
    response = web("POST", "/complete", json={"upload_id": str(media_id)})
    assert (response.status_code, response.json["error"]) == (503, "store_unavailable")
    assert int(response.headers["Retry-After"]) > 0
    assert world.status(media_id) == "pending"
    store_proxy.accept()
    assert web("POST", "/complete", json={"upload_id": str(media_id)}).status_code == 202


def test_store_down_at_delete(world_by_proxy, make_web, store_proxy, make_listener):
    world, web = world_by_proxy, make_web(world_by_proxy)
    media_id = world.ready()
    store_proxy.refuse()
    assert web("DELETE", f"/{media_id}").status_code == 204
    assert web("GET", f"/{media_id}").status_code == 404
    store_proxy.accept()
    run_until(make_listener(world), lambda: world.is_empty(media_id), "the purge")


def test_store_down_at_purge(world_by_proxy, store_proxy, make_listener, amqp):
    world = world_by_proxy
    media_ids = [world.ready() for _ in range(3)]
    for media_id in media_ids:
        world.delete(media_id)
    job = world.claimed()
    store_proxy.refuse()
    victim = make_listener(world)
    answer(amqp, processed(job))
    run_until(victim, lambda: world.status(job.media_id) == "ready", "results to flow")
    run_until(
        victim,
        lambda: all(world.row(media_id).due_at > world.now() for media_id in media_ids),
        "the purges to be postponed",
    )
    store_proxy.accept()
    for media_id in media_ids:
        world.age(media_id, 31)
    survivor = make_listener(world)
    run_until(survivor, lambda: all(map(world.is_empty, media_ids)), "the purges")


def test_objects_that_may_not_be_deleted_keep_no_others_from_it(world, make_listener, monkeypatch):
    *stuck, other = (world.ready() for _ in range(6))
    for media_id in (*stuck, other):
        world.delete(media_id)
    locked = StoreUnavailable("delete_object: HTTP 403", is_refusal=True)
    purged = refuse(world, monkeypatch, stuck, locked)
    listener = make_listener(world)
    run_until(listener, lambda: len(purged) == 6, "the purges")
    assert sorted(purged) == sorted([*stuck, other])
    assert world.is_empty(other)
    for media_id in stuck:
        world.age(media_id, 31)
    run_until(listener, lambda: len(purged) == 11, "the next try")
    for media_id in stuck:
        world.age(media_id, 31)
    listener.run_once()
    listener.run_once()
    assert len(purged) == 11, "when nothing may be deleted, it is not tried all the time"


def refuse(world, monkeypatch, media_ids, error):
    """Have the store not delete the objects of these; return the ids that it was asked for."""
    purge, asked = world.storage.purge, []

    def refuse_some(*, raw_key, public_prefix):
        asked.append(UUID(raw_key.partition("/")[2]))
        if asked[-1] in media_ids:
            raise error
        return purge(raw_key=raw_key, public_prefix=public_prefix)

    monkeypatch.setattr(world.storage, "purge", refuse_some)
    return asked


def test_store_down_for_one_media_only(world, make_listener, monkeypatch):
    """One object that cannot be deleted must not keep all others from it."""
    stuck, *others = (world.ready() for _ in range(6))
    for media_id in (stuck, *others):
        world.delete(media_id)
    world.age(stuck, 60)
    refuse(world, monkeypatch, [stuck], StoreUnavailable("delete_object: HTTP 503"))
    for _ in range(60):
        make_listener(world).run_once()
        if all(map(world.is_empty, others)):
            break
        for media_id in (stuck, *others):
            if world.row(media_id):
                world.age(media_id, 31)
    assert all(map(world.is_empty, others))
    assert not world.is_empty(stuck)


# the database


def answers_taken():
    return value("media_broker_deliveries_total", routing_key="media.processed", redelivered="no")


def database_faults():
    return value("media_listener_database_faults_total")


def test_database_down_while_results_are_in_hand(
    world, make_world, make_listener, make_proxy, postgresql, amqp
):
    proxy = make_proxy(postgresql.port)
    job = world.claimed()
    by_proxy = world.settings.database_url.replace(f":{postgresql.port}/", f":{proxy.port}/")
    listener = make_listener(make_world(DATABASE_URL=by_proxy))
    run_until(listener, lambda: listener._broker._consuming.is_open, "the connection")
    proxy.refuse()
    thread = threading.Thread(target=listener.run)
    thread.start()
    try:
        taken = answers_taken()
        answer(amqp, processed(job))
        wait_until(lambda: answers_taken() == taken + 1, seconds=10, what="the delivery")
        known = database_faults()
        wait_until(lambda: database_faults() > known, seconds=10, what="a fault")
        assert world.status(job.media_id) == "processing"
        proxy.accept()
        wait_until(lambda: world.status(job.media_id) == "ready", seconds=20, what="the answer")
    finally:
        listener.stop()
        thread.join()
    assert settled(amqp, RESULTS_QUEUE)
    assert count(amqp, DEAD_LETTER_QUEUE) == 0


# poison and clocks


def test_poison_message(world, listener, amqp, rabbitmq):
    """A job that ends every worker is set aside with the reason, and its media fails in the end."""
    media_id = world.completed()
    run_until(listener, lambda: count(amqp, PROCESS_QUEUE), "the job")
    deliveries = 0
    while not count(amqp, DEAD_LETTER_QUEUE):
        assert deliveries <= DELIVERY_LIMIT + 1
        worker = RabbitMQBroker(rabbitmq.url, queue=PROCESS_QUEUE, prefetch=1)
        deliveries += len(worker.consume(limit=1, wait_seconds=1))
        worker.close()
    _, properties, body = take(amqp, DEAD_LETTER_QUEUE)
    assert decode(MEDIA_PROCESS, body).media_id == media_id
    assert properties.headers["x-first-death-reason"] == "delivery_limit"
    world.set(media_id, attempts_left=0)
    world.age(media_id, 601)
    run_until(listener, lambda: world.status(media_id) == "failed", "the end")
    world.processing.retry(media_id)
    run_until(listener, lambda: count(amqp, PROCESS_QUEUE), "another try, by a person's hand")


@pytest.mark.parametrize("offset", [timedelta(minutes=-1), timedelta(minutes=1)])
def test_clock_of_the_process_a_minute_off(world, make_web, listener, amqp, monkeypatch, offset):
    """Only signatures are made by the process's clock; the grace is longer than that can be off."""
    monkeypatch.setattr("mediaservice.signing.time", lambda: time.time() + offset.total_seconds())
    web, body = make_web(world), jpeg()
    presigned = request_upload(web, body)
    assert put_upload(presigned, body).status_code == 200
    media_id = presigned["upload_id"]
    (row,) = world.lifecycle.rows.page(
        owner_id=world.owner, owner_type=None, status=None, before=None, limit=1
    )
    query = parse_qs(urlsplit(presigned["upload_url"]).query)
    signed_at = datetime.strptime(query["X-Amz-Date"][0], "%Y%m%dT%H%M%S%z")
    url_dies_at = signed_at + timedelta(seconds=int(query["X-Amz-Expires"][0]))
    assert url_dies_at < row.due_at
    assert web("POST", "/complete", json={"upload_id": media_id}).status_code == 202
    run_until(listener, lambda: count(amqp, PROCESS_QUEUE), "the job")
    answer(amqp, processed(next_job(amqp)))
    run_until(listener, lambda: world.status(row.id) == "ready", "the answer")


def test_database_that_has_become_read_only_is_away(world, postgresql):
    """As after a failover, when the old name leads to what is a standby now."""
    name = world.engine.url.database
    world.request()
    with postgresql.connect() as administrator:
        administrator.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        administrator.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name]
        )
        for _ in range(3):
            with pytest.raises(OperationalError):
                world.request()
        administrator.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")
    assert world.request()


def test_nothing_of_this_touches_a_stranger(world, listener, amqp):
    """Answers for unknown media, again and again, leave other media as they are."""
    media_ids = [world.ready(), world.claimed().media_id]
    before = [world.row(media_id) for media_id in media_ids]
    strays = [uuid4() for _ in range(5)]
    for stray in strays:
        answer(amqp, failed(uuid4()))  # of which nothing is left: those after it tell its turn
        answer(amqp, processed(stray))
    run_until(
        listener,
        lambda: all(world.status(stray) == "deleted" for stray in strays),
        "the tombstones",
    )
    turn(listener)
    assert [world.row(media_id) for media_id in media_ids] == before
    assert world.public_keys(media_ids[0])
