"""Breaks the service while it is used, lets it come to rest, and checks the books.

    N=300 SEED=1 python -m tests.chaos.main

The seed repeats what clients and faults intend; what the machine makes of it differs. Exit code 0:
nothing lost, stuck, orphaned or illegal.
"""

import os
import secrets
import shutil
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing
from pathlib import Path

import click

from devstack.process import wait_until
from tests.chaos.books import Books
from tests.chaos.faults import Faults
from tests.chaos.load import Client, Upload
from tests.chaos.stack import Stack

CONCURRENCY = 8
QUIET_SECONDS = 240


def main() -> int:
    """Run, print one line of totals, and return the exit code."""
    count = int(os.environ.get("N", "300"))
    seed = int(os.environ.get("SEED") or secrets.randbelow(10**6))
    click.echo(f"chaos: {count} uploads, SEED={seed}")
    directory = Path(tempfile.mkdtemp(prefix="media-chaos-"))
    directory.chmod(0o755)
    started_at = time.monotonic()
    try:
        faults, books = play(directory, count, seed)
    except BaseException:
        click.echo(f"chaos: FAILED seed={seed}, broken off; logs are in {directory}", err=True)
        raise
    for fault in books.faults:
        click.echo(f"chaos: {fault}", err=True)
    report = {**dict(sorted(books.totals.items())), "faults": sum(faults.counts.values())}
    click.echo(f"chaos: injected {dict(sorted(faults.counts.items()))}")
    click.echo(
        f"chaos: {'FAILED' if books.faults else 'passed'} seed={seed} uploads={count} "
        f"{report} wrong={len(books.faults)} seconds={time.monotonic() - started_at:.0f}"
    )
    if books.faults:
        click.echo(f"chaos: logs are in {directory}", err=True)
        return 1
    shutil.rmtree(directory, ignore_errors=True)
    return 0


def play(directory: Path, count: int, seed: int) -> tuple[Faults, Books]:
    """Use a service while it is broken; return its faults, and the books once all is quiet."""
    with closing(Stack(directory, seed)) as stack:
        with Faults(stack, seed) as faults:
            uploads = load(stack, count, seed)
        books = Books(stack, uploads)
        try:
            wait_until(books.is_quiet, seconds=QUIET_SECONDS, what="quiet", poll_seconds=1)
        except TimeoutError as error:
            books.faults.append(str(error))
        books.check()
        if not faults.counts:
            books.faults.append("nothing was broken, so nothing is shown")
    return faults, books


def load(stack: Stack, count: int, seed: int) -> list[Upload]:
    """Play `count` scenarios, some at a time, with a progress bar on a terminal."""
    clients = [Client(stack, seed * 1_000_003 + number) for number in range(count)]
    with ThreadPoolExecutor(CONCURRENCY) as pool:
        futures = [pool.submit(client.run) for client in clients]
        try:
            with click.progressbar(as_completed(futures), length=count, label="uploads") as done:
                return [future.result() for future in done]
        finally:
            pool.shutdown(cancel_futures=True)


if __name__ == "__main__":
    sys.exit(main())
