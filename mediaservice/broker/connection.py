"""Connections to RabbitMQ: opened with the topology declared, reopened with back-off when lost."""

import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import wait
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import pika
import structlog
from pika.adapters.blocking_connection import BlockingChannel
from pika.adapters.utils.connection_workflow import AMQPConnectorException
from pika.exceptions import AMQPConnectionError, AMQPError, ConnectionBlockedTimeout

from config.settings import ConfigurationError
from mediaservice import metrics
from mediaservice.broker import BrokerUnavailable
from mediaservice.broker.topology import declare_topology
from mediaservice.threads import start_in_thread

HEARTBEAT_SECONDS: Final = 30
BLOCKED_TIMEOUT_SECONDS: Final = 5
CONNECT_SECONDS: Final = 5  # longer than this, and a stop would not be heard in time
RECONNECT_SECONDS: Final = (0.2, 10.0)  # first and longest wait between attempts
CLOSE_SECONDS: Final = 2.0

log = structlog.get_logger(__name__)


_decode = pika.BasicProperties.decode


def _decode_what_can_be(properties: Any, encoded: bytes, offset: int = 0) -> Any:
    """Decode properties, and leave out what pika's own raises for.

    pika drops the connection for such a header, say a timestamp in milliseconds (its pull request
    1699), and RabbitMQ delivers that message again, and all that were taken with it.
    """
    try:
        return _decode(properties, encoded, offset)
    except Exception as error:  # noqa: BLE001 - whatever it is, a publisher has written it
        log.warning("properties_undecodable", reason=repr(error))
        properties.headers = None
        return properties


pika.BasicProperties.decode = _decode_what_can_be


def connect(url: str, name: str) -> Any:
    """Return a BlockingConnection that RabbitMQ's own tools show under this name.

    Raises AMQPError, OSError, or ConfigurationError for a URL with parameters that pika refuses.
    """
    try:
        parameters = pika.URLParameters(url)
    # Of ssl_options, which pika reads as a Python literal, come all four.
    except (ValueError, SyntaxError, TypeError, AttributeError) as error:
        raise ConfigurationError([f"BROKER_URL: {error}"]) from None
    parameters.heartbeat = HEARTBEAT_SECONDS
    parameters.blocked_connection_timeout = BLOCKED_TIMEOUT_SECONDS
    parameters.socket_timeout = parameters.stack_timeout = CONNECT_SECONDS
    parameters.client_properties = {"connection_name": name}
    try:
        return pika.BlockingConnection(parameters)
    except AMQPConnectorException as error:  # pika's one exception that is no AMQPError
        raise AMQPConnectionError(repr(error)) from None


@dataclass
class Link:
    """One connection with one channel, reopened with back-off and jitter when it is lost."""

    url: str
    name: str
    prepare: Callable[[BlockingChannel], None]
    connection: Any = None
    channel: Any = None
    blocked: bool = False
    _wait_seconds: float = 0.0
    _retry_at: float = 0.0
    number: int = 0  # of connections so far
    is_left: bool = False  # to a thread that hangs on it; nobody else may use it any more

    @property
    def is_open(self) -> bool:
        """Whether the channel can be used, as far as is known without asking."""
        # A channel closed by the broker is not reported by the connection: look at both.
        return self.channel is not None and self.connection.is_open and self.channel.is_open

    @property
    def is_backing_off(self) -> bool:
        """Whether `open` would not try to connect yet."""
        return not self.is_open and time.monotonic() < self._retry_at

    def open(self) -> BlockingChannel:
        """Return the open channel, or raise BrokerUnavailable, at once while backing off."""
        if self.is_open:
            return self.channel
        self.drop()
        if self.is_backing_off:
            raise BrokerUnavailable(f"{self.name}: waiting to reconnect")
        self.blocked = False  # a new connection is told anew whether the alarm goes on
        try:
            self.connection = connect(self.url, self.name)
            self.connection.add_on_connection_blocked_callback(self._on_blocked)
            self.connection.add_on_connection_unblocked_callback(self._on_unblocked)
            channel = self.connection.channel()
            declare_topology(channel)
            self.prepare(channel)
        except (AMQPError, OSError) as error:
            self._back_off()
            metrics.BROKER_CONNECTIONS.labels(self.name, "refused").inc()
            log.warning("broker_connect_failed", link=self.name, reason=repr(error))
            self.drop()
            raise BrokerUnavailable(f"{self.name}: {error!r}") from None
        self.channel = channel
        self.number += 1
        self._wait_seconds = 0.0
        metrics.BROKER_CONNECTIONS.labels(self.name, "opened").inc()
        metrics.BROKER_CONNECTED.labels(self.name).set(1)
        metrics.BROKER_BLOCKED.labels(self.name).inc(0)  # so that its first time is an increase
        log.info("broker_connected", link=self.name)
        return channel

    def fail(self, error: BaseException) -> BrokerUnavailable:
        """Drop the link after an error, and return that as one of ours, for callers that raise."""
        metrics.BROKER_CONNECTIONS.labels(self.name, "lost").inc()
        log.warning("broker_connection_lost", link=self.name, reason=repr(error))
        if isinstance(error, ConnectionBlockedTimeout):
            # While a publish waits for its confirm pika does not call `_on_blocked`. A new
            # connection would wait as long again, so the next one is not made soon.
            self._on_blocked()
            self._wait_seconds = RECONNECT_SECONDS[1]
        self.drop()
        self._back_off()
        return BrokerUnavailable(f"{self.name}: {error!r}")

    def leave(self, reason: str) -> "Link":
        """Leave this link to the thread that hangs on it; return another for its place.

        That one takes its time to connect: it would most likely hang as well.
        """
        metrics.BROKER_CONNECTIONS.labels(self.name, "lost").inc()
        metrics.BROKER_CONNECTED.labels(self.name).set(0)
        log.warning("broker_connection_lost", link=self.name, reason=reason)
        self.is_left = True
        following = Link(self.url, self.name, self.prepare, number=self.number)
        following._wait_seconds = RECONNECT_SECONDS[1]
        following._back_off()
        return following

    def drop(self) -> None:
        """Close what there is, within CLOSE_SECONDS; `open` makes it anew."""
        connection, self.connection, self.channel = self.connection, None, None
        if not self.is_left:  # or the gauge tells of the next one
            metrics.BROKER_CONNECTED.labels(self.name).set(0)
        if connection is not None and connection.is_open:
            # pika waits for the broker's agreement, on one that hangs until it misses heartbeats.
            # Nobody else uses this connection any more, so a thread may be left with it.
            wait([start_in_thread(self._close, connection)], CLOSE_SECONDS)

    def process_events(self) -> None:
        """Do the connection's pending I/O, heartbeats above all, without waiting."""
        if self.is_open:
            try:
                self.connection.process_data_events(0)
            except (AMQPError, OSError) as error:
                self.fail(error)

    def _close(self, connection: Any) -> None:
        try:
            connection.close()
        except (AMQPError, OSError) as error:
            log.debug("broker_close_failed", link=self.name, reason=repr(error))

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


def create_topology(url: str) -> None:
    """Connect once and declare the topology. Raises BrokerUnavailable."""
    link = Link(url, "media init", lambda _channel: None)
    link.open()
    link.drop()


@contextmanager
def as_unavailable() -> Iterator[None]:
    """Raise what pika and sockets raise as BrokerUnavailable."""
    try:
        yield
    except (AMQPError, OSError) as error:
        raise BrokerUnavailable(str(error) or repr(error)) from None
