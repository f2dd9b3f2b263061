"""The reference worker's entry: `python -m mediaworker` consumes jobs until SIGTERM."""

import os
import threading

from config.settings import WorkerSettings
from mediaservice.broker import PROCESS_QUEUE
from mediaservice.broker.rabbitmq import RabbitMQBroker
from mediaservice.process import started, stop_on_signals
from mediaservice.storage import Storage
from mediaworker.consumer import PREFETCH, Consumer
from mediaworker.sandbox import Sandbox
from mediaworker.worker import Worker


def main() -> None:
    """Run the worker until SIGTERM or SIGINT; the image in hand is finished first."""
    with started("worker", WorkerSettings, os.environ) as (settings, heartbeat):
        stopping = threading.Event()
        stop_on_signals(stopping.set)
        broker = RabbitMQBroker(
            settings.broker_url, queue=PROCESS_QUEUE, prefetch=PREFETCH, wait=stopping.wait
        )

        def on_wait() -> None:
            heartbeat.beat()
            broker.sleep(0)

        storage = Storage(settings)
        with Sandbox.from_settings(settings) as sandbox:
            worker = Worker(storage, lambda original: sandbox.render(original, on_wait=on_wait))
            Consumer(worker, broker, stopping, heartbeat).run()


if __name__ == "__main__":
    main()
