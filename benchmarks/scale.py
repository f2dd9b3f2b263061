"""docs/scale.md's tables: what an upload costs by the run that is kept, and what rates take.

One upload is a request for a URL, a `complete`, two looks at its status, a job and its result.
"""

from collections.abc import Mapping
from typing import Final

from benchmarks.report import Report
from mediaworker.renditions import VARIANT_WIDTHS

RATES: Final = (1_000, 10_000, 100_000)
# A ready media's row and index entries, by pg_relation_size of a table of 500,000 (`ROWS=500000`).
BYTES_PER_ROW: Final = 1_170
# PUTs of the original, the main image and the variants; a GET by `complete`, and the worker's.
STORE_REQUESTS: Final = 2 + len(VARIANT_WIDTHS) + 2
# Two published, two consumed.
MESSAGES: Final = 4
_DAY_SECONDS: Final = 86_400
_PARTS: Final = ("postgresql", "rabbitmq")
# What an upload does, how often, by which figure, and whose processor time `cpu_us` of it is.
_STEPS: Final = (
    ("request-upload", "request_upload_cpu", 1, "web"),
    ("complete", "complete_cpu", 1, "web"),
    ("status, twice", "status_cpu", 2, "web"),
    ("dispatch", "dispatch_rate", 1, "listener"),
    ("result", "results_rate", 1, "listener"),
)


def render_scale(report: Report) -> str:
    """Return the tables of a run, as Markdown."""
    details = {figure.name: figure.details for figure in report.figures}
    costs = [_cost(details[name], times, role) for _, name, times, role in _STEPS]
    total = {part: sum(cost[part] for cost in costs) for part in costs[0]}
    ours = {figure.name: figure.ours for figure in report.figures}
    web_seconds = (
        ours["request_upload_growth"] + ours["complete_growth"] + 2 * ours["status_growth"]
    ) / 1e3
    listener_seconds = 1 / ours["dispatch_rate"] + 1 / ours["results_rate"]
    worker_seconds = 1 / ours["pipeline_rate"]
    # A worker's publishing costs the broker what a listener's does.
    rabbitmq_us = total["rabbitmq"] + costs[3]["rabbitmq"]
    lines = [
        "| | web | listener | PostgreSQL | RabbitMQ | WAL |",
        "|---|---:|---:|---:|---:|---:|",
        *(_line(title, cost) for (title, *_), cost in zip(_STEPS, costs, strict=True)),
        _line("**one upload**", total),
        "",
        (
            f"A web process is busy for {web_seconds * 1e3:.1f} ms of an upload, what it waits for "
            f"included, a listener for {listener_seconds * 1e6:,.0f} µs, so that one carries "
            f"{1 / listener_seconds:,.0f} uploads a second; the image worker takes "
            f"{worker_seconds * 1e3:.0f} ms of one core for a photo. The worker's publishing costs "
            f"RabbitMQ another {costs[3]['rabbitmq']:,.0f} µs."
        ),
        "",
        f"| uploads a second | {' | '.join(f'{rate:,}' for rate in RATES)} |",
        "|---|---:|---:|---:|",
        _rates("web, cores", total["web"] / 1e6),
        _rates("web, busy processes", web_seconds),
        _rates("listeners", listener_seconds),
        _rates("image workers, cores", worker_seconds),
        _rates("PostgreSQL, cores", total["postgresql"] / 1e6),
        _rates("PostgreSQL, commits/s", 2),
        _rates("WAL, MB/s", total["wal"] / 1e6),
        _rates("RabbitMQ, cores", rabbitmq_us / 1e6),
        _rates("messages/s, in and out", MESSAGES),
        _rates("store, requests/s", STORE_REQUESTS),
        _rates("rows a day, millions", _DAY_SECONDS / 1e6),
        _rates("table and indexes a day, GB", _DAY_SECONDS * BYTES_PER_ROW / 1e9),
    ]
    return "\n".join([*lines, ""])


def _cost(details: Mapping[str, float], times: int, role: str) -> dict[str, float]:
    """Return microseconds of each part's processor time and bytes of WAL for one upload."""
    cpu = dict.fromkeys(("web", "listener"), 0.0) | {role: details["cpu_us"] * times}
    servers = {part: details[f"{part}_cpu_us"] * times for part in _PARTS}
    # What is read writes none: what is measured then is the servers' own business.
    wal = 0.0 if times > 1 else details["wal_bytes"]
    if role == "web":
        servers["rabbitmq"] = 0.0
    return cpu | servers | {"wal": wal}


def _line(title: str, cost: Mapping[str, float]) -> str:
    parts = ("web", "listener", *_PARTS, "wal")
    return f"| {title} | {' | '.join(f'{cost[part]:,.0f}' for part in parts)} |"


def _rates(title: str, each: float) -> str:
    return f"| {title} | {' | '.join(_number(each * rate) for rate in RATES)} |"


def _number(value: float) -> str:
    return f"{value:.1f}" if value < 10 else f"{value:,.0f}"
