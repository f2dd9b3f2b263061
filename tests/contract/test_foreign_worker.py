"""The example worker in Node, in the reference worker's place, with everything real."""

import io
import os
import shutil
import signal
from contextlib import ExitStack
from uuid import uuid4

import pytest
import requests
from PIL import Image

from devstack.process import Process
from mediaservice import PROJECT
from mediaservice.broker import DEAD_LETTER_QUEUE, PROCESS_QUEUE, RESULTS_QUEUE
from mediaservice.messages import decode, encode
from tests.builders import jpeg, process_request
from tests.npm import install
from tests.queues import count, put, take
from tests.scripted_store import ScriptedStore, answer

# What is in hand is finished first, on a machine that may have much else to do.
STOP_SECONDS = 30


@pytest.fixture(scope="module")
def example(tmp_path_factory):
    if not shutil.which("node"):
        pytest.fail("node is missing: apt-get install --no-install-recommends nodejs npm")
    return install(PROJECT / "examples" / "worker-node", tmp_path_factory.mktemp("examples"))


@pytest.fixture
def start_worker(example, service, tmp_path):
    assert service.worker.stop() == 0
    log = tmp_path / "worker-node.log"

    with ExitStack() as started:

        def start(**variables):
            environ = {
                "PATH": os.environ["PATH"],
                "BROKER_URL": f"amqp://guest:guest@127.0.0.1:{service.to_rabbitmq.port}/",
                **service.store.variables,
                **variables,
            }
            worker = Process(
                "worker-node",
                ["node", "worker.js"],
                log_path=log,
                environ=environ,
                cwd=example,
                is_ready=lambda: b"worker_started" in log.read_bytes(),
            )
            return started.enter_context(worker)

        yield start


@pytest.fixture
def node_worker(start_worker):
    return start_worker()


def test_a_photo_gets_ready_and_clean(service, node_worker):
    photo = jpeg(1600, 1200, exif=True)
    assert b"SecretCameraMaker" in photo
    media_id = service.process(photo)
    assert service.wait_until_final(media_id)["status"] == "ready", node_worker.last_words()
    media = service.call("GET", f"/{media_id}").json()
    assert (media["width"], media["placeholder"], media["variants"]) == (None, None, [])
    answer = requests.get(media["url"], timeout=10)
    assert answer.headers["Content-Type"] == "image/webp"
    assert "immutable" in answer.headers["Cache-Control"]
    with Image.open(io.BytesIO(answer.content)) as image:
        assert (image.format, image.size) == ("WEBP", (960, 1280)), "smaller, and upright"
        assert not image.getexif()
    assert b"SecretCameraMaker" not in answer.content


def test_a_damaged_image_fails_with_its_code(service, node_worker):
    status = service.wait_until_final(service.process(b"\xff\xd8\xff\xe0" + b"\0" * 500))
    assert (status["status"], status["error"]["code"]) == ("failed", "corrupt_image")


def test_an_original_that_is_gone_fails_with_its_code(service, node_worker):
    # Stopped, so that the original can go between acceptance and job.
    node_worker.signal(signal.SIGSTOP)
    media_id = service.process(jpeg())
    service.store.client().delete_object(Bucket="raw", Key=f"uploads/{media_id}")
    node_worker.signal(signal.SIGCONT)
    status = service.wait_until_final(media_id)
    assert (status["status"], status["error"]["code"]) == ("failed", "original_missing")


def test_a_bucket_that_is_not_there_for_a_rendition_says_nothing_of_the_original(
    service, node_worker, amqp
):
    service.listener.stop()
    key = f"uploads/{uuid4()}"
    stored = service.store.client().put_object(Bucket="raw", Key=key, Body=jpeg())
    job = process_request(raw_key=key, raw_etag=stored["ETag"], public_bucket="missing")
    put(amqp, *encode(job))
    method, _, body = take(amqp, RESULTS_QUEUE)
    error = decode(method.routing_key, body).error
    assert (error.code, error.retryable) == ("store_unavailable", True), error.message
    service.listener.start()


def test_a_404_of_something_before_the_store_says_nothing_of_the_original(
    service, start_worker, amqp
):
    service.listener.stop()
    with ScriptedStore([answer(404, b"default backend - 404")]) as proxy:
        start_worker(S3_ENDPOINT=f"{proxy.endpoint}/")
        put(amqp, *encode(process_request()))
        method, _, body = take(amqp, RESULTS_QUEUE)
    error = decode(method.routing_key, body).error
    assert (error.code, error.retryable) == ("store_unavailable", True), error.message
    assert proxy.requests[0].startswith("GET /raw/")
    service.listener.start()


def test_garbage_is_set_aside_and_work_goes_on(service, node_worker, amqp):
    put(amqp, "media.process", b"garbage")
    assert take(amqp, DEAD_LETTER_QUEUE)[2] == b"garbage"
    assert service.wait_until_final(service.process(jpeg()))["status"] == "ready"


def test_a_stop_leaves_nothing_half_done(service, node_worker, amqp):
    media_ids = [service.process(jpeg(2000 + n, 1500)) for n in range(3)]
    node_worker.signal(signal.SIGTERM)
    assert node_worker.wait(STOP_SECONDS) == 0, node_worker.last_words()
    service.worker.start()
    assert {service.wait_until_final(media_id)["status"] for media_id in media_ids} == {"ready"}
    assert (count(amqp, PROCESS_QUEUE), count(amqp, DEAD_LETTER_QUEUE)) == (0, 0)
