"""RabbitMQ: the topology, publishing with confirms, consuming with acknowledgements.

The only module that imports pika; it moves `messages`, and knows neither rows nor objects. Service
and worker share it. One thread, two connections: RabbitMQ stops reading from connections that
publish while it is short of memory or disk, and results must flow even then.
"""

import hashlib
import random
import time
from collections import deque
from collections.abc import Callable, Container, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any, Final, Protocol, Self

import pika
import structlog
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import AMQPError, ChannelClosedByBroker, NackError, UnroutableError

from mediaservice import metrics
from mediaservice.messages import (
    MEDIA_FAILED,
    MEDIA_PROCESS,
    MEDIA_PROCESSED,
    Message,
    ProcessRequest,
    Result,
    encode,
)

EXCHANGE: Final = "media"
DEAD_LETTER_EXCHANGE: Final = "media.dead"
DEAD_LETTER_QUEUE: Final = "media.dead"
PROCESS_QUEUE: Final = "media-worker.process"
RESULTS_QUEUE: Final = "media-service.results"

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
HEARTBEAT_SECONDS: Final = 30
BLOCKED_TIMEOUT_SECONDS: Final = 5
RECONNECT_SECONDS: Final = (0.2, 10.0)  # first and longest wait between attempts
REASON_HEADER: Final = "x-media-reason"
TRACEPARENT_HEADER: Final = "traceparent"  # W3C Trace Context

log = structlog.get_logger(__name__)


class BrokerUnavailable(Exception):
    """RabbitMQ cannot be reached, or does not take messages now."""


@dataclass(frozen=True, slots=True)
class Delivery:
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


class Broker(Protocol):
    """What a consumer-publisher loop needs; RabbitMQ here, the inline worker in development."""

    @property
    def can_publish(self) -> bool:
        """Whether `publish` has a chance now; False while disconnected or blocked."""

    def publish(self, publications: Sequence[Publication]) -> list[Publication]:
        """Publish, wait for the confirms, and return those that were NOT routed and confirmed."""

    def count_waiting(self, queue: str) -> int:
        """Return how many messages wait in a queue; 0 when it cannot be known."""

    def consume(self, *, limit: int, wait_seconds: float) -> list[Delivery]:
        """Return up to `limit` messages, waiting at most `wait_seconds` for the first."""

    def ack(self, deliveries: Sequence[Delivery]) -> None:
        """Tell the broker that these are done."""

    def dead_letter(self, delivery: Delivery, reason: str) -> None:
        """Set a message aside for a person, with the reason."""

    def rest(self, seconds: float) -> None:
        """Pass time while deliveries are in hand, keeping the connections alive."""

    def close(self) -> None:
        """Leave; unacknowledged messages go to another consumer."""


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


def create_topology(url: str) -> None:
    """Connect once and declare the topology. Raises BrokerUnavailable."""
    link = _Link(url, "media init", lambda _channel: None)
    link.open()
    link.drop()


def _connect(url: str, name: str) -> Any:
    parameters = pika.URLParameters(url)
    parameters.heartbeat = HEARTBEAT_SECONDS
    parameters.blocked_connection_timeout = BLOCKED_TIMEOUT_SECONDS
    parameters.socket_timeout = parameters.stack_timeout = 10
    parameters.client_properties = {"connection_name": name}
    return pika.BlockingConnection(parameters)


@dataclass
class _Link:
    """One connection with one channel, reopened with back-off and jitter when it is lost."""

    url: str
    name: str
    prepare: Callable[[BlockingChannel], None]
    connection: Any = None
    channel: Any = None
    blocked: bool = False
    _wait_seconds: float = 0.0
    _retry_at: float = 0.0
    _ready: bool = field(default=False)
    number: int = 0  # of connections so far

    @property
    def is_open(self) -> bool:
        # A channel closed by the broker is not reported by the connection: look at both.
        return self._ready and self.connection.is_open and self.channel.is_open

    def open(self) -> BlockingChannel:
        """Return the open channel, or raise BrokerUnavailable, at once while backing off."""
        if self.is_open:
            return self.channel
        self.drop()
        if time.monotonic() < self._retry_at:
            raise BrokerUnavailable(f"{self.name}: waiting to reconnect")
        try:
            self.connection = _connect(self.url, self.name)
            self.connection.add_on_connection_blocked_callback(self._on_blocked)
            self.connection.add_on_connection_unblocked_callback(self._on_unblocked)
            self.channel = self.connection.channel()
            declare_topology(self.channel)
            self.prepare(self.channel)
        except (AMQPError, OSError) as error:
            self._back_off()
            metrics.BROKER_CONNECTIONS.labels(self.name, "refused").inc()
            log.warning("broker_connect_failed", link=self.name, reason=repr(error))
            self.drop()
            raise BrokerUnavailable(f"{self.name}: {error!r}") from None
        self._ready = True
        self.number += 1
        self._wait_seconds = 0.0
        metrics.BROKER_CONNECTIONS.labels(self.name, "opened").inc()
        metrics.BROKER_CONNECTED.labels(self.name).set(1)
        metrics.BROKER_BLOCKED.labels(self.name).inc(0)  # so that its first time is an increase
        log.info("broker_connected", link=self.name)
        return self.channel

    def fail(self, error: BaseException) -> BrokerUnavailable:
        """Drop the link after an error; the caller raises what is returned."""
        metrics.BROKER_CONNECTIONS.labels(self.name, "lost").inc()
        log.warning("broker_connection_lost", link=self.name, reason=repr(error))
        self.drop()
        self._back_off()
        return BrokerUnavailable(f"{self.name}: {error!r}")

    def drop(self) -> None:
        connection, self.connection, self.channel = self.connection, None, None
        self._ready = self.blocked = False
        metrics.BROKER_CONNECTED.labels(self.name).set(0)
        if connection is not None and connection.is_open:
            try:
                connection.close()
            except (AMQPError, OSError) as error:
                log.debug("broker_close_failed", link=self.name, reason=repr(error))

    def service(self) -> None:
        """Do the connection's pending I/O, heartbeats above all, without waiting."""
        if self.is_open:
            try:
                self.connection.process_data_events(0)
            except (AMQPError, OSError) as error:
                self.fail(error)

    def seconds_to_retry(self) -> float:
        return max(0.0, self._retry_at - time.monotonic())

    def _back_off(self) -> None:
        shortest, longest = RECONNECT_SECONDS
        self._wait_seconds = min(longest, max(shortest, self._wait_seconds * 2))
        # Jitter keeps a fleet from reconnecting in step.
        self._retry_at = time.monotonic() + self._wait_seconds * random.uniform(0.5, 1.0)  # noqa: S311

    def _on_blocked(self, *_: Any) -> None:
        self.blocked = True
        metrics.BROKER_BLOCKED.labels(self.name).inc()
        log.warning("broker_blocked", link=self.name)

    def _on_unblocked(self, *_: Any) -> None:
        self.blocked = False
        log.info("broker_unblocked", link=self.name)


class RabbitMQ:
    """Consumes one queue and publishes to the exchange, over two connections, from one thread.

    `wait` is how to pass time while there is no connection; a loop gives one that a signal ends.
    """

    def __init__(
        self,
        url: str,
        *,
        queue: str,
        prefetch: int,
        wait: Callable[[float], object] = time.sleep,
    ) -> None:
        self._queue = queue
        self._wait = wait
        self._publishing = _Link(url, f"{queue} publisher", lambda c: c.confirm_delivery())
        self._prefetch = prefetch
        self._unsettled: set[int] = set()  # delivery tags of this connection
        self._consuming = _Link(url, f"{queue} consumer", self._begin_consuming)

    @property
    def can_publish(self) -> bool:
        """Connect if need be; False while disconnected or blocked by the broker."""
        self._publishing.service()
        try:
            self._publishing.open()
        except BrokerUnavailable:
            return False
        return not self._publishing.blocked

    def publish(self, publications: Sequence[Publication]) -> list[Publication]:
        """Publish persistently and `mandatory`; return those that were not routed and confirmed.

        A lost connection leaves the rest of the batch unpublished: they are returned, and one of
        them may have arrived all the same. Consumers see the same `message_id` twice then.
        """
        failed = []
        for index, publication in enumerate(publications):
            try:
                channel = self._publishing.open()
                self._publish(channel, publication)
                metrics.BROKER_PUBLISHES.labels("confirmed").inc()
            except (UnroutableError, NackError) as error:
                metrics.BROKER_PUBLISHES.labels("refused").inc()
                log.error(
                    "publish_refused", message_id=_message_id(publication), reason=repr(error)
                )
                failed.append(publication)
            except BrokerUnavailable:
                return failed + list(publications[index:])
            except (AMQPError, OSError) as error:
                metrics.BROKER_PUBLISHES.labels("lost").inc()
                self._publishing.fail(error)
                return failed + list(publications[index:])
        return failed

    def count_waiting(self, queue: str) -> int:
        """Return how many messages wait in a queue; 0 when it cannot be known."""
        try:
            answer = self._publishing.open().queue_declare(queue, passive=True)
        except BrokerUnavailable:
            return 0
        except (AMQPError, OSError) as error:
            self._publishing.fail(error)
            return 0
        return int(answer.method.message_count)

    def consume(self, *, limit: int, wait_seconds: float) -> list[Delivery]:
        """Return what has arrived, waiting at most `wait_seconds` for the first message.

        Without a connection it waits just as long and returns nothing.
        """
        self._publishing.service()
        deliveries: list[Delivery] = []
        try:
            channel = self._consuming.open()
            # Leaving the loop leaves the consumer, and what it has prefetched, in place.
            for method, properties, body in channel.consume(
                self._queue, inactivity_timeout=max(wait_seconds, 0.001)
            ):
                if method is None:
                    break
                metrics.BROKER_DELIVERIES.labels(
                    metrics.routing_key_label(method.routing_key),
                    "yes" if method.redelivered else "no",
                ).inc()
                self._unsettled.add(method.delivery_tag)
                deliveries.append(
                    Delivery(
                        routing_key=str(method.routing_key),
                        body=body,
                        message_id=properties.message_id,
                        correlation_id=properties.correlation_id,
                        delivery_tag=method.delivery_tag,
                        redelivered=method.redelivered,
                        link_number=self._consuming.number,
                        traceparent=_traceparent(properties.headers),
                    )
                )
                if len(deliveries) >= limit or not channel.get_waiting_message_count():
                    break
            if not self._consuming.is_open:
                raise self._consuming.fail(BrokerUnavailable("the broker closed the channel"))
        except BrokerUnavailable:
            self._wait(wait_seconds)
            return []
        except (AMQPError, OSError, ValueError) as error:
            self._consuming.fail(error)
            return []
        return deliveries

    def ack(self, deliveries: Sequence[Delivery]) -> None:
        """Acknowledge; if the connection is gone they will be delivered again, to somebody."""
        tags = sorted(d.delivery_tag for d in deliveries if self._holds(d))
        if not tags:
            return
        self._unsettled.difference_update(tags)
        # One ack settles all before it too: only right if nothing before it is still in hand.
        together = all(tag > tags[-1] for tag in self._unsettled)
        try:
            for tag in tags[-1:] if together else tags:
                self._consuming.channel.basic_ack(tag, multiple=together)
        except (AMQPError, OSError) as error:
            self._consuming.fail(error)

    def dead_letter(self, delivery: Delivery, reason: str) -> None:
        """Move a message to the dead-letter queue with the reason in its headers, then ack it."""
        metrics.BROKER_DEAD_LETTERS.labels(metrics.routing_key_label(delivery.routing_key)).inc()
        log.error(
            "message_dead_lettered",
            routing_key=delivery.routing_key,
            message_id=delivery.message_id,
            reason=reason,
        )
        try:
            self._publishing.open().basic_publish(
                DEAD_LETTER_EXCHANGE,
                delivery.routing_key,
                delivery.body,
                pika.BasicProperties(
                    delivery_mode=pika.DeliveryMode.Persistent,
                    message_id=delivery.message_id,
                    correlation_id=delivery.correlation_id,
                    headers={REASON_HEADER: reason[:500]},
                ),
                mandatory=True,
            )
        except (BrokerUnavailable, AMQPError, OSError) as error:
            # The broker's own dead-lettering keeps the message; only our words are lost.
            log.warning("dead_letter_without_reason", reason=repr(error))
            self._reject(delivery)
            return
        self.ack([delivery])

    def rest(self, seconds: float) -> None:
        """Wait, then do the pending I/O of both connections, heartbeats above all."""
        self._wait(seconds)
        self._publishing.service()
        self._consuming.service()

    def close(self) -> None:
        """Close both connections; what was not acknowledged goes to another consumer."""
        self._consuming.drop()
        self._publishing.drop()

    def _publish(self, channel: BlockingChannel, publication: Publication) -> None:
        routing_key, body = encode(publication.message)
        channel.basic_publish(
            EXCHANGE,
            routing_key,
            body,
            pika.BasicProperties(
                content_type="application/json",
                delivery_mode=pika.DeliveryMode.Persistent,
                message_id=_message_id(publication),
                correlation_id=publication.correlation_id,
                headers=_trace_headers(publication.traceparent),
            ),
            mandatory=True,
        )

    def _begin_consuming(self, channel: BlockingChannel) -> None:
        self._unsettled.clear()
        channel.basic_qos(prefetch_count=self._prefetch)

    def _holds(self, delivery: Delivery) -> bool:
        """Say whether a delivery is still ours: the broker takes it back with its connection."""
        return self._consuming.is_open and delivery.link_number == self._consuming.number

    def _reject(self, delivery: Delivery) -> None:
        try:
            if self._holds(delivery):
                self._unsettled.discard(delivery.delivery_tag)
                self._consuming.channel.basic_reject(delivery.delivery_tag, requeue=False)
        except (AMQPError, OSError) as error:
            self._consuming.fail(error)


def _trace_headers(traceparent: str | None) -> dict[str, str] | None:
    return {TRACEPARENT_HEADER: traceparent} if traceparent else None


def _traceparent(headers: dict[str, Any] | None) -> str | None:
    value = (headers or {}).get(TRACEPARENT_HEADER)
    return value if isinstance(value, str) else None


def _message_id(publication: Publication) -> str:
    message = publication.message
    return f"{message.media_id}:{message.attempt or 0}"


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


class BrokerDesk:
    """RabbitMQ as a person sees it: queues, topology, dead letters. One short connection.

    A context manager; messages that were looked at go back to their queue when it ends. Every
    method raises BrokerUnavailable.
    """

    def __init__(self, url: str) -> None:
        self._url = url

    def __enter__(self) -> Self:
        with _as_unavailable():
            self._connection = _connect(self._url, "media desk")
        return self

    def __exit__(self, *_: object) -> None:
        if self._connection.is_open:
            with _as_unavailable():
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
        with _as_unavailable(), closing(self._held()) as held:
            return [letter for _, _, _, letter in islice(held, limit)]

    def requeue(self, ids: Container[str] | None) -> Iterator[tuple[DeadLetter, str | None]]:
        """Publish dead letters anew, each to its routing key, and only then take it off the queue.

        `ids` None means all that were there at the start. Yields each with the reason why it
        stays, or None. What is lost between the two steps is published twice, never not at all.
        """
        with _as_unavailable(), closing(self._held()) as held:
            publishing = self._connection.channel()
            publishing.confirm_delivery()
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
                channel.basic_ack(method.delivery_tag)
                yield letter, None

    def drop(self, ids: Container[str] | None) -> Iterator[DeadLetter]:
        """Delete dead letters for good; `ids` None means all that were there at the start."""
        with _as_unavailable(), closing(self._held()) as held:
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

    def _state_of(self, queue: str) -> QueueState | None:
        with _as_unavailable():
            channel = self._connection.channel()
            try:
                found = channel.queue_declare(queue, passive=True).method
            except ChannelClosedByBroker:
                return None
            channel.close()
            return QueueState(found.message_count, found.consumer_count)

    def _declare(self, operation: str, name: str, **arguments: Any) -> str | None:
        """Declare on a channel of its own; return what the broker has against it."""
        with _as_unavailable():
            channel = self._connection.channel()
            try:
                getattr(channel, operation)(name, **arguments)
            except ChannelClosedByBroker as error:
                return str(error.reply_text)
            channel.close()
            return None


@contextmanager
def _as_unavailable() -> Iterator[None]:
    try:
        yield
    except (AMQPError, OSError) as error:
        raise BrokerUnavailable(str(error) or repr(error)) from None


def _dead_letter(method: Any, properties: Any, body: bytes) -> DeadLetter:
    headers = properties.headers or {}
    # The broker's own account, latest death first; ours has a reason instead.
    death = (headers.get("x-death") or [{}])[0]
    routing_keys = death.get("routing-keys") or [method.routing_key]
    return DeadLetter(
        id=properties.message_id or f"sha256:{hashlib.sha256(body).hexdigest()[:16]}",
        routing_key=str(routing_keys[0]),
        reason=str(headers.get(REASON_HEADER) or death.get("reason") or "unknown"),
        body=body,
        correlation_id=properties.correlation_id,
    )


def _without_deaths(headers: dict[str, Any] | None) -> dict[str, Any]:
    """Return headers as they were before: with its deaths counted on, a message dies sooner."""
    return {
        name: value
        for name, value in (headers or {}).items()
        if not name.startswith(("x-death", "x-first-death", "x-last-death", "x-delivery-count"))
        and name != REASON_HEADER
    }


class InlineBroker:
    """No broker: publishing a job does it, there and then, and queues its answer for `consume`.

    For one person's own machine. Nothing is kept: what is lost with the process is dispatched
    again once its attempt has timed out.
    """

    can_publish = True

    def __init__(
        self,
        process: Callable[[ProcessRequest], Result],
        *,
        wait: Callable[[float], object] = time.sleep,
        close: Callable[[], object] = lambda: None,
    ) -> None:
        self._process = process
        self._wait = wait
        self._close = close
        self._answers: deque[Delivery] = deque()

    def publish(self, publications: Sequence[Publication]) -> list[Publication]:
        """Process each job and keep the answer."""
        for publication in publications:
            if isinstance(publication.message, ProcessRequest):
                with _inline_delivery(publication.message, publication).log_context():
                    answer = self._process(publication.message)
                self._answers.append(_inline_delivery(answer, publication))
        return []

    def count_waiting(self, queue: str) -> int:
        """Nothing waits: jobs are done as they are published."""
        return 0

    def consume(self, *, limit: int, wait_seconds: float) -> list[Delivery]:
        """Return the answers kept so far."""
        if not self._answers:
            self._wait(wait_seconds)
        return [self._answers.popleft() for _ in range(min(limit, len(self._answers)))]

    def ack(self, deliveries: Sequence[Delivery]) -> None:
        """Nothing to tell."""

    def dead_letter(self, delivery: Delivery, reason: str) -> None:
        """There is no queue to keep it in."""
        log.error("message_dropped", message_id=delivery.message_id, reason=reason)

    def rest(self, seconds: float) -> None:
        """Wait."""
        self._wait(seconds)

    def close(self) -> None:
        """Let the worker go."""
        self._close()


def _inline_delivery(message: Message, publication: Publication) -> Delivery:
    routing_key, body = encode(message)
    return Delivery(
        routing_key=routing_key,
        body=body,
        message_id=_message_id(publication),
        correlation_id=publication.correlation_id,
        delivery_tag=0,
        traceparent=publication.traceparent,
    )
