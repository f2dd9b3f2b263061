"""What each process takes: time until it works, memory once it has worked.

Every round starts them anew.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, TypeVar

import click

from benchmarks.listener import ListenerTurns, open_channel
from benchmarks.load import Load, request
from benchmarks.measure import cpu_seconds, family, median, pss_bytes, rss_bytes
from benchmarks.options import Options
from benchmarks.photos import load_photos
from benchmarks.report import Figure
from benchmarks.stack import Stack, Web
from benchmarks.web import CONNECTIONS, upload_requests
from benchmarks.worker import Pipeline
from devstack.roles import LISTENER

WORKERS: Final = 2
MESSAGES: Final = 2_000
TRAFFIC_SECONDS: Final = 2.0

Started = TypeVar("Started")


@dataclass(frozen=True, slots=True)
class _Memory:
    """Bytes: resident, and with only its part of what it shares."""

    rss: int
    pss: int


@dataclass(frozen=True, slots=True)
class _Run:
    """Wall-clock and CPU seconds until it was ready, and the memory of its processes by name."""

    seconds: float
    cpu_seconds: float
    memory: Mapping[str, _Memory]


def processes(options: Options, stack: Stack) -> list[Figure]:
    """Start each process, give it work, and look at it."""
    photos = load_photos(options.photos)
    runs: dict[str, list[_Run]] = {"web": [], "listener": [], "worker": []}
    with click.progressbar(range(options.rounds), label="processes ") as bar:
        for number in bar:
            runs["web"].append(_run_web(stack, f"web_{number}"))
            runs["listener"].append(_run_listener(stack, f"listener_{number}"))
            runs["worker"].append(_run_worker(stack, f"worker_{number}", photos))
    return [
        _start_figure("web_start", "two web workers, until the first answer", runs["web"]),
        _start_figure("listener_start", "listener, until it has started", runs["listener"]),
        _start_figure("worker_start", "image worker, until it has started", runs["worker"]),
        _memory_figure("web_memory", "web worker, resident memory", runs["web"]),
        _memory_figure("listener_memory", "listener, resident memory", runs["listener"]),
        _memory_figure("worker_memory", "image worker, resident memory", runs["worker"]),
        _memory_figure("decoder_memory", "its decoder, resident memory", runs["worker"]),
    ]


def _run_web(stack: Stack, name: str) -> _Run:
    database = stack.create_database(name)
    health = request("GET", "/healthz", headers={})

    def start() -> Web:
        web = stack.start_service(name, database, workers=WORKERS)
        Load(web.port, [health], connections=1).run_each([health])
        return web

    web, seconds = _timed(start)
    cpu = cpu_seconds(web.processes)
    requests = upload_requests(stack, stack.callers)
    web.serve(requests, seconds=TRAFFIC_SECONDS, connections=CONNECTIONS)
    largest = max(map(_memory, web.workers), key=lambda memory: memory.rss)
    web.stop()
    return _Run(seconds, cpu, {"web_memory": largest})


def _run_listener(stack: Stack, name: str) -> _Run:
    database = stack.create_database(name)
    environ = stack.environ(database)
    process, seconds = _timed(lambda: stack.start_role(name, LISTENER, environ))
    cpu = cpu_seconds([process.pid])
    with open_channel(stack) as channel:
        turns = ListenerTurns(MESSAGES, stack, database, process, channel)
        turns.dispatch()
        turns.take_results()
    memory = _memory(process.pid)
    process.stop()
    return _Run(seconds, cpu, {"listener_memory": memory})


def _run_worker(stack: Stack, name: str, photos: Mapping[str, bytes]) -> _Run:
    environ = stack.environ(stack.create_database(name))
    pipeline, seconds = _timed(lambda: Pipeline(stack, name, environ))
    consumer, decoder = family(pipeline.process.pid)
    cpu = cpu_seconds([consumer, decoder])
    pipeline.store(photos)
    pipeline.run()
    memory = {"worker_memory": _memory(consumer), "decoder_memory": _memory(decoder)}
    pipeline.process.stop()
    return _Run(seconds, cpu, memory)


def _timed(start: Callable[[], Started]) -> tuple[Started, float]:
    began = time.perf_counter()
    started = start()
    return started, time.perf_counter() - began


def _memory(pid: int) -> _Memory:
    return _Memory(rss_bytes(pid), pss_bytes(pid))


def _start_figure(name: str, title: str, runs: list[_Run]) -> Figure:
    return Figure(
        name,
        title,
        "s",
        median(run.seconds for run in runs),
        details={"cpu_seconds": median(run.cpu_seconds for run in runs)},
    )


def _memory_figure(name: str, title: str, runs: list[_Run]) -> Figure:
    pss = median(run.memory[name].pss for run in runs)
    return Figure(
        name,
        title,
        "MB",
        median(run.memory[name].rss for run in runs) / 1e6,
        details={"pss_mb": pss / 1e6} if pss else {},
    )
