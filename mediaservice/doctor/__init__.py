"""The doctor: tests whether store, database and broker really do what this service relies on.

Many S3-compatible stores accept the headers that protect uploads and do not act on them. So nothing
is believed that was not tested: each probe does what a client, a worker or an attacker would do,
and what it leaves behind is deleted again.
"""

from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from config.settings import Settings
from mediaservice.doctor.probes import Check, Verdict, examine
from mediaservice.doctor.services import broker_probes, clock_probes, database_probes
from mediaservice.doctor.store import StoreProbes
from mediaservice.doctor.store_client import StoreClient
from mediaservice.lifecycle import Lifecycle
from mediaservice.lifecycle.rows import Rows
from mediaservice.storage import Storage, StoreUnavailable

__all__ = ["Check", "Verdict", "examine_servers", "examine_service"]


def examine_service(
    settings: Settings,
    storage: Storage,
    lifecycle: Lifecycle,
    *,
    migrations: Path,
) -> Iterator[Check]:
    """Yield the outcome of each probe as it is made: store, database, broker, clocks.

    `storage` signs upload URLs as web does.
    """
    client = StoreClient(storage)
    try:
        yield from examine(StoreProbes(client, settings).probes())
    finally:
        # What cannot be deleted now is found by the next audit: the keys belong to no media.
        with suppress(StoreUnavailable):
            client.clear()
    yield from examine_servers(
        settings,
        lifecycle.rows,
        migrations=migrations,
        store_ahead_seconds=client.clock_ahead_seconds,
    )


def examine_servers(
    settings: Settings,
    rows: Rows,
    *,
    migrations: Path,
    store_ahead_seconds: float | None,
    now: datetime | None = None,
) -> Iterator[Check]:
    """Yield the outcome of each probe but the store's; `now` replaces the clock of this process."""
    has_database = True
    for check in examine(database_probes(rows.engine, migrations)):
        if check.name == "database":
            has_database = check.verdict is Verdict.OK
        yield check
    yield from examine(broker_probes(settings))
    clocks = clock_probes(settings, rows if has_database else None, store_ahead_seconds, now)
    yield from examine(clocks)
