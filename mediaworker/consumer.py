"""The worker's loop: jobs in, results out, with the network and the decoder busy at once.

One thread talks AMQP and waits for the decoder; fetching the next original and storing the last
renditions go on beside it. A job is acknowledged only when its result is confirmed.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Final, ParamSpec, TypeVar

import structlog

from mediaservice.broker import Broker, Delivery, Publication
from mediaservice.messages import FailedResult, Job, MalformedMessage, Result, decode
from mediaservice.monitoring import Heartbeat
from mediaservice.tracing import MessageSpan, current_traceparent
from mediaworker.worker import Worker, describe_failure, report

POLL_SECONDS: Final = 1.0
FETCH_AHEAD: Final = 2
# One being rendered, one ahead of it, one being stored.
PREFETCH: Final = FETCH_AHEAD + 1
# After the first of consecutive faults, after the second and so on; a worker that works does tens
# of jobs in the last one.
PAUSES_SECONDS: Final = (0.0, 1.0, 2.0, 4.0, 8.0, 15.0)

log = structlog.get_logger(__name__)


P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Task:
    delivery: Delivery
    job: Job
    span: MessageSpan
    started_at: float = field(default_factory=time.perf_counter)

    def run(self, stage: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a stage, in whichever thread, with its log lines and spans named after the job."""
        with self.delivery.log_context(), self.span.current():
            return stage(*args, **kwargs)


@dataclass(frozen=True, slots=True)
class _Fetching:
    task: _Task
    original: Future[bytes]


@dataclass(frozen=True, slots=True)
class _Storing:
    task: _Task
    result: Future[Result]


class Consumer:
    """Runs until `stopping` is set; finishes and publishes what it has rendered by then."""

    def __init__(
        self,
        worker: Worker,
        broker: Broker,
        stopping: threading.Event,
        heartbeat: Heartbeat | None = None,
    ) -> None:
        self._heartbeat = heartbeat or Heartbeat("worker")
        self._worker = worker
        self._broker = broker
        self._stopping = stopping
        self._fetching: deque[_Fetching] = deque()
        self._storing: deque[_Storing] = deque()
        self._faults = 0  # one after the other, none of them an image's

    def run(self) -> None:
        """Take, render, publish; jobs not yet rendered at the end go to another worker."""
        log.info("worker_started")
        with ThreadPoolExecutor(FETCH_AHEAD, thread_name_prefix="store") as pool:
            while not self._stopping.is_set():
                self._heartbeat.beat()
                self._take(pool)
                self._render_next(pool)
                # Wait for a result only if nothing is left to render, or a second one waits.
                while self._storing and (
                    not self._fetching or self._storing[0].result.done() or len(self._storing) > 1
                ):
                    self._publish(self._storing.popleft())
            while self._storing:
                self._publish(self._storing.popleft())
        self._broker.close()
        log.info("worker_stopped")

    def _take(self, pool: ThreadPoolExecutor) -> None:
        is_idle = not self._fetching
        if is_idle:
            self._broker.can_publish()  # so that a lost connection is back before it is needed
        for delivery in self._broker.consume(
            limit=FETCH_AHEAD - len(self._fetching), wait_seconds=POLL_SECONDS if is_idle else 0
        ):
            try:
                job = decode(delivery.routing_key, delivery.body)
                if not isinstance(job, Job):
                    raise MalformedMessage("a result is not a job")
            except MalformedMessage as error:
                self._broker.dead_letter(delivery, str(error))
                with delivery.log_context():
                    log.info("message", outcome="malformed")
                continue
            span = MessageSpan(
                delivery.routing_key,
                traceparent=delivery.traceparent,
                message_id=delivery.message_id,
            )
            task = _Task(delivery, job, span)
            original = pool.submit(task.run, self._worker.fetch, job)
            self._fetching.append(_Fetching(task, original))

    def _render_next(self, pool: ThreadPoolExecutor) -> None:
        if not self._fetching:
            return
        fetching = self._fetching.popleft()
        task = fetching.task
        result: Future[Result]
        try:
            rendered = task.run(self._worker.render, self._await(fetching.original))
        except Exception as error:  # noqa: BLE001 - whatever it is, somebody waits for the result
            result = Future()
            result.set_result(task.run(describe_failure, task.job, error))
        else:
            result = pool.submit(task.run, self._worker.store, task.job, rendered)
        self._storing.append(_Storing(task, result))

    def _await(self, stage: Future[T]) -> T:
        """Return or raise what a stage does; meanwhile keep the connections alive."""
        while not wait([stage], POLL_SECONDS).done:
            self._heartbeat.beat()
            self._broker.sleep(0)
        return stage.result()

    def _publish(self, storing: _Storing) -> None:
        """Publish a result and acknowledge its job.

        While the broker takes no messages the result is kept in hand. A worker that has to stop
        then leaves the job to be delivered again.
        """
        task = storing.task
        try:
            result = self._await(storing.result)
        except Exception as error:  # noqa: BLE001 - as above
            result = task.run(describe_failure, task.job, error)
        task.run(report, task.job, result, task.started_at)
        publication = Publication(
            result, task.delivery.correlation_id, task.run(current_traceparent)
        )
        task.span.end()
        while self._broker.publish([publication]):
            if self._stopping.is_set():
                return
            self._heartbeat.beat()
            self._broker.sleep(POLL_SECONDS)
        self._broker.ack([task.delivery])
        self._pause_after(result)

    def _pause_after(self, result: Result) -> None:
        """Pause after consecutive faults, longer each time.

        The next job would most likely meet the same fault, and use up an attempt; and a worker that
        fails in no time, for want of a key, would take the jobs of those that work.
        """
        if not (isinstance(result, FailedResult) and result.error.retryable):
            self._faults = 0
            return
        seconds = PAUSES_SECONDS[min(self._faults, len(PAUSES_SECONDS) - 1)]
        self._faults += 1
        if seconds:
            log.warning("worker_paused", seconds=seconds, code=result.error.code)
        while seconds > 0 and not self._stopping.is_set():
            self._heartbeat.beat()
            self._broker.sleep(POLL_SECONDS)
            seconds -= POLL_SECONDS
