"""What becomes slower as the table grows: the same operations on a small and on a large one.

Both are databases of one server, in turn, read by as many owners with as many media each. One
request at a time: what is compared is how long it takes.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import Final
from uuid import UUID

from benchmarks.measure import Cost, Costs, take_turns
from benchmarks.options import SMALL_ROWS, Options
from benchmarks.photos import make_photo
from benchmarks.report import Figure
from benchmarks.rows import fill, insert_media, sample_owners
from benchmarks.stack import Stack
from benchmarks.web import complete_requests, get_requests, upload_requests
from mediaservice import create_lifecycle
from mediaservice.listener import DISPATCH_BATCH
from mediaservice.storage import Storage

OWNERS: Final = 500
COMPLETIONS: Final = 200
CLAIMS: Final = 10
# By the names of figures.
OPERATIONS: Final = {
    "request_upload_growth": "request-upload",
    "complete_growth": "complete",
    "status_growth": "status",
    "list_growth": "list",
    "claim_growth": "due claim",
}


def growth(options: Options, stack: Stack) -> list[Figure]:
    """Measure each operation at SMALL_ROWS and at `options.rows` rows."""
    photo = make_photo(640, 480)
    raw_key = stack.store_upload(photo)
    sides: dict[str, Callable[[], Cost]] = {}
    for name, rows in (("small", SMALL_ROWS), ("large", options.rows)):
        table = _Table(stack, name, rows, raw_key, len(photo))
        sides |= {f"{what}, {name}": run for what, run in table.operations(options).items()}
    for run in sides.values():
        run()  # what it reads is in memory from here on
    costs = take_turns("growth", sides, options.rounds)
    return _figures(costs, options.rows)


class _Table:
    """A database of some size, and a service on it."""

    def __init__(self, stack: Stack, name: str, rows: int, raw_key: str, size_bytes: int) -> None:
        self._stack = stack
        self._raw_key = raw_key
        self._size_bytes = size_bytes
        self._database = stack.create_database(name)
        fill(self._database, rows)
        self._owners = sample_owners(rows, OWNERS)
        self._web = stack.start_service(f"web-{name}", self._database, workers=1)
        settings = stack.settings(self._database)
        self._processing = create_lifecycle(settings, Storage(settings)).processing

    def operations(self, options: Options) -> Mapping[str, Callable[[], Cost]]:
        """Return what takes turns, by what it is called."""
        ready = self._find_ready()

        def serving(requests: list[bytes]) -> Callable[[], Cost]:
            return lambda: self._web.serve(requests, seconds=options.seconds / 4, connections=1)

        return {
            "request-upload": serving(upload_requests(self._stack, self._owners)),
            "complete": self._complete,
            "status": serving(get_requests(self._stack, "/api/media/{id}/status", ready)),
            "list": serving(get_requests(self._stack, "/api/media?limit=20", ready)),
            "due claim": self._claim,
        }

    def _complete(self) -> Cost:
        media = self._insert("pending", COMPLETIONS, due_seconds=3600)
        return self._web.serve_each(complete_requests(self._stack, media), connections=1)

    def _claim(self) -> Cost:
        self._insert("processing", CLAIMS * DISPATCH_BATCH, due_seconds=0)
        seconds = []
        for _ in range(CLAIMS):
            started = time.perf_counter()
            claimed = self._processing.claim(DISPATCH_BATCH)
            seconds.append(time.perf_counter() - started)
            assert len(claimed) == DISPATCH_BATCH
        return Cost(CLAIMS, sum(seconds), 0, latency_seconds=statistics.median(seconds))

    def _insert(self, status: str, count: int, *, due_seconds: float) -> list[tuple[UUID, UUID]]:
        return insert_media(
            self._database,
            self._owners,
            count=count,
            status=status,
            due_seconds=due_seconds,
            raw_key=self._raw_key,
            size_bytes=self._size_bytes,
        )

    def _find_ready(self) -> list[tuple[UUID, UUID]]:
        found = self._database.execute(
            "SELECT id, owner_id FROM media WHERE owner_id = ANY(%s) AND status = 'ready' "
            "ORDER BY md5(id::text)",
            [self._owners],
        )
        return [(media_id, owner_id) for media_id, owner_id in found]


def _figures(costs: Costs, rows: int) -> list[Figure]:
    return [
        Figure.compare(
            name,
            f"{operation} at {rows:,} rows",
            costs,
            ours=f"{operation}, large",
            reference=f"{operation}, small",
            reference_title=f"at {SMALL_ROWS:,}",
            unit="ms",
            of=attrgetter("latency_ms"),
        )
        for name, operation in OPERATIONS.items()
    ]
