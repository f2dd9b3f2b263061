"""The service as an attacker meets it: tokens, PostgreSQL and a store that checks signatures."""

import os
from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import pytest

from devstack.postgresql import PostgreSQL
from devstack.process import find_free_ports
from devstack.seaweedfs import SeaweedFS
from mediaservice import create_app
from tests.builders import production, settings
from tests.security.service import Service, Web
from tests.security.tokens import SECRET
from tests.service import measured


@pytest.fixture
def make_service(seaweedfs: SeaweedFS, postgresql_url: str) -> Iterator[Callable[..., Service]]:
    made = []

    def make(**variables: Any) -> Service:
        app = create_app(
            settings(
                **{
                    "AUTH_MODE": "jwt",
                    "JWT_SECRET": SECRET,
                    "DATABASE_URL": postgresql_url,
                    "S3_ENDPOINT": seaweedfs.endpoint,
                    "S3_ACCESS_KEY_ID": seaweedfs.access_key,
                    "S3_SECRET_ACCESS_KEY": seaweedfs.secret_key,
                    **variables,
                }
            )
        )
        app.extensions["media"].storage.create_buckets(("https://app.example.com",))
        made.append(Service(app.test_client(), seaweedfs))
        return made[-1]

    yield make
    for service in made:
        service.lifecycle.rows.engine.dispose()


@pytest.fixture(scope="module")
def web(
    seaweedfs: SeaweedFS, postgresql: PostgreSQL, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Web]:
    """Gunicorn in production's configuration, logging all it can, on a database of its own."""
    database = f"web_{uuid4().hex}"
    with postgresql.connect() as connection:
        connection.execute(f"CREATE DATABASE {database} TEMPLATE media_template")
    port = find_free_ports()
    environ = production(
        LOG_LEVEL="DEBUG",
        HOST="127.0.0.1",
        PORT=str(port),
        MAX_PENDING_UPLOADS="100000",
        MAX_PENDING_BYTES=str(2**50),
    ) | {
        "PATH": os.environ["PATH"],
        **measured(),
        "JWT_SECRET": SECRET,
        "DATABASE_URL": postgresql.url_of(database),
        "S3_ENDPOINT": seaweedfs.endpoint,
        "S3_ACCESS_KEY_ID": seaweedfs.access_key,
        "S3_SECRET_ACCESS_KEY": seaweedfs.secret_key,
    }
    with Web(environ, port, tmp_path_factory.mktemp("web") / "web.log") as process:
        yield process


@pytest.fixture
def service(make_service: Callable[..., Service]) -> Service:
    return make_service()
