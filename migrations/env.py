"""How migrations reach the database: the application's own engine, one migrator at a time."""

import time
from typing import Any

import click
from alembic import context
from flask import current_app
from sqlalchemy import text

from mediaservice.database import is_postgresql
from mediaservice.models import Media

MIGRATION_LOCK = 0x6D65646961  # "media": any number, as long as it is always the same
LOCK_POLL_SECONDS = 0.2


def leave_out_empty(_context: Any, _revision: Any, scripts: list[Any]) -> None:
    """Have `flask db migrate` write nothing where models and migrations agree."""
    is_comparison = getattr(context.config.cmd_opts, "autogenerate", False)
    if is_comparison and scripts[0].upgrade_ops.is_empty():
        scripts.clear()
        click.echo("No changes: the models are what the migrations end at.")


def run_migrations() -> None:
    """Run the pending migrations, each in its own transaction if it does not say otherwise."""
    engine = current_app.extensions["media"].lifecycle.rows.transactional_engine
    with engine.connect() as connection:
        if is_postgresql(engine):
            # Several releases may start at once; and building an index may take its time.
            connection.execute(text("SET statement_timeout = 0"))
            lock = text("SELECT pg_try_advisory_lock(:n)").bindparams(n=MIGRATION_LOCK)
            # Whoever waited within a query would hold up CREATE INDEX CONCURRENTLY, which waits
            # for all queries.
            while not connection.execute(lock).scalar():
                connection.commit()
                time.sleep(LOCK_POLL_SECONDS)
            connection.commit()
        context.configure(
            connection=connection,
            target_metadata=Media.metadata,
            transaction_per_migration=True,
            compare_server_default=True,
            process_revision_directives=leave_out_empty,
            render_as_batch=engine.dialect.name == "sqlite",
        )
        with context.begin_transaction():
            context.run_migrations()
        # The lock and the setting go with the session.
        connection.invalidate()


run_migrations()
