"""An onlooker's hands in RabbitMQ, and on the listener's loop."""

from collections.abc import Callable
from typing import Any

import pika
from pika.adapters.blocking_connection import BlockingChannel

from devstack.process import wait_until
from mediaservice.broker import (
    DEAD_LETTER_EXCHANGE,
    DEAD_LETTER_QUEUE,
    EXCHANGE,
    PROCESS_QUEUE,
    REASON_HEADER,
    RESULTS_QUEUE,
)
from mediaservice.broker.topology import declare_topology
from mediaservice.listener import Listener
from mediaservice.messages import Result, encode
from mediaservice.metrics import RESULTS

QUEUES = (PROCESS_QUEUE, RESULTS_QUEUE, DEAD_LETTER_QUEUE)
_NOTHING = (None, None, None)


def empty(amqp: BlockingChannel) -> None:
    """Declare the topology, and leave no message in its queues."""
    declare_topology(amqp)
    for queue in QUEUES:
        amqp.queue_purge(queue)


def put(amqp: BlockingChannel, routing_key: str, body: bytes, exchange: str = EXCHANGE) -> None:
    """Publish a persistent message."""
    amqp.basic_publish(exchange, routing_key, body, pika.BasicProperties(delivery_mode=2))


def put_dead(
    amqp: BlockingChannel,
    routing_key: str,
    body: bytes,
    message_id: str | None = None,
    **properties: Any,
) -> None:
    """Publish a message as one that the service has set aside."""
    headers = {REASON_HEADER: "its reason", "traceparent": "00-1-2-01"}
    amqp.basic_publish(
        DEAD_LETTER_EXCHANGE,
        routing_key,
        body,
        pika.BasicProperties(delivery_mode=2, message_id=message_id, headers=headers, **properties),
    )


class UndecodableProperties(pika.BasicProperties):
    """Properties with a header that pika cannot decode: a time in milliseconds."""

    def encode(self) -> list[bytes]:
        """Return the properties as other clients, and RabbitMQ, take them."""
        self.headers = {"sent": 1_760_000_000_000}
        encoded = b"".join(super().encode())
        assert b"\x04sentl" in encoded
        return [encoded.replace(b"\x04sentl", b"\x04sentT")]


def take(amqp: BlockingChannel, queue: str) -> tuple[Any, Any, bytes]:
    """Return method, properties and body of a queue's next message, waiting for it."""
    found = []

    def arrived() -> bool:
        message = amqp.basic_get(queue, auto_ack=True)
        if message != _NOTHING:
            found.append(message)
        return bool(found)

    wait_until(arrived, seconds=15, what=f"a message in {queue}")
    return found[0]


def count(amqp: BlockingChannel, queue: str) -> int:
    """Return how many messages wait in a queue."""
    return int(amqp.queue_declare(queue, passive=True).method.message_count)


def wait_for_count(amqp: BlockingChannel, queue: str, number: int) -> None:
    """Return once so many messages wait in a queue."""
    what = f"{number} messages in {queue}"
    wait_until(lambda: count(amqp, queue) == number, seconds=10, what=what)


def settled(amqp: BlockingChannel, queue: str) -> bool:
    """Return whether a queue whose consumers have been closed has nothing left.

    What they had in hand is back once RabbitMQ knows that they are gone, a while after close-ok.
    """

    def is_left() -> bool:
        return bool(amqp.queue_declare(queue, passive=True).method.consumer_count == 0)

    wait_until(is_left, seconds=15, what=f"the consumers of {queue} to be gone")
    return count(amqp, queue) == 0


def acknowledged() -> float:
    """Return how many messages this process's listeners have applied or set aside, and settled."""
    (results,) = RESULTS.collect()
    return sum(sample.value for sample in results.samples if sample.name.endswith("_total"))


def answer(amqp: BlockingChannel, result: Result) -> None:
    """Publish a worker's answer."""
    put(amqp, *encode(result))


def run_until(listener: Listener, condition: Callable[[], object], what: str) -> None:
    """Let a listener's loop turn until the condition holds."""

    def turn() -> bool:
        listener.run_once()
        return bool(condition())

    wait_until(turn, seconds=20, what=what)
