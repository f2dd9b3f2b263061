"""An onlooker's hands in RabbitMQ, and on the listener's loop."""

from collections.abc import Callable
from typing import Any

import pika
from pika.adapters.blocking_connection import BlockingChannel

from devstack.process import wait_until
from mediaservice.broker import DEAD_LETTER_QUEUE, EXCHANGE, PROCESS_QUEUE, RESULTS_QUEUE
from mediaservice.listener import Listener
from mediaservice.messages import Result, encode

QUEUES = (PROCESS_QUEUE, RESULTS_QUEUE, DEAD_LETTER_QUEUE)
_NOTHING = (None, None, None)


def put(amqp: BlockingChannel, routing_key: str, body: bytes, exchange: str = EXCHANGE) -> None:
    """Publish a persistent message."""
    amqp.basic_publish(exchange, routing_key, body, pika.BasicProperties(delivery_mode=2))


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


def answer(amqp: BlockingChannel, result: Result) -> None:
    """Publish a worker's answer."""
    put(amqp, *encode(result))


def run_until(listener: Listener, condition: Callable[[], object], what: str) -> None:
    """Let a listener's loop turn until the condition holds."""

    def turn() -> bool:
        listener.run_once()
        return bool(condition())

    wait_until(turn, seconds=20, what=what)
