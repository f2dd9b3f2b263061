"""The broker as the rest of the code sees it: what goes in and out, and the queues by name.

It moves `messages`, and knows neither rows nor objects. Service and worker share it. `rabbitmq` and
`admin` are RabbitMQ, for a loop and for a person; `inline` is no broker at all. pika is imported in
this package alone, and not by this module: the web has no use for it.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Final, Protocol

import msgspec
import structlog

from mediaservice.messages import Message

EXCHANGE: Final = "media"
DEAD_LETTER_EXCHANGE: Final = "media.dead"
DEAD_LETTER_QUEUE: Final = "media.dead"
PROCESS_QUEUE: Final = "media-worker.process"
RESULTS_QUEUE: Final = "media-service.results"
REASON_HEADER: Final = "x-media-reason"


class BrokerUnavailable(Exception):
    """RabbitMQ cannot be reached, or does not take messages now."""


class Delivery(msgspec.Struct, frozen=True):
    """One consumed message; give it back to `ack` or `dead_letter` of the broker it came from."""

    routing_key: str
    body: bytes
    message_id: str | None
    correlation_id: str | None
    delivery_tag: int
    redelivered: bool = False
    link_number: int = 0  # of the connection it came by: its tag means nothing on another one
    traceparent: str | None = None

    @property
    def log_fields(self) -> dict[str, str | None]:
        """What a log line says of this message, and of the request it goes back to."""
        return {
            "routing_key": self.routing_key,
            "message_id": self.message_id,
            "request_id": self.correlation_id,
        }

    def log_context(self) -> AbstractContextManager[None]:
        """Add `log_fields` to every log line of a block."""
        return structlog.contextvars.bound_contextvars(**self.log_fields)


@dataclass(frozen=True, slots=True)
class Publication:
    """One message to publish, the id of the request that caused it, and the trace it is part of."""

    message: Message
    correlation_id: str | None = None
    traceparent: str | None = None

    @property
    def message_id(self) -> str:
        """The same for every copy of a message: media and attempt."""
        return f"{self.message.media_id}:{self.message.attempt or 0}"


class Broker(Protocol):
    """What a consumer-publisher loop needs; RabbitMQ here, the inline worker in development."""

    def can_publish(self) -> bool:
        """Connect if need be; return whether `publish` has a chance now."""

    def publish(self, publications: Sequence[Publication]) -> list[Publication]:
        """Publish, wait for the confirms, and return those that were NOT routed and confirmed.

        One of these may have arrived all the same: its confirm may be what was lost.
        """

    def count_waiting(self, queue: str) -> int:
        """Return how many messages wait in a queue; 0 when it cannot be known."""

    def consume(self, *, limit: int, wait_seconds: float) -> list[Delivery]:
        """Return up to `limit` messages, waiting at most `wait_seconds` for the first."""

    def ack(self, deliveries: Sequence[Delivery]) -> None:
        """Tell the broker that these are done."""

    def dead_letter(self, delivery: Delivery, reason: str) -> None:
        """Set a message aside for a person, with the reason."""

    def sleep(self, seconds: float) -> None:
        """Wait, then do the pending I/O of all connections; `sleep(0)` does just that."""

    def close(self) -> None:
        """Leave; unacknowledged messages go to another consumer."""
