"""The listener's loop: workers' results in, due work out.

One thread does both in turn, so that neither a stream of results nor a backlog of due work can
starve the other. All decisions are `lifecycle`'s; any number of listeners may run at once.
"""

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from uuid import UUID

import structlog
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError

from mediaservice import metrics
from mediaservice.broker import (
    DEAD_LETTER_QUEUE,
    PROCESS_QUEUE,
    RESULTS_QUEUE,
    Broker,
    Delivery,
    Publication,
)
from mediaservice.lifecycle import Claim, Lifecycle, MediaRow, ResultOutcome
from mediaservice.messages import Job, MalformedMessage, Result, decode
from mediaservice.monitoring import Heartbeat
from mediaservice.storage import StoreUnavailable
from mediaservice.tracing import MessageSpan

RESULT_BATCH = 100
RESULT_PREFETCH = 4 * RESULT_BATCH
DISPATCH_BATCH = 50
PUBLISHERS = 4  # connections that await confirms at the same time; more are slower here
HOUSEKEEPING_BATCH = 20
HOUSEKEEPING_SECONDS = 1.0
# A round's purging ends after this long, so that a slow store holds up neither results nor jobs.
PURGE_SECONDS = 0.25
SAMPLE_SECONDS = 15.0
# How long to wait after a fault of database, store or broker before trying again.
FAULT_WAIT_SECONDS = 1.0
STORE_FAULT_WAIT_SECONDS = 10.0
UNROUTABLE_WAIT_SECONDS = 10.0

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Batch:
    """Results being applied and not settled yet; `wait` returns what each has come to."""

    deliveries: Sequence[Delivery]
    results: Sequence[Result]
    wait: Callable[[], list[ResultOutcome]]
    started_at_ns: int


class Listener:
    """Runs until `stop`; finishes what it has in hand first.

    `one_by_one` is for a broker whose `publish` does the job: each media is ready before the next
    job is begun.
    """

    def __init__(
        self,
        lifecycle: Lifecycle,
        broker: Broker,
        stopping: threading.Event,
        *,
        poll_seconds: float,
        one_by_one: bool = False,
        heartbeat: Heartbeat | None = None,
    ) -> None:
        self._lifecycle = lifecycle
        self._broker = broker
        self._stopping = stopping
        self._poll_seconds = poll_seconds
        self._one_by_one = one_by_one
        self._heartbeat = heartbeat or Heartbeat("listener")
        self._in_flight: _Batch | None = None
        self._purging: list[MediaRow] = []  # claimed; their leases bring them back
        self._is_all_refused = False  # of those claimed so far
        self._dispatch_at = self._housekeeping_at = self._purge_at = self._sample_at = 0.0

    def run(self) -> None:
        """Loop until `stop` is called, from a signal handler or another thread."""
        log.info("listener_started")
        try:
            while self._in_flight or not self._stopping.is_set():
                self.run_once()
        finally:
            self._broker.close()
        log.info("listener_stopped")

    def run_once(self) -> None:
        """Take waiting results, waiting for them until work is due at most; then do that work."""
        self._heartbeat.beat()
        wait_seconds = max(0.0, min(self._dispatch_at, self._housekeeping_at) - time.monotonic())
        if self._in_flight:
            # While PostgreSQL applies a batch the next one is read, but not waited for.
            wait_seconds = 0.0
        try:
            self._take_results(self._broker.consume(limit=RESULT_BATCH, wait_seconds=wait_seconds))
            if self._stopping.is_set():
                self._settle_in_flight()
                return
            if time.monotonic() >= self._dispatch_at:
                if self._one_by_one:
                    self._settle_in_flight()
                more = self._dispatch()
                self._dispatch_at = time.monotonic() + (0 if more else self._poll_seconds)
            # Before what may fail each time, so that somebody sees what that leaves undone.
            if time.monotonic() >= self._sample_at:
                self._sample()
                self._sample_at = time.monotonic() + SAMPLE_SECONDS
            if time.monotonic() >= self._housekeeping_at:
                self._settle_in_flight()  # a slow store must not hold up its acknowledgement
                more = self._keep_house()
                self._housekeeping_at = time.monotonic() + (0 if more else HOUSEKEEPING_SECONDS)
        except DBAPIError as error:
            # Whatever was claimed comes back when its lease ends.
            self._wait_for_database(error)

    def stop(self) -> None:
        """Ask the loop to end."""
        self._stopping.set()

    def _take_results(self, deliveries: Sequence[Delivery]) -> None:
        """Begin to apply results once those in flight are applied; then settle the latter."""
        started_at_ns = time.time_ns()
        good, results = self._decode(deliveries, started_at_ns)
        batch, self._in_flight = self._in_flight, None
        outcomes = self._wait_for_outcomes(batch.results, batch.wait) if batch else None
        if batch and outcomes is None:
            self._take_one_by_one(batch)
        if results:
            wait = self._lifecycle.results.begin(results)
            self._in_flight = _Batch(good, results, wait, started_at_ns)
        if batch and outcomes is not None:
            self._broker.ack(batch.deliveries)
            _report_results(batch.deliveries, outcomes, batch.started_at_ns)

    def _settle_in_flight(self) -> None:
        """Wait for the batch in flight and settle it; begin no other."""
        self._take_results([])

    def _decode(
        self, deliveries: Sequence[Delivery], started_at_ns: int
    ) -> tuple[list[Delivery], list[Result]]:
        """Return what holds a result, and the results; set the others aside."""
        good: list[Delivery] = []
        results: list[Result] = []
        for delivery in deliveries:
            try:
                message = decode(delivery.routing_key, delivery.body)
                if isinstance(message, Job):
                    raise MalformedMessage("a job is not a result")
            except MalformedMessage as error:
                self._broker.dead_letter(delivery, str(error))
                _report_results([delivery], ["malformed"], started_at_ns)
            else:
                good.append(delivery)
                results.append(message)
        return good, results

    def _take_one_by_one(self, batch: _Batch) -> None:
        """Apply a batch that has a value in it which the database refuses."""
        for result, delivery in zip(batch.results, batch.deliveries, strict=True):
            wait = self._lifecycle.results.begin([result])
            outcomes = self._wait_for_outcomes([result], wait)
            if outcomes is not None:
                self._broker.ack([delivery])
            else:
                self._broker.dead_letter(delivery, "the database refuses its values")
            _report_results([delivery], outcomes or ["refused"], batch.started_at_ns)

    def _wait_for_outcomes(
        self, results: Sequence[Result], wait: Callable[[], list[ResultOutcome]]
    ) -> list[ResultOutcome] | None:
        """Wait, however long the database is away; return None if it refuses a value.

        Results are kept in hand meanwhile: giving them back would spend their deliveries.
        """
        while True:
            try:
                return wait()
            except (DataError, IntegrityError) as error:
                log.error("results_refused", count=len(results), reason=str(error.orig))
                return None
            except DBAPIError as error:
                if self._stopping.is_set():
                    raise
                self._wait_for_database(error)
                wait = self._lifecycle.results.begin(results)

    def _wait_for_database(self, error: DBAPIError) -> None:
        self._heartbeat.beat()
        metrics.DATABASE_FAULTS.inc()
        log.error("database_unavailable", reason=str(error.orig))
        self._broker.sleep(FAULT_WAIT_SECONDS)

    def _dispatch(self) -> bool:
        """Publish due jobs; return whether there may be more."""
        if not self._broker.can_publish():
            return False
        limit = 1 if self._one_by_one else DISPATCH_BATCH
        claimed = self._lifecycle.processing.claim(limit)
        if not claimed:
            return False
        # The last attempt is published all the same: the job that waits may be another's.
        held = self._hold_waiting([c for c in claimed if c.is_resend and c.attempts_left])
        failed = self._broker.publish(
            [
                Publication(c.job, c.request_id, c.traceparent)
                for c in claimed
                if c.job.media_id not in held
            ]
        )
        given_back = {publication.message.media_id for publication in failed}
        for claim in claimed:
            if claim.job.media_id in given_back:
                self._lifecycle.processing.give_back(claim, delay_seconds=UNROUTABLE_WAIT_SECONDS)
        self._lifecycle.processing.log_time_outs(
            [c for c in claimed if c.job.media_id not in given_back]
        )
        for claim in claimed:
            _report_dispatch(claim, held=held, given_back=given_back)
        return len(claimed) == limit and not failed

    def _hold_waiting(self, resends: Sequence[Claim]) -> set[UUID]:
        """Hold resends while jobs wait in the queue; return the media held.

        A queue that is behind must not be given the same work again, and grow for it.
        """
        if not resends or not self._broker.count_waiting(PROCESS_QUEUE):
            return set()
        for claim in resends:
            self._lifecycle.processing.hold(claim.job)
        return {claim.job.media_id for claim in resends}

    def _sample(self) -> None:
        """Measure what waits, here and in the queues; every listener measures the same."""
        for kind, work in self._lifecycle.statistics.due().items():
            metrics.DUE_MEDIA.labels(kind).set(work.count)
            metrics.DUE_OLDEST_AGE.labels(kind).set(work.oldest_age_seconds)
        if self._broker.can_publish():
            for queue in (PROCESS_QUEUE, RESULTS_QUEUE, DEAD_LETTER_QUEUE):
                metrics.QUEUE_MESSAGES.labels(queue).set(self._broker.count_waiting(queue))

    def _keep_house(self) -> bool:
        """Expire, give up, retire and purge what is due; return whether there may be more."""
        counts = [
            self._lifecycle.uploads.expire(HOUSEKEEPING_BATCH),
            self._lifecycle.processing.give_up(HOUSEKEEPING_BATCH),
            self._lifecycle.deletion.retire(HOUSEKEEPING_BATCH),
        ]
        return self._purge() or max(counts) == HOUSEKEEPING_BATCH

    def _purge(self) -> bool:
        """Purge for a while; return whether there may be more."""
        if time.monotonic() < self._purge_at:
            return False
        if not self._purging:
            claimed = self._lifecycle.deletion.claim(HOUSEKEEPING_BATCH)
            # In random order: one that is always refused must not hold up the same others.
            self._purging = random.sample(claimed, len(claimed))
            self._is_all_refused = bool(claimed)
        is_any = bool(self._purging)
        end_at = time.monotonic() + PURGE_SECONDS
        while self._purging and not self._stopping.is_set() and time.monotonic() < end_at:
            # A slow store can take longer over a batch than anybody waits for a sign of life.
            self._heartbeat.beat()
            self._broker.sleep(0)
            try:
                is_purged = self._lifecycle.deletion.purge(self._purging[-1])
            except StoreUnavailable as error:
                if error.is_refusal:  # by a lock or a policy on this one's objects
                    self._postpone(1, error)
                    continue
                # One time-out is enough: the store is asked again for all of them, later.
                self._purge_at = time.monotonic() + STORE_FAULT_WAIT_SECONDS
                self._postpone(len(self._purging), error)
                return False
            if not is_purged:
                log.error("purge_postponed", count=1, reason="objects are there again")
            metrics.PURGES.labels("done" if is_purged else "postponed").inc()
            self._purging.pop()
            self._is_all_refused = False
        if self._is_all_refused and not self._purging:
            self._purge_at = time.monotonic() + STORE_FAULT_WAIT_SECONDS
        return is_any

    def _postpone(self, count: int, error: StoreUnavailable) -> None:
        log.error("purge_postponed", count=count, reason=str(error))
        metrics.PURGES.labels("postponed").inc(count)
        for _ in range(count):
            row = self._purging.pop()
            self._lifecycle.deletion.postpone(row, is_refused=error.is_refusal)


def _report_dispatch(claim: Claim, *, held: set[UUID], given_back: set[UUID]) -> None:
    job = claim.job
    outcome = "published"
    if job.media_id in held:
        outcome = "held"
    elif job.media_id in given_back:
        outcome = "given_back"
    metrics.DISPATCHES.labels("first" if job.attempt == 1 else "further", outcome).inc()
    log.info(
        "job_dispatched",
        media_id=str(job.media_id),
        attempt=job.attempt,
        request_id=claim.request_id,
        outcome=outcome,
    )


def _report_results(
    deliveries: Sequence[Delivery], outcomes: Sequence[str], started_at_ns: int
) -> None:
    """Count messages that were taken together, and leave one line and span of each."""
    duration_seconds = round((time.time_ns() - started_at_ns) / 1e9, 6)
    counts = Counter(zip((d.routing_key for d in deliveries), outcomes, strict=True))
    for (routing_key, outcome), count in counts.items():
        metrics.RESULTS.labels(metrics.routing_key_label(routing_key), outcome).inc(count)
    for delivery, outcome in zip(deliveries, outcomes, strict=True):
        MessageSpan(
            metrics.routing_key_label(delivery.routing_key),
            traceparent=delivery.traceparent,
            message_id=delivery.message_id,
            started_at_ns=started_at_ns,
        ).end()
        log.info(
            "message",
            outcome=str(outcome),
            duration_seconds=duration_seconds,
            **delivery.log_fields,
        )
