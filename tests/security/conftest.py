"""The service as an attacker meets it: tokens, PostgreSQL and a store that checks signatures."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from devstack.process import find_free_ports
from devstack.seaweedfs import SeaweedFS
from mediaservice import create_app
from tests.builders import production, settings
from tests.security.service import Service, Web
from tests.security.tokens import SECRET


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


@pytest.fixture
def web(seaweedfs: SeaweedFS, postgresql_url: str, tmp_path: Path) -> Iterator[Web]:
    """Gunicorn with the production configuration, logging all it can."""
    port = find_free_ports()
    environ = production(
        LOG_LEVEL="DEBUG",
        HOST="127.0.0.1",
        PORT=str(port),
        MAX_PENDING_UPLOADS="100000",
        MAX_PENDING_BYTES=str(2**50),
    ) | {
        "PATH": os.environ["PATH"],
        "JWT_SECRET": SECRET,
        "DATABASE_URL": postgresql_url,
        "S3_ENDPOINT": seaweedfs.endpoint,
        "S3_ACCESS_KEY_ID": seaweedfs.access_key,
        "S3_SECRET_ACCESS_KEY": seaweedfs.secret_key,
    }
    with Web(environ, port, tmp_path / "web.log") as process:
        yield process


@pytest.fixture
def service(make_service: Callable[..., Service]) -> Service:
    return make_service()
