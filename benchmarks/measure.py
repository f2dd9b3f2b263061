"""Rounds, medians, and what processes cost; nothing of what is measured.

Sides that are compared take turns, in an order drawn anew each round, so that whatever else the
machine does falls on all of them.
"""

import gc
import os
import random
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import click

_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Cost:
    """What a number of operations took; `cpu_seconds` of the processes that did them.

    `servers` has the CPU seconds of each server meanwhile, `wal_bytes` what PostgreSQL logged.
    `latency_seconds` is the median of the single operations, where they were timed.
    """

    operations: int
    seconds: float
    cpu_seconds: float
    servers: Mapping[str, float] = field(default_factory=dict)
    wal_bytes: int = 0
    latency_seconds: float = 0.0

    @property
    def per_second(self) -> float:
        """Operations a second."""
        return self.operations / self.seconds

    @property
    def cpu_us(self) -> float:
        """Microseconds of CPU per operation."""
        return self.cpu_seconds / self.operations * 1e6

    @property
    def latency_ms(self) -> float:
        """Milliseconds that one operation took, the median."""
        return self.latency_seconds * 1e3


Costs = dict[str, list[Cost]]


def take_turns(name: str, sides: Mapping[str, Callable[[], Cost]], rounds: int) -> Costs:
    """Run every side `rounds` times, each round in another order, and show how far it is."""
    costs: Costs = {side: [] for side in sides}
    turns = [side for _ in range(rounds) for side in random.sample(list(sides), len(sides))]
    with click.progressbar(turns, label=f"{name:10}", item_show_func=lambda side: side) as bar:
        for side in bar:
            costs[side].append(sides[side]())
    return costs


def median(values: Iterable[float]) -> float:
    """Return the middle value."""
    return statistics.median(values)


def time_calls(call: Callable[[], object], *, seconds: float) -> Cost:
    """Repeat a call in this process for about `seconds`."""
    gc.collect()
    count = 0
    started, cpu = time.perf_counter(), time.process_time()
    while (elapsed := time.perf_counter() - started) < seconds:
        for _ in range(20):
            call()
        count += 20
    return Cost(count, elapsed, time.process_time() - cpu)


def family(pid: int) -> list[int]:
    """Return a process and all its descendants."""
    found = [pid]
    for process in found:
        for children in Path(f"/proc/{process}/task").glob("*/children"):
            with suppress(OSError):
                found += map(int, children.read_text().split())
    return found


def cpu_seconds(pids: Iterable[int]) -> float:
    """Return the CPU time that living processes have used so far, user and system."""
    nanoseconds = 0
    for pid in pids:
        for statistics_of_thread in Path(f"/proc/{pid}/task").glob("*/schedstat"):
            with suppress(OSError):
                nanoseconds += int(statistics_of_thread.read_text().split()[0])
    return nanoseconds / 1e9


def rss_bytes(pid: int) -> int:
    """Return the resident memory of a process, shared pages included."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_BYTES


def pss_bytes(pid: int) -> int:
    """Return the memory of a process with its part of what it shares; 0 if that is hidden."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0
