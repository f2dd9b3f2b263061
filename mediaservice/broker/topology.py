"""Exchanges, queues and bindings, and what they promise. Declared anew by every connection."""

from typing import Final

from pika.adapters.blocking_connection import BlockingChannel

from mediaservice.broker import (
    DEAD_LETTER_EXCHANGE,
    DEAD_LETTER_QUEUE,
    EXCHANGE,
    PROCESS_QUEUE,
    RESULTS_QUEUE,
)
from mediaservice.messages import MEDIA_FAILED, MEDIA_PROCESS, MEDIA_PROCESSED

# Deliveries of one message before it is dead-lettered. A consumer killed with a message in hand
# costs that message one, so the limit is well above what a rough restart of a fleet does.
DELIVERY_LIMIT: Final = 20
_WORK_QUEUE: Final[dict[str, str | int]] = {
    "x-queue-type": "quorum",
    "x-delivery-limit": DELIVERY_LIMIT,
    "x-dead-letter-exchange": DEAD_LETTER_EXCHANGE,
    # Keeps a message until the dead-letter queue has it; that needs this overflow.
    "x-dead-letter-strategy": "at-least-once",
    "x-overflow": "reject-publish",
}
EXCHANGES: Final = {DEAD_LETTER_EXCHANGE: "fanout", EXCHANGE: "topic"}
# Each queue: its arguments, and the routing keys it takes from the exchange `media`.
TOPOLOGY: Final[dict[str, tuple[dict[str, str | int], tuple[str, ...]]]] = {
    # Looking at a dead letter is a delivery, and newer brokers drop what exceeds their own limit.
    DEAD_LETTER_QUEUE: ({"x-queue-type": "quorum", "x-delivery-limit": 1_000_000}, ()),
    PROCESS_QUEUE: (_WORK_QUEUE, (MEDIA_PROCESS,)),
    RESULTS_QUEUE: (_WORK_QUEUE, (MEDIA_PROCESSED, MEDIA_FAILED)),
}


def declare_topology(channel: BlockingChannel) -> None:
    """Declare exchanges, queues and bindings, dead-letter first. Safe to repeat by every side."""
    for exchange, exchange_type in EXCHANGES.items():
        channel.exchange_declare(exchange, exchange_type, durable=True)
    for queue, (arguments, routing_keys) in TOPOLOGY.items():
        channel.queue_declare(queue, durable=True, arguments=arguments)
        for routing_key in routing_keys:
            channel.queue_bind(queue, EXCHANGE, routing_key)
    channel.queue_bind(DEAD_LETTER_QUEUE, DEAD_LETTER_EXCHANGE)
