"""A worker that does everything wrong, by chance: dies, repeats itself, dawdles, lies, babbles.

Usage: bad_worker.py SEED POISON_FILE. A line is added to POISON_FILE for each malformed message
that the broker has confirmed.
"""

import os
import random
import sys
import threading
import uuid
from pathlib import Path

import pika

from config.settings import WorkerSettings
from mediaservice.broker import EXCHANGE, PROCESS_QUEUE, Delivery, Publication
from mediaservice.broker.rabbitmq import RabbitMQBroker
from mediaservice.keys import public_prefix
from mediaservice.messages import (
    MEDIA_PROCESSED,
    FailedResult,
    Job,
    ProcessedResult,
    ProcessingError,
    decode,
)
from mediaservice.storage import Storage
from mediaworker.sandbox import Sandbox
from mediaworker.worker import Worker

LATE_SECONDS = 12.0  # longer than an attempt may take
POISON = b'{"deliberate": "poison", "media_id": 1'


class BadWorker:
    """Takes jobs as a worker does, and misbehaves with about half of them."""

    def __init__(self, seed: int, poison_file: Path) -> None:
        settings = WorkerSettings.from_environ(os.environ)
        self._random = random.Random(seed)
        self._poison_file = poison_file
        self._broker_url = settings.broker_url
        self._idle = threading.Event()
        self._storage = Storage(settings)
        self._broker = RabbitMQBroker(
            settings.broker_url, queue=PROCESS_QUEUE, prefetch=1, wait=self._idle.wait
        )
        self._worker = Worker(self._storage, Sandbox().render)

    def run(self) -> None:
        """Work until killed."""
        print("bad_worker_started", flush=True)
        while True:
            for delivery in self._broker.consume(limit=1, wait_seconds=0.5):
                self._misbehave(delivery)

    def _misbehave(self, delivery: Delivery) -> None:
        job = decode(delivery.routing_key, delivery.body)
        assert isinstance(job, Job)
        self._random.choice(
            (
                self._behave,
                self._behave,
                self._behave,
                self._answer_twice,
                self._answer_late,
                self._answer_for_nobody,
                self._contradict_itself,
                self._say_nothing,
                self._fail_for_now,
                self._babble,
                self._die,
            )
        )(job)
        self._broker.ack([delivery])

    def _publish(self, *results: ProcessedResult | FailedResult) -> None:
        while self._broker.publish([Publication(result) for result in results]):
            self._broker.sleep(0.5)

    def _behave(self, job: Job) -> None:
        self._publish(self._worker.process(job))

    def _answer_twice(self, job: Job) -> None:
        result = self._worker.process(job)
        self._publish(result, result)

    def _answer_late(self, job: Job) -> None:
        result = self._worker.process(job)
        self._broker.sleep(LATE_SECONDS)
        self._publish(result)

    def _answer_for_nobody(self, job: Job) -> None:
        """Leave an object for a media that does not exist, and answer for it."""
        nobody = uuid.UUID(int=self._random.getrandbits(128), version=4)
        key = f"{public_prefix(nobody)}main.webp"
        self._storage.write_public(key, b"stray", content_type="image/webp")
        self._publish(ProcessedResult(media_id=nobody, public_key=key))
        self._behave(job)

    def _contradict_itself(self, job: Job) -> None:
        failure = FailedResult(
            media_id=job.media_id,
            attempt=max(1, job.attempt - 1),
            error=ProcessingError(code="processing_failed"),
        )
        result = self._worker.process(job)
        self._publish(result, failure)

    def _say_nothing(self, job: Job) -> None:
        """Acknowledge a job without an answer: only the time-out can help."""

    def _fail_for_now(self, job: Job) -> None:
        self._publish(
            FailedResult(
                media_id=job.media_id,
                attempt=job.attempt,
                error=ProcessingError(code="internal_error", retryable=True),
            )
        )

    def _babble(self, job: Job) -> None:
        """Publish what is no message, then answer."""
        with pika.BlockingConnection(pika.URLParameters(self._broker_url)) as connection:
            channel = connection.channel()
            channel.confirm_delivery()
            channel.basic_publish(EXCHANGE, MEDIA_PROCESSED, POISON, mandatory=True)
        with self._poison_file.open("a") as file:
            file.write("poison\n")
        self._behave(job)

    def _die(self, job: Job) -> None:
        """End in the middle of an image, without a word."""
        self._storage.read_original(job.raw_key, etag=job.raw_etag)
        os._exit(1)


if __name__ == "__main__":
    BadWorker(int(sys.argv[1]), Path(sys.argv[2])).run()
