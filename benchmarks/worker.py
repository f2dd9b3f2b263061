"""The worker: its image code beside others', and the whole worker beside its image code alone.

Everything has one core, so that photos a second are photos a second per core.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple
from uuid import uuid4

from benchmarks.listener import open_channel, publish
from benchmarks.load import Load, LoadError
from benchmarks.measure import Cost, Costs, family, take_turns
from benchmarks.options import Options
from benchmarks.photos import CONTENT_TYPES, load_photos
from benchmarks.references.pixels import SIDES, original_of
from benchmarks.report import Figure
from benchmarks.similarity import structural_similarity
from benchmarks.stack import MEASURED_CORES, Database, Stack, on_cores
from benchmarks.web import complete_requests, insert_uploads
from devstack.process import wait_until
from devstack.roles import LISTENER, WORKER
from mediaservice import PROJECT
from mediaservice.broker import EXCHANGE, RESULTS_QUEUE
from mediaservice.keys import public_prefix, raw_key
from mediaservice.messages import Job, ProcessedResult, decode, encode

CORE: Final = MEASURED_CORES[:1]
_PIPELINE: Final = "pipeline"
# Enough that filling and emptying the pipeline, at both ends of a turn, does not count.
_LEAST_JOBS: Final = 40
_WAIT_SECONDS: Final = 60.0


def worker(options: Options, stack: Stack) -> list[Figure]:
    """Render photos in turn by our image code, by libvips, by Pillow, and by the whole worker."""
    photos = load_photos(options.photos)
    originals = stack.make_folder("originals")
    for name, photo in photos.items():
        (originals / name).write_bytes(photo)
    folders = {side: stack.make_folder(f"renditions-{side}") for side in SIDES}
    database = stack.create_database("worker")
    pipeline = Pipeline(stack, "worker", stack.environ(database))
    pipeline.store(photos)

    def rendering(side: str) -> Callable[[], Cost]:
        return lambda: _render(side, originals, folders[side])

    sides = {side: rendering(side) for side in SIDES} | {_PIPELINE: pipeline.run}
    costs = take_turns("worker", sides, options.rounds)
    waits = _waits_until_ready(options.samples, stack, database, next(iter(photos.values())))
    pipeline.process.stop()
    return [
        *_rates(costs),
        Figure.wait("ready_latency", "complete to ready, one photo at a time", waits),
        _bytes_figure(folders["ours"], folders["vips"]),
        _similarity_figure(folders["ours"], folders["vips"], photos),
    ]


def _render(side: str, originals: Path, renditions: Path) -> Cost:
    command = [sys.executable, "-m", "benchmarks.references.pixels", side]
    environ = {"PYTHONPATH": str(PROJECT), "VIPS_CONCURRENCY": "1"}
    done = subprocess.run(
        on_cores(CORE, [*command, str(originals), str(renditions)]),
        env=environ,
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        check=True,
    )
    return Cost(**json.loads(done.stdout))


class _Stored(NamedTuple):
    raw_key: str
    raw_etag: str
    content_type: str
    size_bytes: int


class Pipeline:
    """A worker as it is deployed, with its decoder, and the jobs it is given."""

    def __init__(self, stack: Stack, name: str, environ: dict[str, str]) -> None:
        self._stack = stack
        self.process = stack.start_role(name, WORKER, environ, cores=CORE)
        self._stored: list[_Stored] = []

    def store(self, photos: Mapping[str, bytes]) -> None:
        """Store the originals that it will be given."""
        client, bucket = self._stack.store.client(), self._stack.store.raw_bucket
        for name, photo in photos.items():
            key = raw_key(uuid4())
            put = client.put_object(Bucket=bucket, Key=key, Body=photo)
            content_type = CONTENT_TYPES[Path(name).suffix.lower()]
            self._stored.append(_Stored(key, put["ETag"], content_type, len(photo)))

    def run(self) -> Cost:
        """Have every photo rendered, as often as it takes; count from the first answer on."""
        times = -(-_LEAST_JOBS // len(self._stored))
        jobs = [self._job(stored) for _ in range(times) for stored in self._stored]
        with open_channel(self._stack) as channel:
            answers = channel.consume(RESULTS_QUEUE, auto_ack=True)

            def work() -> tuple[int, float]:
                for _ in jobs:
                    method, _, body = next(answers)
                    if not isinstance(decode(method.routing_key, body), ProcessedResult):
                        raise LoadError(f"the worker could not render: {body!r}")
                return len(jobs), time.perf_counter() - started

            # The photo before the first fills the pipeline and is not counted.
            for job in (self._job(self._stored[-1]), *jobs):
                publish(channel, EXCHANGE, *encode(job))
            next(answers)
            started = time.perf_counter()
            cost = self._stack.meter(family(self.process.pid), work)
            channel.cancel()
        return cost

    def _job(self, stored: _Stored) -> Job:
        media_id = uuid4()
        return Job(
            media_id=media_id,
            attempt=1,
            raw_bucket=self._stack.store.raw_bucket,
            public_bucket=self._stack.store.public_bucket,
            public_prefix=public_prefix(media_id),
            requested_at=datetime.now(UTC),
            **stored._asdict(),
        )


def _waits_until_ready(samples: int, stack: Stack, database: Database, photo: bytes) -> list[float]:
    """Return the seconds from `complete` to `ready`, by the database's clock, of one at a time.

    The worker must be running, and nothing else taking jobs or answers.
    """
    web = stack.start_service("ready-web", database, workers=1)
    listener = stack.start_role("ready-listener", LISTENER, stack.environ(database))
    media = insert_uploads(stack, database, photo, count=samples)
    taken = (
        "SELECT extract(epoch FROM processed_at - processing_requested_at)::float "
        "FROM media WHERE status = 'ready'"
    )
    for count, request in enumerate(complete_requests(stack, media), 1):
        Load(web.port, [request], connections=1).run_each([request])
        wait_until(
            lambda count=count: len(database.execute(taken)) == count,  # type: ignore[misc]
            seconds=_WAIT_SECONDS,
            what="a photo to be ready",
        )
    waits = [seconds for (seconds,) in database.execute(taken)]
    listener.stop()
    web.stop()
    return waits


def _rates(costs: Costs) -> list[Figure]:
    def rate(name: str, title: str, side: str, reference: str, reference_title: str) -> Figure:
        title = f"{title}, photos a second per core"
        return Figure.compare(
            name, title, costs, ours=side, reference=reference, reference_title=reference_title
        )

    return [
        rate("render_rate", "image code", "ours", "vips", "libvips, decoding per width"),
        rate("render_rate_pillow", "image code", "ours", "pillow", "Pillow, decoding once"),
        rate("pipeline_rate", "whole worker", _PIPELINE, "ours", "its image code alone"),
    ]


def _bytes_figure(ours: Path, reference: Path) -> Figure:
    def total(folder: Path) -> int:
        return sum(path.stat().st_size for path in folder.iterdir())

    return Figure(
        "render_bytes",
        "renditions, bytes",
        "kB",
        total(ours) / 1e3,
        total(reference) / 1e3,
        "libvips at effort 4",
    )


def _similarity_figure(ours: Path, reference: Path, photos: Mapping[str, bytes]) -> Figure:
    """Return how much SSIM any of our renditions loses at most, against the same by libvips."""
    of_ours, losses = [], []
    for path in sorted(ours.iterdir()):
        original = photos[original_of(path)]
        of_ours.append(structural_similarity(path.read_bytes(), original))
        theirs = structural_similarity((reference / path.name).read_bytes(), original)
        losses.append(theirs - of_ours[-1])
    return Figure(
        "render_ssim",
        "renditions, SSIM lost against libvips at effort 4, the worst",
        "",
        max(losses),
        details={"mean_loss": sum(losses) / len(losses), "worst_ssim": min(of_ours)},
    )
