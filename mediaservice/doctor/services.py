"""Probes of the database, the broker and the clocks."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from alembic.script import ScriptDirectory
from sqlalchemy import Engine, inspect, text

from config.settings import Settings
from mediaservice.broker.admin import BrokerAdmin
from mediaservice.doctor.probes import Probe, ProbeFailed, ProbeSkipped, ProbeWarning
from mediaservice.lifecycle.rows import Rows

# The Date header of a store has whole seconds, and answers take time.
NOTABLE_SECONDS = 5
_APPLIED = text("SELECT version_num FROM alembic_version")


def database_probes(engine: Engine, migrations: Path) -> Iterator[Probe]:
    """Yield the probes of the database."""

    def answers() -> str:
        with engine.connect() as connection:
            connection.execute(text("SELECT 1"))
        return f"{engine.dialect.name} answers"

    def is_at_head() -> str:
        wanted = set(ScriptDirectory(str(migrations)).get_heads())
        with engine.connect() as connection:
            is_versioned = inspect(connection).has_table("alembic_version")
            applied = set(connection.scalars(_APPLIED)) if is_versioned else set()
        if applied != wanted:
            found = ", ".join(sorted(applied)) or "none"
            raise ProbeFailed(f"applied: {found}; this code needs: {', '.join(sorted(wanted))}")
        return ", ".join(sorted(applied))

    yield Probe(
        "database",
        "the database can be reached",
        "look at DATABASE_URL, and whether the server runs and takes connections from here",
        answers,
        is_essential=True,
    )
    yield Probe(
        "migrations",
        "every migration of this code has been applied",
        "flask --app app db upgrade",
        is_at_head,
    )


def broker_probes(settings: Settings) -> Iterator[Probe]:
    """Yield the probes of RabbitMQ."""

    def answers() -> str:
        if not settings.has_broker:
            raise ProbeSkipped("BROKER_URL=inline: there is no broker")
        with BrokerAdmin(settings.broker_url):
            return "RabbitMQ answers"

    def is_as_declared() -> str:
        if not settings.has_broker:
            raise ProbeSkipped("BROKER_URL=inline: there is no broker")
        with BrokerAdmin(settings.broker_url) as admin:
            faults = admin.topology_faults()
        if faults:
            raise ProbeFailed("; ".join(faults))
        return "exchanges and queues have the right arguments"

    yield Probe(
        "broker",
        "RabbitMQ can be reached",
        "look at BROKER_URL, and whether the server runs and takes connections from here",
        answers,
        is_essential=True,
    )
    yield Probe(
        "broker_topology",
        "exchanges and queues are what service and worker need",
        "missing: flask --app app media init. Other arguments: stop listeners and workers, move "
        "the messages away (shovel), delete the queue, media init",
        is_as_declared,
    )


def clock_probes(
    settings: Settings,
    rows: Rows | None,
    store_ahead_seconds: float | None,
    now: datetime | None,
) -> Iterator[Probe]:
    """Yield the probes of the clocks: URLs are signed by ours and judged by the others'.

    None stands for a database or store that does not answer; `now` replaces this process's clock.
    """

    def agree() -> str:
        ahead = {}
        if rows is not None:
            ahead["database"] = (rows.now() - (now or datetime.now(UTC))).total_seconds()
        if store_ahead_seconds is not None:
            ahead["store"] = store_ahead_seconds
        if not ahead:
            raise ProbeSkipped("neither tells the time")
        found = ", ".join(f"{name} {seconds:+.1f} s" for name, seconds in ahead.items())
        worst = max(abs(seconds) for seconds in ahead.values())
        if worst > settings.upload_grace_seconds:
            raise ProbeFailed(f"{found}; UPLOAD_GRACE_SECONDS={settings.upload_grace_seconds}")
        if worst > NOTABLE_SECONDS:
            raise ProbeWarning(found)
        return found

    yield Probe(
        "clocks",
        "the clocks of database and store agree with this one",
        "have NTP (chrony, systemd-timesyncd) running on every machine",
        agree,
    )
