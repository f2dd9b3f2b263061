"""The reference worker's entry: `python -m mediaworker` consumes jobs until SIGTERM."""

import os
import signal
import sys
import threading

from config.settings import ConfigurationError, WorkerSettings
from mediaservice.broker import PROCESS_QUEUE
from mediaservice.broker.rabbitmq import RabbitMQ
from mediaservice.logs import configure_logging
from mediaservice.monitoring import Heartbeat, start_monitoring
from mediaservice.storage import Storage
from mediaservice.tracing import set_up_tracing, stop_tracing
from mediaworker.consumer import PREFETCH, Consumer
from mediaworker.sandbox import Sandbox
from mediaworker.worker import Worker


def main() -> None:
    """Run the worker until SIGTERM or SIGINT; the image in hand is finished first."""
    try:
        settings = WorkerSettings.from_environ(os.environ)
        configure_logging(settings)
        heartbeat = Heartbeat("worker")
        start_monitoring(settings, heartbeat)
        storage = Storage(settings)
    except ConfigurationError as error:
        sys.exit(str(error))
    set_up_tracing(settings, "media-worker")
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    broker = RabbitMQ(
        settings.broker_url, queue=PROCESS_QUEUE, prefetch=PREFETCH, wait=stopping.wait
    )

    def on_wait() -> None:
        heartbeat.beat()
        broker.rest(0)

    try:
        with Sandbox.configured(settings) as sandbox:
            worker = Worker(storage, lambda original: sandbox.render(original, on_wait=on_wait))
            Consumer(worker, broker, stopping, heartbeat).run()
    finally:
        stop_tracing()


if __name__ == "__main__":
    main()
