"""The main job with everything real: a photo goes in, a clean image comes out, and goes away."""

import io
import json
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests
from PIL import Image

from devstack.process import wait_until
from mediaservice.broker import DEAD_LETTER_QUEUE, EXCHANGE, PROCESS_QUEUE, REASON_HEADER
from tests.builders import jpeg
from tests.queues import put, take

# Web gives requests in progress ten; the rest is for a machine with much else to do.
STOP_SECONDS = 30


def test_a_photo_goes_in_and_a_clean_image_comes_out(service):
    photo = jpeg(1600, 1200, exif=True)
    assert b"SecretCameraMaker" in photo
    media_id = service.process(photo)
    status = service.wait_until_final(media_id)
    assert (status["status"], status["error"]) == ("ready", None)

    media = service.call("GET", f"/{media_id}").json()
    assert (media["width"], media["height"]) == (1200, 1600), "turned upright"
    assert media["placeholder"]
    widths = {variant["name"]: variant["width"] for variant in media["variants"]}
    assert (widths["w640"], widths["w320"]) == (640, 320)
    assert max(widths.values()) <= 1200, "never enlarged"
    for rendition in [media, *media["variants"]]:
        answer = requests.get(rendition["url"], timeout=10)
        assert answer.status_code == 200
        assert answer.headers["Content-Type"] == "image/webp"
        assert "immutable" in answer.headers["Cache-Control"]
        with Image.open(io.BytesIO(answer.content)) as image:
            assert image.format == "WEBP"
            assert image.size == (rendition["width"], rendition["height"])
            assert not image.getexif()
            assert set(image.info) <= {"loop", "background", "timestamp", "duration"}
        for leak in (b"SecretCameraMaker", b"EXIF", b"XMP ", b"ICCP", b"GPS"):
            assert leak not in answer.content

    original = f"{service.store.endpoint}/raw/uploads/{media_id}"
    assert requests.get(original, timeout=10).status_code == 403
    assert service.call("DELETE", f"/{media_id}").status_code == 204
    assert service.call("GET", f"/{media_id}").status_code == 404
    wait_until(lambda: not service.keys(media_id), seconds=15, what="both buckets to be empty")
    assert requests.get(media["url"], timeout=10).status_code in (403, 404)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"\xff\xd8\xff\xe0" + b"\0" * 500, "corrupt_image"),
        (jpeg(400, 400)[:1500], "corrupt_image"),
    ],
)
def test_an_image_that_is_none_fails_with_a_code(service, body, code):
    status = service.wait_until_final(service.process(body))
    assert (status["status"], status["error"]["code"]) == ("failed", code)
    assert status["error"]["message"]


def test_without_a_broker_uploads_are_accepted_and_processed_when_it_is_back(service):
    media_id = service.upload(jpeg())
    service.to_rabbitmq.refuse()
    answer = service.complete(media_id)
    assert (answer.status_code, answer.json()["status"]) == (202, "processing")
    assert service.call("GET", f"/{media_id}/status").json()["status"] == "processing"
    service.to_rabbitmq.accept()
    assert service.wait_until_final(media_id)["status"] == "ready"


def test_a_worker_that_knows_only_two_fields_is_enough(service, amqp):
    """The whole of a foreign worker: it copies what it got, and names it."""
    assert service.worker.stop() == 0
    media_id = service.process(jpeg())
    _, _, body = take(amqp, PROCESS_QUEUE)
    job = json.loads(body)
    store = service.store.client()
    original = store.get_object(
        Bucket=job["raw_bucket"], Key=job["raw_key"], IfMatch=job["raw_etag"]
    )["Body"].read()
    key = f"{job['public_prefix']}copy.jpg"
    store.put_object(Bucket=job["public_bucket"], Key=key, Body=original)
    answer = {"media_id": job["media_id"], "public_key": key}
    amqp.basic_publish(EXCHANGE, "media.processed", json.dumps(answer).encode())
    assert service.wait_until_final(media_id)["status"] == "ready"
    media = service.call("GET", f"/{media_id}").json()
    assert (media["width"], media["variants"]) == (None, [])
    assert requests.get(media["url"], timeout=10).content == original


@pytest.mark.parametrize(
    ("routing_key", "body"),
    [
        ("media.processed", b"garbage"),
        ("media.failed", b'{"media_id": 7}'),
        ("media.process", b'{"media_id": "for the worker"}'),
    ],
)
def test_garbage_ends_in_the_dead_letter_queue_and_work_goes_on(service, amqp, routing_key, body):
    put(amqp, routing_key, body)
    _, properties, dead = take(amqp, DEAD_LETTER_QUEUE)
    assert dead == body
    assert properties.headers[REASON_HEADER]
    assert service.wait_until_final(service.process(jpeg()))["status"] == "ready"


@pytest.mark.parametrize("name", ["web", "listener", "worker"])
def test_every_process_stops_in_good_order_and_comes_back(service, name):
    process = getattr(service, name)
    process.signal(signal.SIGTERM)
    assert process.wait(STOP_SECONDS) == 0, process.last_words()
    process.start()
    assert service.wait_until_final(service.process(jpeg()))["status"] == "ready"


STOPPED_WHILE_IT_HOLDS_A_LOCK = """
import os, signal, threading
from mediaservice.process import stop_on_signals
lock, stopped = threading.Lock(), threading.Event()
def stop():
    with lock:
        stopped.set()
stop_on_signals(stop)
with lock:
    os.kill(os.getpid(), signal.SIGTERM)
stopped.wait()
"""


def test_a_signal_may_come_while_the_main_thread_holds_what_stopping_needs():
    subprocess.run([sys.executable, "-c", STOPPED_WHILE_IT_HOLDS_A_LOCK], check=True, timeout=60)


def test_web_finishes_the_request_in_hand_before_it_ends(service):
    media_id = service.upload(jpeg())
    service.to_store.stall()
    with ThreadPoolExecutor() as pool:
        completed = pool.submit(service.complete, media_id)
        assert service.to_store.held.wait(30)
        service.web.signal(signal.SIGTERM)
        with pytest.raises(subprocess.TimeoutExpired):
            service.web.wait(1)  # the store's time-out is far longer
        service.to_store.resume()
    answer = completed.result()
    assert (answer.status_code, answer.json()["status"]) == (202, "processing")
    assert service.web.wait(STOP_SECONDS) == 0, service.web.last_words()


def test_many_photos_at_once_all_get_through(service):
    media_ids = [service.process(jpeg(300 + n, 200)) for n in range(12)]
    statuses = [service.wait_until_final(media_id)["status"] for media_id in media_ids]
    assert statuses == ["ready"] * 12
    widths = [service.call("GET", f"/{media_id}").json()["width"] for media_id in media_ids]
    assert widths == [300 + n for n in range(12)]
