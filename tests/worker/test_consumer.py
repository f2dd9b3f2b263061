"""The worker's loop on a real broker and store: every job answered once, and none lost."""

import threading
from uuid import uuid4

import msgspec
import pika
import pytest

from devstack.process import wait_until
from mediaservice.broker import (
    DEAD_LETTER_QUEUE,
    EXCHANGE,
    PROCESS_QUEUE,
    RESULTS_QUEUE,
    Publication,
)
from mediaservice.broker.rabbitmq import RabbitMQBroker
from mediaservice.messages import (
    MEDIA_PROCESS,
    FailedResult,
    ProcessedResult,
    ProcessingError,
    decode,
)
from mediaservice.storage import Storage, StoreUnavailable
from mediaworker.consumer import PREFETCH, Consumer
from mediaworker.renditions import MAX_INPUT_BYTES
from mediaworker.sandbox import Sandbox
from mediaworker.worker import Worker
from tests.builders import jpeg, process_request, worker_settings


@pytest.fixture
def make_storage(seaweedfs):
    def make(**variables):
        return Storage(worker_settings(**{**seaweedfs.variables, **variables}))

    return make


@pytest.fixture
def storage(make_storage):
    return make_storage()


@pytest.fixture
def results(amqp, rabbitmq):
    """The service's side: publishes jobs, consumes answers."""
    broker = RabbitMQBroker(rabbitmq.url, queue=RESULTS_QUEUE, prefetch=50)
    yield broker
    broker.close()


@pytest.fixture
def run_worker(rabbitmq, storage):
    """Run a consumer beside the test, until the test is over."""
    stopping = threading.Event()

    def run(storage, render, broker_class):
        broker = broker_class(
            rabbitmq.url, queue=PROCESS_QUEUE, prefetch=PREFETCH, wait=stopping.wait
        )
        with Sandbox() as sandbox:
            Consumer(Worker(storage, render or sandbox.render), broker, stopping).run()

    threads = []

    def start(storage=storage, render=None, broker_class=RabbitMQBroker):
        threads.append(threading.Thread(target=run, args=(storage, render, broker_class)))
        threads[-1].start()

    yield start
    stopping.set()
    for thread in threads:
        thread.join()


def take_answers(broker, count):
    answers = {}

    def all_there():
        for delivery in broker.consume(limit=50, wait_seconds=0.1):
            result = decode(delivery.routing_key, delivery.body)
            answers[result.media_id] = result
            broker.ack([delivery])
        return len(answers) >= count

    wait_until(all_there, seconds=60, what=f"{count} answers")
    return answers


def make_job(seaweedfs, body, **fields):
    media_id = uuid4()
    key = f"uploads/{media_id}"
    etag = seaweedfs.client().put_object(Bucket="raw", Key=key, Body=body)["ETag"]
    return process_request(
        media_id=media_id,
        raw_key=key,
        public_prefix=f"media/{media_id}/",
        **{"raw_etag": etag, **fields},
    )


def test_every_job_of_a_mixed_queue_gets_its_own_answer(results, seaweedfs, run_worker):
    good = [make_job(seaweedfs, jpeg(400 + n, 300)) for n in range(5)]
    damaged = make_job(seaweedfs, jpeg()[:200])
    changed = make_job(seaweedfs, jpeg(), raw_etag='"another"')
    missing = process_request(media_id=uuid4(), raw_key="uploads/nobody")
    jobs = [*good[:2], damaged, changed, missing, *good[2:]]
    assert results.publish([Publication(job) for job in jobs]) == []

    run_worker()
    answers = take_answers(results, len(jobs))

    for job in good:
        assert isinstance(answers[job.media_id], ProcessedResult)
    codes = {
        job.media_id: answer.error.code
        for job in (damaged, changed, missing)
        if isinstance(answer := answers[job.media_id], FailedResult)
    }
    assert codes == {
        damaged.media_id: "corrupt_image",
        changed.media_id: "original_changed",
        missing.media_id: "original_missing",
    }
    assert results.consume(limit=1, wait_seconds=0.2) == []


def test_a_worker_connects_to_publish_before_it_has_anything(amqp, run_worker):
    made = []

    class Broker(RabbitMQBroker):
        def __init__(self, *arguments, **keywords):
            super().__init__(*arguments, **keywords)
            made.append(self)

    run_worker(broker_class=Broker)
    wait_until(
        lambda: made and all(link.is_open for link in made[0]._publishing),
        seconds=30,
        what="a connection to publish over",
    )


def test_connections_are_kept_alive_while_the_store_is_slow(
    results, seaweedfs, storage, run_worker
):
    rested = threading.Event()

    class Broker(RabbitMQBroker):
        def sleep(self, seconds):
            super().sleep(seconds)
            rested.set()

    class SlowStorage:
        """Answers only when the connections have been looked after in the meantime."""

        raw_bucket, public_bucket = storage.raw_bucket, storage.public_bucket

        def read_original(self, key, *, etag):
            return self._slowly(storage.read_original, key, etag=etag)

        def write_public(self, key, body, *, content_type):
            return self._slowly(storage.write_public, key, body, content_type=content_type)

        def _slowly(self, call, *arguments, **keywords):
            rested.clear()
            if not rested.wait(timeout=20):
                raise StoreUnavailable("nobody looked after the connections")
            return call(*arguments, **keywords)

    media = make_job(seaweedfs, jpeg(40, 30))
    results.publish([Publication(media)])
    run_worker(storage=SlowStorage(), broker_class=Broker)
    answer = take_answers(results, 1)[media.media_id]
    assert isinstance(answer, ProcessedResult), answer


def test_a_job_is_acknowledged_once_its_result_is_confirmed(results, seaweedfs, run_worker):
    steps = []

    class Broker(RabbitMQBroker):
        """Confirms a result only when it is published again."""

        def publish(self, publications):
            steps.append("publish")
            return publications if len(steps) == 1 else super().publish(publications)

        def sleep(self, seconds):
            super().sleep(0)

        def ack(self, deliveries):
            steps.append("ack")
            super().ack(deliveries)

    job = make_job(seaweedfs, jpeg(40, 30))
    results.publish([Publication(job)])
    run_worker(broker_class=Broker)
    assert isinstance(take_answers(results, 1)[job.media_id], ProcessedResult)
    wait_until(lambda: "ack" in steps, seconds=20, what="the acknowledgement")
    assert steps == ["publish", "publish", "ack"]


def test_an_original_too_large_to_decode_is_not_even_fetched(storage):
    unfetchable = process_request(media_id=uuid4(), size_bytes=MAX_INPUT_BYTES + 1)
    answer = Worker(storage, render=None).process(unfetchable)
    assert (answer.error.code, answer.error.retryable) == ("image_too_large", False)


def test_a_fault_that_nobody_foresaw_is_answered_and_the_next_job_done(
    results, seaweedfs, run_worker
):
    jobs = [make_job(seaweedfs, jpeg(40 + n, 30)) for n in range(2)]
    results.publish([Publication(job) for job in jobs])

    def render(original):
        raise RuntimeError("a fault of ours")

    run_worker(render=render)
    answers = take_answers(results, len(jobs))
    for job in jobs:
        assert answers[job.media_id].error == ProcessingError(
            code="internal_error", message="a fault of ours", retryable=True
        )


def test_a_worker_pauses_longer_with_each_fault_and_not_after_an_image_that_was_done(
    results, seaweedfs, storage, run_worker
):
    job = make_job(seaweedfs, jpeg(40, 30))
    slept = [0.0]

    class Broker(RabbitMQBroker):
        """Does not wait, and notes how long the worker would between one result and the next."""

        def publish(self, publications):
            slept.append(0.0)
            return super().publish(publications)

        def sleep(self, seconds):
            slept[-1] += seconds
            super().sleep(0)

    class Storage:
        """Fails before and after one job."""

        raw_bucket, public_bucket = storage.raw_bucket, storage.public_bucket
        write_public = storage.write_public

        def read_original(self, key, *, etag):
            if key == job.raw_key:
                return storage.read_original(key, etag=etag)
            raise StoreUnavailable("wrong keys")

    def failing(count):
        return [process_request(media_id=uuid4()) for _ in range(count)]

    jobs = [*failing(7), job, *failing(3)]
    assert results.publish([Publication(job) for job in jobs]) == []
    run_worker(storage=Storage(), broker_class=Broker)
    take_answers(results, len(jobs))
    assert slept[-11:-1] == [0, 1, 2, 4, 8, 15, 15, 0, 0, 1]


def test_renditions_that_the_store_does_not_take_are_to_be_tried_again(
    results, seaweedfs, make_storage, run_worker
):
    job = msgspec.structs.replace(make_job(seaweedfs, jpeg()), public_bucket="nowhere")
    results.publish([Publication(job)])
    run_worker(make_storage(S3_PUBLIC_BUCKET="nowhere"))
    error = take_answers(results, 1)[job.media_id].error
    assert (error.code, error.retryable) == ("store_unavailable", True)


@pytest.mark.parametrize("bucket", ["raw_bucket", "public_bucket"])
def test_a_job_for_other_buckets_is_to_be_tried_again(results, seaweedfs, run_worker, bucket):
    job = msgspec.structs.replace(make_job(seaweedfs, jpeg()), **{bucket: "elsewhere"})
    results.publish([Publication(job)])
    run_worker()
    error = take_answers(results, 1)[job.media_id].error
    assert (error.code, error.retryable) == ("internal_error", True)
    assert "S3_RAW_BUCKET" in error.message
    assert "elsewhere" in error.message


def test_a_malformed_job_is_dead_lettered_and_the_next_one_done(
    results, seaweedfs, rabbitmq, run_worker
):
    with pika.BlockingConnection(pika.URLParameters(rabbitmq.url)) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        channel.basic_publish(EXCHANGE, MEDIA_PROCESS, b"no job", mandatory=True)
        job = make_job(seaweedfs, jpeg())
        results.publish([Publication(job)])

        run_worker()

        assert isinstance(take_answers(results, 1)[job.media_id], ProcessedResult)
        _, _, body = channel.basic_get(DEAD_LETTER_QUEUE, auto_ack=True)
    assert body == b"no job"


def test_a_worker_that_stops_leaves_no_job_behind(results, seaweedfs, rabbitmq, storage):
    stopping = threading.Event()
    jobs = [make_job(seaweedfs, jpeg(200 + n, 150)) for n in range(6)]
    results.publish([Publication(job) for job in jobs])
    rendered = []

    def render_two(original, sandbox):
        rendered.append(original)
        if len(rendered) == 2:
            stopping.set()
        return sandbox.render(original)

    broker = RabbitMQBroker(
        rabbitmq.url, queue=PROCESS_QUEUE, prefetch=PREFETCH, wait=stopping.wait
    )
    with Sandbox() as sandbox:
        worker = Worker(storage, lambda original: render_two(original, sandbox))
        Consumer(worker, broker, stopping).run()

    assert len(take_answers(results, 2)) == 2
    # The broker has the other four again.
    wait_until(
        lambda: results.count_waiting(PROCESS_QUEUE) == 4, seconds=10, what="four jobs to be back"
    )
