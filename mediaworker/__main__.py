"""The reference worker's entry: `python -m mediaworker` consumes jobs until SIGTERM."""

import os
import signal
import sys
import threading

import structlog

from config.settings import ConfigurationError, WorkerSettings
from mediaservice.broker import PROCESS_QUEUE, Broker, Delivery, Publication, RabbitMQ
from mediaservice.logs import configure_logging
from mediaservice.messages import MalformedMessage, ProcessRequest, decode
from mediaservice.storage import Storage
from mediaworker.renditions import Limits
from mediaworker.sandbox import Sandbox
from mediaworker.worker import Worker

POLL_SECONDS = 1.0

log = structlog.get_logger(__name__)


def main() -> None:
    """Run the worker until SIGTERM or SIGINT; the image in hand is finished first."""
    try:
        settings = WorkerSettings.from_environ(os.environ)
    except ConfigurationError as error:
        sys.exit(str(error))
    configure_logging(settings)
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    broker = RabbitMQ(settings.broker_url, queue=PROCESS_QUEUE, prefetch=1, wait=stopping.wait)
    with Sandbox(
        limits=Limits(max_pixels=settings.max_image_pixels),
        wall_seconds=settings.decode_timeout_seconds,
        memory_bytes=settings.decode_memory_bytes,
    ) as sandbox:
        worker = Worker(
            Storage(settings),
            lambda original: sandbox.render(original, on_wait=lambda: broker.rest(0)),
        )
        log.info("worker_started")
        while not stopping.is_set():
            for delivery in broker.consume(limit=1, wait_seconds=POLL_SECONDS):
                answer(worker, broker, delivery, stopping)
        broker.close()
    log.info("worker_stopped")


def answer(worker: Worker, broker: Broker, delivery: Delivery, stopping: threading.Event) -> None:
    """Do one job and publish its answer; only then is the job acknowledged.

    While the broker takes no messages the answer is kept in hand. A worker that has to stop then
    leaves the job to be delivered again.
    """
    try:
        job = decode(delivery.routing_key, delivery.body)
        if not isinstance(job, ProcessRequest):
            raise MalformedMessage("a result is not a job")
    except MalformedMessage as error:
        broker.dead_letter(delivery, str(error))
        return
    result = worker.process(job)
    while broker.publish([Publication(result, delivery.correlation_id)]):
        if stopping.is_set():
            return
        broker.rest(POLL_SECONDS)
    broker.ack([delivery])


if __name__ == "__main__":
    main()
