"""`python -m benchmarks`: run the benchmarks, show the table, keep the figures."""

import logging
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

import click
import structlog

from benchmarks.about import describe_run
from benchmarks.growth import growth
from benchmarks.listener import listener
from benchmarks.options import LARGE_ROWS, Options
from benchmarks.processes import processes
from benchmarks.report import Figure, Report, text_table
from benchmarks.stack import Stack
from benchmarks.web import presign, web
from benchmarks.worker import worker

BENCHMARKS: Final[dict[str, Callable[[Options, Stack], list[Figure]]]] = {
    "presign": presign,
    "web": web,
    "listener": listener,
    "worker": worker,
    "growth": growth,
    "processes": processes,
}


@click.command()
@click.option("--only", multiple=True, type=click.Choice(list(BENCHMARKS)), help="Run just these.")
@click.option("--rounds", default=5, show_default=True, help="Turns that each side has.")
@click.option("--rows", default=LARGE_ROWS, show_default=True, help="Rows of the grown table.")
@click.option(
    "--photos",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of originals, instead of made-up ones.",
)
@click.option(
    "--python",
    default=sys.executable,
    help="Interpreter of the service's processes, in an environment like a deployment's.",
)
@click.option("--json", "path", type=click.Path(path_type=Path), help="Write the figures there.")
def main(
    only: tuple[str, ...],
    rounds: int,
    rows: int,
    photos: Path | None,
    python: str,
    path: Path | None,
) -> None:
    """Measure the service beside others that do the same work, on this machine alone.

    Every figure is a ratio to a reference of the same run: sides take turns, and medians of their
    rounds are shown. A goal that is not reached is marked MISS.
    """
    options = Options(rounds=rounds, rows=rows, photos=photos, python=str(Path(python).absolute()))
    report = run(only or tuple(BENCHMARKS), options)
    click.echo(f"\n{text_table(report.figures)}")
    if path:
        report.write(path)


def run(names: tuple[str, ...], options: Options) -> Report:
    """Run benchmarks on servers of their own, and return what they found."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    about = describe_run(options)
    figures: list[Figure] = []
    # PostgreSQL, which root must start as another user, could not reach a private folder.
    with tempfile.TemporaryDirectory(prefix="media-bench-") as directory:
        Path(directory).chmod(0o755)
        with Stack(Path(directory), options.python) as stack:
            for name in names:
                figures += BENCHMARKS[name](options, stack)
    return Report(about, figures)


if __name__ == "__main__":
    sys.exit(main())
