"""What pika does without a service around it: consume and acknowledge, publish and await a confirm.

The queues are of the same kind as the service's, and so are prefetch, batches and messages.
"""

from collections.abc import Sequence
from typing import Final

import pika
from pika.adapters.blocking_connection import BlockingChannel

from mediaservice.broker import RESULTS_QUEUE
from mediaservice.broker.topology import TOPOLOGY

QUEUE: Final = "bench.raw"


def declare(channel: BlockingChannel) -> None:
    """Declare a queue like the service's; nothing is bound to it."""
    arguments, _ = TOPOLOGY[RESULTS_QUEUE]
    channel.queue_declare(QUEUE, durable=True, arguments=arguments)


def consume(channel: BlockingChannel, *, count: int, batch: int, prefetch: int) -> None:
    """Take `count` messages, acknowledged `batch` at a time."""
    channel.basic_qos(prefetch_count=prefetch)
    for taken, (method, _, _) in enumerate(channel.consume(QUEUE), 1):
        if taken % batch == 0 or taken == count:
            channel.basic_ack(method.delivery_tag, multiple=True)
        if taken == count:
            break
    channel.cancel()


def publish(channel: BlockingChannel, bodies: Sequence[bytes]) -> None:
    """Publish persistently, each confirmed before the next; the channel is in confirm mode."""
    properties = pika.BasicProperties(delivery_mode=pika.DeliveryMode.Persistent)
    for body in bodies:
        channel.basic_publish("", QUEUE, body, properties, mandatory=True)
