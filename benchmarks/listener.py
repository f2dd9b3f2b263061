"""The listener: results in, jobs out, and how long a completed upload waits for its job.

It runs as it is deployed, in a process of its own. Its rates are read from the times that the
database gave the rows, so that it is seldom asked while it works.
"""

import random
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final
from uuid import UUID

import msgspec
import pika
from pika.adapters.blocking_connection import BlockingChannel

from benchmarks.load import Load
from benchmarks.measure import Cost, Costs, take_turns
from benchmarks.options import Options
from benchmarks.photos import make_photo
from benchmarks.references import raw_amqp
from benchmarks.report import Figure
from benchmarks.rows import VARIANTS, insert_media
from benchmarks.stack import Database, Stack
from benchmarks.web import complete_requests, insert_uploads
from devstack.process import Process, wait_until
from devstack.roles import LISTENER
from mediaservice.broker import EXCHANGE, PROCESS_QUEUE, RESULTS_QUEUE
from mediaservice.listener import DISPATCH_BATCH, RESULT_BATCH, RESULT_PREFETCH
from mediaservice.messages import ProcessedResult, Variant, encode
from mediaworker.contract import SAMPLE_JOB

Media = Sequence[tuple[UUID, UUID]]
WAIT_SECONDS: Final = 120.0
# Each look at the table takes time from the listener.
_POLL_SECONDS: Final = 0.5
_RESULTS: Final = "results"
_DISPATCHES: Final = "dispatches"


def listener(options: Options, stack: Stack) -> list[Figure]:
    """Measure results and dispatches beside plain pika, then the wait for a job while idle."""
    database = stack.create_database("listener")
    process = stack.start_role("listener", LISTENER, stack.environ(database))
    with open_channel(stack) as channel:
        raw_amqp.declare(channel)
        sides = ListenerTurns(options.messages, stack, database, process, channel)
        turns = {
            _RESULTS: sides.take_results,
            "pika, an ack for each": lambda: sides.consume_raw(1),
            "pika, an ack for 100": lambda: sides.consume_raw(RESULT_BATCH),
            _DISPATCHES: sides.dispatch,
            "pika, a confirm for each": sides.publish_raw,
        }
        for side in turns.values():
            side()  # warm
        costs = take_turns("listener", turns, options.rounds)
        waits = _waits_for_jobs(options.samples, stack, database, channel)
    process.stop()
    return _figures(costs, waits)


class ListenerTurns:
    """What takes turns; each returns the cost of `count` messages."""

    def __init__(
        self,
        count: int,
        stack: Stack,
        database: Database,
        process: Process,
        channel: BlockingChannel,
    ) -> None:
        self._count = count
        self._stack = stack
        self._database = database
        self._process = process
        self._channel = channel

    def take_results(self) -> Cost:
        """Have the listener apply results that wait for it."""
        self._process.signal(signal.SIGSTOP)
        for media_id, _ in self._insert(due_seconds=3600):
            routing_key, body = encode(result_of(media_id))
            publish(self._channel, EXCHANGE, routing_key, body)
        # As many as it has prefetched are not in the queue any more.
        self._await_messages(RESULTS_QUEUE, self._count - RESULT_PREFETCH)

        cost = self._resume("status = 'ready'", "processed_at", RESULT_BATCH)
        self._database.execute("TRUNCATE media")
        return cost

    def dispatch(self) -> Cost:
        """Have the listener publish jobs that are all due."""
        self._process.signal(signal.SIGSTOP)
        self._insert(due_seconds=0)
        cost = self._resume("attempt = 1", "due_at", DISPATCH_BATCH)
        self._await_messages(PROCESS_QUEUE, self._count)
        self._channel.queue_purge(PROCESS_QUEUE)
        self._database.execute("TRUNCATE media")
        return cost

    def consume_raw(self, batch: int) -> Cost:
        """Take the same results from a queue and acknowledge them, `batch` at a time, no more."""
        for _ in range(self._count):
            publish(self._channel, "", raw_amqp.QUEUE, encode(result_of(UUID(int=0)))[1])
        self._await_messages(raw_amqp.QUEUE, self._count)
        with open_channel(self._stack) as channel:
            return self._time(
                lambda: raw_amqp.consume(
                    channel, count=self._count, batch=batch, prefetch=RESULT_PREFETCH
                )
            )

    def publish_raw(self) -> Cost:
        """Publish the same jobs, one confirm at a time, no more."""
        body = encode(SAMPLE_JOB)[1]
        with open_channel(self._stack) as channel:
            channel.confirm_delivery()
            cost = self._time(lambda: raw_amqp.publish(channel, [body] * self._count))
            channel.queue_purge(raw_amqp.QUEUE)
        return cost

    def _time(self, call: Callable[[], None]) -> Cost:
        def work() -> tuple[int, float]:
            started = time.perf_counter()
            call()
            return self._count, time.perf_counter() - started

        return self._stack.meter_here(work)

    def _insert(self, *, due_seconds: float) -> Media:
        media = insert_media(
            self._database,
            self._stack.callers,
            count=self._count,
            status="processing",
            due_seconds=due_seconds,
        )
        # As in a table that has been there for a while: its indexes are known to be worth it.
        self._database.execute("VACUUM ANALYZE media")
        return media

    def _await_messages(self, queue: str, count: int) -> None:
        def arrived() -> bool:
            found = self._channel.queue_declare(queue, passive=True).method.message_count
            return int(found) >= count

        wait_until(arrived, seconds=WAIT_SECONDS, what=f"{count} messages in {queue}")

    def _resume(self, condition: str, column: str, batch: int) -> Cost:
        """Let the listener go on, and return the cost once all media meet a condition.

        `column` has the times at which their batches began. The last one's own duration does not
        follow from them, so it is taken to be like the others'.
        """

        def find() -> tuple[int, float]:
            found = self._database.execute(
                f"SELECT count(*), extract(epoch FROM max({column}) - min({column})) "
                f"FROM media WHERE {condition}"
            )
            return int(found[0][0]), float(found[0][1] or 0)

        def work() -> tuple[int, float]:
            self._process.signal(signal.SIGCONT)
            wait_until(
                lambda: find()[0] == self._count,
                seconds=WAIT_SECONDS,
                what=f"{self._count} media",
                poll_seconds=_POLL_SECONDS,
            )
            return self._count, find()[1] * self._count / (self._count - batch)

        return self._stack.meter([self._process.pid], work)


def _waits_for_jobs(
    samples: int, stack: Stack, database: Database, jobs: BlockingChannel
) -> list[float]:
    """Return the seconds from the answer to a `complete` to the arrival of its job, one by one."""
    web = stack.start_service("latency", database, workers=1)
    media = insert_uploads(stack, database, make_photo(640, 480), count=samples)
    waits = []
    consumed = jobs.consume(PROCESS_QUEUE, auto_ack=True)
    for request in complete_requests(stack, media):
        # At any point of the listener's own rhythm.
        time.sleep(random.uniform(0.2, 0.3))
        Load(web.port, [request], connections=1).run_each([request])
        answered = time.perf_counter()
        next(consumed)
        waits.append(time.perf_counter() - answered)
    jobs.cancel()
    web.stop()
    return waits


def _figures(costs: Costs, waits: Sequence[float]) -> list[Figure]:
    def rate(name: str, side: str, reference: str) -> Figure:
        title = f"listener, {side} a second"
        return Figure.compare(name, title, costs, ours=side, reference=reference)

    return [
        rate("results_rate", _RESULTS, "pika, an ack for each"),
        rate("results_rate_batched", _RESULTS, "pika, an ack for 100"),
        rate("dispatch_rate", _DISPATCHES, "pika, a confirm for each"),
        Figure.wait("dispatch_latency", "complete to media.process published, idle", waits),
    ]


@contextmanager
def open_channel(stack: Stack) -> Iterator[BlockingChannel]:
    """Yield a channel on a connection of its own."""
    connection = pika.BlockingConnection(pika.URLParameters(stack.rabbitmq.url))
    try:
        yield connection.channel()
    finally:
        connection.close()


def publish(channel: BlockingChannel, exchange: str, routing_key: str, body: bytes) -> None:
    """Publish a persistent message, without waiting for the broker's word."""
    properties = pika.BasicProperties(
        content_type="application/json",
        delivery_mode=pika.DeliveryMode.Persistent,
        message_id=str(UUID(int=0)),
    )
    channel.basic_publish(exchange, routing_key, body, properties)


def result_of(media_id: UUID) -> ProcessedResult:
    """Return what the reference worker answers for one photo."""
    variants = msgspec.json.decode(VARIANTS.replace("ID", str(media_id)), type=list[Variant])
    return ProcessedResult(
        media_id=media_id,
        attempt=1,
        public_key=variants[0].key,
        width=variants[0].width,
        height=variants[0].height,
        content_type=variants[0].content_type,
        size_bytes=variants[0].size_bytes,
        variants=variants[1:],
        placeholder="1QcSHQRnh493V4dIh4eXh1h4kJUI",
    )
