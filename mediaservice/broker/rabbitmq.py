"""Publishing with confirms and consuming with acknowledgements, for a loop.

One thread calls. What is consumed has a connection of its own: RabbitMQ stops reading from those
that publish while it is short of memory or disk, and results must flow even then.
"""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import wait
from typing import Any, Final

import pika
import structlog
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import AMQPError, ChannelClosedByBroker, NackError, UnroutableError

from mediaservice import metrics
from mediaservice.broker import (
    DEAD_LETTER_EXCHANGE,
    EXCHANGE,
    REASON_HEADER,
    BrokerUnavailable,
    Delivery,
    Publication,
)
from mediaservice.broker.connection import Link
from mediaservice.messages import encode
from mediaservice.threads import start_in_thread

TRACEPARENT_HEADER: Final = "traceparent"  # W3C Trace Context
# A quorum queue without a majority of its nodes, or a disk that hangs, confirms nothing; and pika
# would wait for as long as heartbeats come.
CONFIRM_SECONDS: Final = 20.0

log = structlog.get_logger(__name__)


class RabbitMQBroker:
    """Consumes one queue over one connection, and publishes to the exchange over `publishers`.

    `wait` is how to pass time while there is no connection; a loop gives one that a signal ends.
    """

    def __init__(
        self,
        url: str,
        *,
        queue: str,
        prefetch: int,
        publishers: int = 1,
        wait: Callable[[float], object] = time.sleep,
    ) -> None:
        self._queue = queue
        self._wait = wait
        self._publishing = [
            Link(url, f"{queue} publisher {number}", lambda c: c.confirm_delivery())
            for number in range(1, publishers + 1)
        ]
        self._prefetch = prefetch
        self._unsettled: set[int] = set()  # delivery tags of this connection
        self._consuming = Link(url, f"{queue} consumer", self._begin_consuming)

    def can_publish(self) -> bool:
        """Connect if need be; False while no connection is open, or the broker blocks one."""
        for link in self._publishing:
            link.process_events()
            if not link.is_backing_off:
                try:
                    link.open()
                except BrokerUnavailable:
                    break  # trying them all would take as many time-outs
        is_blocked = any(link.blocked for link in self._publishing)
        return not is_blocked and any(link.is_open for link in self._publishing)

    def publish(self, publications: Sequence[Publication]) -> list[Publication]:
        """Publish persistently and `mandatory`; return those that were not routed and confirmed.

        A connection awaits one confirm at a time, so all that are open share a batch. One that is
        lost, or not done within CONFIRM_SECONDS, leaves the rest of its share unpublished: they are
        returned, and one of them may have arrived all the same. Consumers see the same `message_id`
        twice then.
        """
        links = self._open_links()[: len(publications)]
        shares = [list(publications[first :: len(links)]) for first in range(len(links))]
        under_way = [
            start_in_thread(_publish, link, share)
            for link, share in zip(links, shares, strict=True)
        ]
        wait(under_way, CONFIRM_SECONDS)
        failed: list[Publication] = []
        for link, share, published in zip(links, shares, under_way, strict=True):
            if published.done():
                published.result()
            else:
                metrics.BROKER_PUBLISHES.labels("lost").inc()
                self._leave(link)
            failed += share
        return failed

    def count_waiting(self, queue: str) -> int:
        """Return how many messages wait in a queue; 0 when it cannot be known."""
        link = self._open_links()[0]
        try:
            declared = link.open().queue_declare(queue, passive=True)
        except BrokerUnavailable:
            return 0
        except (AMQPError, OSError) as error:
            link.fail(error)
            return 0
        return int(declared.method.message_count)

    def consume(self, *, limit: int, wait_seconds: float) -> list[Delivery]:
        """Return what has arrived, waiting at most `wait_seconds` for the first message.

        Without a connection it waits just as long and returns nothing.
        """
        for link in self._publishing:
            link.process_events()
        deliveries: list[Delivery] = []
        try:
            channel = self._consuming.open()
            # Leaving the loop leaves the consumer, and what it has prefetched, in place.
            for method, properties, body in channel.consume(
                self._queue, inactivity_timeout=max(wait_seconds, 0.001)
            ):
                if method is None:
                    break
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
        _count(deliveries)
        return deliveries

    def ack(self, deliveries: Sequence[Delivery]) -> None:
        """Acknowledge; if the connection is gone they will be delivered again, to somebody."""
        tags = sorted(d.delivery_tag for d in deliveries if self._holds(d))
        if not tags:
            return
        self._unsettled.difference_update(tags)
        # One ack settles all before it too: only right if nothing before it is still in hand.
        is_alone = all(tag > tags[-1] for tag in self._unsettled)
        try:
            if is_alone:
                self._consuming.channel.basic_ack(tags[-1], multiple=True)
                return
            for tag in tags:
                self._consuming.channel.basic_ack(tag)
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
        link = self._open_links()[0]
        published = start_in_thread(_set_aside, link, delivery, reason)
        try:
            published.result(CONFIRM_SECONDS)
        except (BrokerUnavailable, AMQPError, OSError) as error:
            if not published.done():
                self._leave(link)
            # The broker's own dead-lettering keeps the message; only our words are lost.
            log.warning("dead_letter_without_reason", reason=repr(error))
            self._reject(delivery)
            return
        self.ack([delivery])

    def sleep(self, seconds: float) -> None:
        """Wait, then do the pending I/O of all connections, heartbeats above all."""
        self._wait(seconds)
        for link in (*self._publishing, self._consuming):
            link.process_events()

    def close(self) -> None:
        """Close all connections; what was not acknowledged goes to another consumer."""
        for link in (self._consuming, *self._publishing):
            link.drop()

    def _open_links(self) -> list[Link]:
        """Return the connections to publish over that are open; the first one, if none is."""
        return [link for link in self._publishing if link.is_open] or self._publishing[:1]

    def _leave(self, link: Link) -> None:
        """Leave a link to the thread that waits on it, and have another in its place."""
        following = link.leave(f"no confirm within {CONFIRM_SECONDS:g} s")
        self._publishing = [following if one is link else one for one in self._publishing]

    def _begin_consuming(self, channel: BlockingChannel) -> None:
        self._unsettled.clear()
        channel.basic_qos(prefetch_count=self._prefetch)

    def _holds(self, delivery: Delivery) -> bool:
        """Return whether a delivery is still ours: the broker takes it back with its connection."""
        return self._consuming.is_open and delivery.link_number == self._consuming.number

    def _reject(self, delivery: Delivery) -> None:
        try:
            if self._holds(delivery):
                self._unsettled.discard(delivery.delivery_tag)
                self._consuming.channel.basic_reject(delivery.delivery_tag, requeue=False)
        except (AMQPError, OSError) as error:
            self._consuming.fail(error)


def _publish(link: Link, share: list[Publication]) -> None:
    """Publish over one connection, one confirm at a time; what is confirmed is out of the list."""
    for publication in tuple(share):
        if link.is_left:  # whoever called was told that the rest has failed
            break
        try:
            _publish_one(link.open(), publication)
        except (UnroutableError, NackError) as error:
            _report_refused(publication, error)
            continue
        except BrokerUnavailable:
            return
        except ChannelClosedByBroker as error:  # without the permission, or the exchange
            _report_refused(publication, error)
            link.fail(error)
            return
        except (AMQPError, OSError) as error:
            metrics.BROKER_PUBLISHES.labels("lost").inc()
            link.fail(error)
            return
        metrics.BROKER_PUBLISHES.labels("confirmed").inc()
        share.remove(publication)
    if link.is_left:
        link.drop()


def _set_aside(link: Link, delivery: Delivery, reason: str) -> None:
    try:
        link.open().basic_publish(
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
    finally:
        if link.is_left:
            link.drop()


def _report_refused(publication: Publication, error: AMQPError) -> None:
    metrics.BROKER_PUBLISHES.labels("refused").inc()
    log.error("publish_refused", message_id=publication.message_id, reason=repr(error))


def _publish_one(channel: BlockingChannel, publication: Publication) -> None:
    routing_key, body = encode(publication.message)
    channel.basic_publish(
        EXCHANGE,
        routing_key,
        body,
        pika.BasicProperties(
            content_type="application/json",
            delivery_mode=pika.DeliveryMode.Persistent,
            message_id=publication.message_id,
            correlation_id=publication.correlation_id,
            headers=_trace_headers(publication.traceparent),
        ),
        mandatory=True,
    )


def _count(deliveries: Sequence[Delivery]) -> None:
    counts = Counter((d.routing_key, d.redelivered) for d in deliveries)
    for (routing_key, redelivered), count in counts.items():
        metrics.BROKER_DELIVERIES.labels(
            metrics.routing_key_label(routing_key), "yes" if redelivered else "no"
        ).inc(count)


def _trace_headers(traceparent: str | None) -> dict[str, str] | None:
    return {TRACEPARENT_HEADER: traceparent} if traceparent else None


def _traceparent(headers: dict[str, Any] | None) -> str | None:
    value = (headers or {}).get(TRACEPARENT_HEADER)
    return value if isinstance(value, str) else None
