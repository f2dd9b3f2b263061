"""RabbitMQ for a person: what waits where, whether the topology stands, and the dead letters."""

import hashlib
from collections.abc import Container, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, Self, TypeVar

import pika
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import ChannelClosedByBroker, NackError, UnroutableError

from mediaservice.broker import DEAD_LETTER_QUEUE, EXCHANGE, REASON_HEADER
from mediaservice.broker.connection import as_unavailable, connect
from mediaservice.broker.topology import EXCHANGES, TOPOLOGY

T = TypeVar("T")
_DEATH_HEADERS = ("x-death", "x-first-death", "x-last-death", "x-delivery-count")


@dataclass(frozen=True, slots=True)
class QueueState:
    """How many messages wait in a queue, and how many processes consume it."""

    messages: int
    consumers: int


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message that was set aside; `id` is its message id or, without one, its body's hash."""

    id: str
    routing_key: str  # the one it was published with
    reason: str
    body: bytes
    correlation_id: str | None


class BrokerAdmin:
    """RabbitMQ as a person sees it: queues, topology, dead letters. One short connection.

    A context manager; messages that were looked at go back to their queue when it ends. Every
    method raises BrokerUnavailable.
    """

    def __init__(self, url: str) -> None:
        self._url = url

    def __enter__(self) -> Self:
        with as_unavailable():
            self._connection = connect(self._url, "media admin")
        return self

    def __exit__(self, *_: object) -> None:
        if self._connection.is_open:
            with as_unavailable():
                self._connection.close()

    def queues(self) -> dict[str, QueueState | None]:
        """Return the state of each queue of the topology; None for one that is missing."""
        return {queue: self._state_of(queue) for queue in TOPOLOGY}

    def topology_faults(self) -> list[str]:
        """Return what is missing or was declared otherwise; nothing is declared by looking.

        Bindings cannot be asked for; every connection of service and worker declares them anew.
        """
        faults = []
        for exchange, exchange_type in EXCHANGES.items():
            declare = partial(self._declare, "exchange_declare", exchange, durable=True)
            fault = declare(passive=True) or declare(exchange_type=exchange_type)
            faults += [f"exchange {exchange}: {fault}"] if fault else []
        for queue, (arguments, _) in TOPOLOGY.items():
            declare = partial(self._declare, "queue_declare", queue, durable=True)
            # Arguments are compared by a real declaration only, harmless where the queue exists.
            fault = declare(passive=True) or declare(arguments=arguments)
            faults += [f"queue {queue}: {fault}"] if fault else []
        return faults

    def dead_letters(self, limit: int) -> list[DeadLetter]:
        """Return the first dead letters; they stay where they are."""
        with as_unavailable(), closing(self._held()) as held:
            return [letter for _, _, _, letter in islice(held, limit)]

    def requeue(self, ids: Container[str] | None) -> Iterator[tuple[DeadLetter, str | None]]:
        """Republish each dead letter to its routing key, and only then remove it from the queue.

        `ids` None means all that were there at the start. Yields each with the reason why it
        stays, or None. A crash in between republishes one twice; none is lost.
        """
        with as_unavailable(), closing(self._held()) as held:
            publishing = self._confirming_channel()
            for channel, method, properties, letter in held:
                if ids is not None and letter.id not in ids:
                    continue
                properties.headers = _without_deaths(properties.headers)
                properties.delivery_mode = pika.DeliveryMode.Persistent.value
                try:
                    publishing.basic_publish(
                        EXCHANGE, letter.routing_key, letter.body, properties, mandatory=True
                    )
                except UnroutableError:
                    yield letter, "no queue takes its routing key"
                    continue
                except NackError:
                    yield letter, "the queue takes no messages now"
                    continue
                except ChannelClosedByBroker as error:
                    yield letter, f"RabbitMQ refuses it: {error.reply_text}"
                    publishing = self._confirming_channel()
                    continue
                channel.basic_ack(method.delivery_tag)
                yield letter, None

    def drop(self, ids: Container[str] | None) -> Iterator[DeadLetter]:
        """Delete dead letters for good; `ids` None means all that were there at the start."""
        with as_unavailable(), closing(self._held()) as held:
            for channel, method, _, letter in held:
                if ids is None or letter.id in ids:
                    channel.basic_ack(method.delivery_tag)
                    yield letter

    def _held(self) -> Generator[tuple[BlockingChannel, Any, Any, DeadLetter], None, None]:
        """Yield every dead letter there is now, with the channel to acknowledge it on.

        What is not acknowledged goes back to its place when the generator is closed.
        """
        state = self._state_of(DEAD_LETTER_QUEUE)
        channel = self._connection.channel()
        try:
            for _ in range(state.messages if state else 0):
                method, properties, body = channel.basic_get(DEAD_LETTER_QUEUE)
                if method is None:
                    return
                yield channel, method, properties, _dead_letter(method, properties, body)
        finally:
            if channel.is_open:
                channel.close()

    def _confirming_channel(self) -> BlockingChannel:
        channel = self._connection.channel()
        channel.confirm_delivery()
        return channel

    def _state_of(self, queue: str) -> QueueState | None:
        with as_unavailable():
            channel = self._connection.channel()
            try:
                found = channel.queue_declare(queue, passive=True).method
            except ChannelClosedByBroker:
                return None
            channel.close()
            return QueueState(found.message_count, found.consumer_count)

    def _declare(self, operation: str, name: str, **arguments: Any) -> str | None:
        """Declare on a channel of its own; return what the broker has against it."""
        with as_unavailable():
            channel = self._connection.channel()
            try:
                getattr(channel, operation)(name, **arguments)
            except ChannelClosedByBroker as error:
                return str(error.reply_text)
            channel.close()
            return None


def _dead_letter(method: Any, properties: Any, body: bytes) -> DeadLetter:
    headers = properties.headers or {}
    # The broker's own account, latest death first, unless a publisher has written something else
    # there; ours has a reason instead.
    death: dict[str, Any] = _first(headers.get("x-death"), {})
    routing_key = _first(death.get("routing-keys"), method.routing_key)
    return DeadLetter(
        id=_text(properties.message_id) or f"sha256:{hashlib.sha256(body).hexdigest()[:16]}",
        routing_key=_text(routing_key),
        reason=_text(headers.get(REASON_HEADER) or death.get("reason") or "unknown"),
        body=body,
        correlation_id=_text(properties.correlation_id) or None,
    )


def _first(value: Any, default: T) -> T:
    """Return the first element of what should be a list of such as `default`."""
    is_as_said = isinstance(value, list) and value and isinstance(value[0], type(default))
    return value[0] if is_as_said else default


def _text(value: Any) -> str:
    """Return what a message says as text; pika has bytes for what is not UTF-8."""
    return value.decode("latin-1") if isinstance(value, bytes) else str(value or "")


def _without_deaths(headers: dict[str, Any] | None) -> dict[str, Any]:
    """Return headers without RabbitMQ's account of past deaths: it would count on from there."""
    return {
        name: value
        for name, value in (headers or {}).items()
        if not _text(name).startswith(_DEATH_HEADERS) and name != REASON_HEADER
    }
