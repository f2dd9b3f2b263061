"""Migrations run up and down on both databases, and end at what the models say."""

import os
import subprocess
import sys

import flask_migrate
import pytest
import sqlalchemy as sa
from alembic.script import ScriptDirectory
from alembic.util import CommandError

from config.settings import Settings
from devstack.process import wait_until
from devstack.roles import FLASK
from mediaservice import PROJECT, create_app
from mediaservice.models import Media

SPECIFIED_COLUMNS = {
    "id": ("UUID", False),
    "owner_id": ("UUID", False),
    "owner_type": ("TEXT", False),
    "status": ("TEXT", False),
    "raw_key": ("TEXT", False),
    "public_key": ("TEXT", True),
    "content_type": ("TEXT", True),
    "size_bytes": ("BIGINT", True),
    "width": ("INTEGER", True),
    "height": ("INTEGER", True),
    "created_at": ("TIMESTAMP", True),
    "processed_at": ("TIMESTAMP", True),
}


MIGRATION_LOCK = 0x6D65646961  # as in migrations/env.py
ASKING_AGAIN = """
    SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()
    AND backend_type = 'client backend' AND query_start > backend_start + interval '0.5 seconds'"""

POSTGRESQL = pytest.param("postgresql", marks=pytest.mark.slow)
on_postgresql = pytest.mark.parametrize("empty_database_url", [POSTGRESQL], indirect=True)


@pytest.fixture
def empty_postgresql_url(make_database):
    with make_database("template1") as url:
        yield url


@pytest.fixture(params=["sqlite", POSTGRESQL])
def empty_database_url(request, tmp_path):
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'empty.sqlite'}"
    return request.getfixturevalue("empty_postgresql_url")


@pytest.fixture
def app(environ, empty_database_url):
    settings = Settings.from_environ({**environ, "DATABASE_URL": empty_database_url})
    app = create_app(settings, with_commands=True)
    with app.app_context():
        yield app
    app.extensions["media"].lifecycle.rows.engine.dispose()


def engine_of(app):
    return app.extensions["media"].lifecycle.rows.engine


def tables_of(app):
    return set(sa.inspect(engine_of(app)).get_table_names()) - {"alembic_version"}


def test_migrations_end_at_what_the_models_say(app):
    with pytest.raises((SystemExit, CommandError)):
        flask_migrate.check()
    flask_migrate.upgrade()
    flask_migrate.check()


def test_check_constraints_and_index_conditions_are_those_of_the_models(app):
    """What alembic's comparison leaves out: conditions, as the database itself spells them."""
    flask_migrate.upgrade()
    migrated = described(engine_of(app))
    Media.metadata.drop_all(engine_of(app))
    Media.metadata.create_all(engine_of(app))
    assert migrated == described(engine_of(app))
    assert len(migrated["checks"]) == 7
    assert len(migrated["indexes"]) >= 7


def described(engine):
    inspector = sa.inspect(engine)
    with engine.connect() as connection:
        if engine.dialect.name == "sqlite":
            query = "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL"
        else:
            query = "SELECT indexname, indexdef FROM pg_indexes WHERE tablename = 'media'"
        indexes = dict(connection.execute(sa.text(query)).all())
    checks = {c["name"]: c["sqltext"] for c in inspector.get_check_constraints("media")}
    return {"indexes": indexes, "checks": checks}


def test_migrations_can_be_taken_back_and_run_again(app):
    flask_migrate.upgrade()
    assert tables_of(app) == {"media"}
    flask_migrate.downgrade(revision="base")
    assert tables_of(app) == set()
    flask_migrate.upgrade()
    flask_migrate.upgrade()
    assert tables_of(app) == {"media"}


def test_an_index_that_an_interrupted_migration_left_is_made_anew(app):
    flask_migrate.upgrade(revision="0001")
    with engine_of(app).begin() as connection:
        connection.execute(sa.text("CREATE INDEX idx_media_failed ON media (id)"))
    flask_migrate.upgrade()
    migrated = described(engine_of(app))["indexes"]["idx_media_failed"]
    assert "due_at" in migrated


def test_the_code_of_an_earlier_release_migrates_nothing(app, caplog):
    flask_migrate.upgrade()
    with engine_of(app).begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = 'a later one'"))
    with pytest.raises(SystemExit):
        flask_migrate.upgrade()
    assert "Can't locate revision" in caplog.text
    assert tables_of(app) == {"media"}


def test_there_is_one_line_of_migrations():
    script = ScriptDirectory(PROJECT / "migrations")
    assert len(script.get_heads()) == 1
    assert len(script.get_bases()) == 1


@on_postgresql
def test_the_table_has_the_specified_columns_and_indexes(app):
    flask_migrate.upgrade()
    inspector = sa.inspect(engine_of(app))
    columns = {c["name"]: (str(c["type"]), c["nullable"]) for c in inspector.get_columns("media")}
    assert {name: columns[name] for name in SPECIFIED_COLUMNS} == SPECIFIED_COLUMNS
    assert inspector.get_pk_constraint("media")["constrained_columns"] == ["id"]
    created_at = next(c for c in inspector.get_columns("media") if c["name"] == "created_at")
    assert created_at["type"].timezone
    assert created_at["default"] == "now()"
    indexes = {i["name"]: i for i in inspector.get_indexes("media")}
    assert indexes["idx_media_owner"]["column_names"] == ["owner_type", "owner_id"]
    assert indexes["idx_media_status"]["column_names"] == ["status"]
    where = indexes["idx_media_status"]["dialect_options"]["postgresql_where"]
    assert where == "(status = 'pending'::text)"


@on_postgresql
def test_releases_that_start_together_migrate_once(app, environ, empty_database_url):
    """Each waits for the lock, which is the test's at first."""
    with engine_of(app).connect() as connection:
        connection.execute(sa.select(sa.func.pg_advisory_lock(MIGRATION_LOCK)))
        releases = [
            subprocess.Popen(
                [sys.executable, *FLASK, "db", "upgrade"],
                cwd=PROJECT,
                env={**os.environ, **environ, "DATABASE_URL": empty_database_url},
                stderr=subprocess.PIPE,
                text=True,
            )
            for _ in range(2)
        ]
        wait_until(
            lambda: connection.scalar(sa.text(ASKING_AGAIN)) == len(releases),
            seconds=60,
            what="both to ask for the lock again and again",
        )
        assert sa.inspect(connection).get_table_names() == []
        connection.invalidate()  # the lock goes with the session
    said = [release.communicate()[1] for release in releases]
    assert [release.returncode for release in releases] == [0, 0], said
    with engine_of(app).connect() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(Media)) == 0
