"""No broker, for one person's own machine."""

import threading
from collections import deque
from collections.abc import Callable, Sequence

import structlog

from mediaservice.broker import Delivery, Publication
from mediaservice.messages import Job, Message, Result, encode

log = structlog.get_logger(__name__)


class InlineBroker:
    """Publishing a job does it, there and then, and queues its result for `consume`.

    Nothing is kept: what is lost with the process is dispatched again once its attempt has timed
    out. Once `stopping` is set no further job is begun, and no wait is long.
    """

    def __init__(
        self,
        process: Callable[[Job], Result],
        stopping: threading.Event,
        *,
        close: Callable[[], object] = lambda: None,
    ) -> None:
        self._process = process
        self._stopping = stopping
        self._close = close
        self._results: deque[Delivery] = deque()

    def can_publish(self) -> bool:
        """Say yes: there is nothing that could be away."""
        return True

    def publish(self, publications: Sequence[Publication]) -> list[Publication]:
        """Process each job and keep the result; return those not begun when it is to stop."""
        for index, publication in enumerate(publications):
            if self._stopping.is_set():
                return list(publications[index:])
            if isinstance(publication.message, Job):
                with _inline_delivery(publication.message, publication).log_context():
                    result = self._process(publication.message)
                self._results.append(_inline_delivery(result, publication))
        return []

    def count_waiting(self, queue: str) -> int:
        """Nothing waits: jobs are done as they are published."""
        return 0

    def consume(self, *, limit: int, wait_seconds: float) -> list[Delivery]:
        """Return the results kept so far."""
        if not self._results:
            self._stopping.wait(wait_seconds)
        return [self._results.popleft() for _ in range(min(limit, len(self._results)))]

    def ack(self, deliveries: Sequence[Delivery]) -> None:
        """Nothing to tell."""

    def dead_letter(self, delivery: Delivery, reason: str) -> None:
        """There is no queue to keep it in."""
        log.error("message_dropped", message_id=delivery.message_id, reason=reason)

    def sleep(self, seconds: float) -> None:
        """Wait."""
        self._stopping.wait(seconds)

    def close(self) -> None:
        """Let the worker go."""
        self._close()


def _inline_delivery(message: Message, publication: Publication) -> Delivery:
    routing_key, body = encode(message)
    return Delivery(
        routing_key=routing_key,
        body=body,
        message_id=publication.message_id,
        correlation_id=publication.correlation_id,
        delivery_tag=0,
        traceparent=publication.traceparent,
    )
