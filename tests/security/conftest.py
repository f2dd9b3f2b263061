"""The service as an attacker meets it: tokens, PostgreSQL and a store that checks signatures."""

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from devstack.process import find_free_ports
from devstack.seaweedfs import SeaweedFS
from mediaservice import create_app
from mediaservice.models import Media
from tests.builders import production, settings
from tests.security.service import Service, Web
from tests.security.tokens import SECRET
from tests.service import measured


@pytest.fixture(scope="module")
def module_environ(
    seaweedfs: SeaweedFS, module_buckets: dict[str, str], make_database: Callable[..., Any]
) -> Iterator[dict[str, str]]:
    """The variables of a service on a database and with buckets of the module's own."""
    with make_database() as database_url:
        yield {
            "AUTH_MODE": "jwt",
            "JWT_SECRET": SECRET,
            "DATABASE_URL": database_url,
            **seaweedfs.variables,
            **module_buckets,
        }


@pytest.fixture(scope="module")
def module_service(module_environ: dict[str, str], store_client: Any) -> Iterator[Service]:
    found = Service(create_app(settings(**module_environ)).test_client(), store_client)
    found.storage.create_buckets(("https://app.example.com",))
    yield found
    found.lifecycle.rows.engine.dispose()


@pytest.fixture
def service(module_service: Service) -> Iterator[Service]:
    """The module's service, without media of other tests."""
    yield module_service
    with module_service.lifecycle.rows.engine.begin() as connection:
        connection.execute(sa.delete(Media))


@pytest.fixture
def make_service(
    service: Service, module_environ: dict[str, str]
) -> Iterator[Callable[..., Service]]:
    """Make services with other settings, on the same database and buckets as `service`."""
    made = []

    def make(**variables: Any) -> Service:
        app = create_app(settings(**module_environ | variables))
        made.append(Service(app.test_client(), service.s3))
        return made[-1]

    yield make
    for other in made:
        other.lifecycle.rows.engine.dispose()


@pytest.fixture(scope="module")
def web(
    seaweedfs: SeaweedFS,
    make_database: Callable[..., Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Web]:
    """Gunicorn in production's configuration, logging all it can, on a database of its own."""
    port = find_free_ports()
    environ = production(
        LOG_LEVEL="DEBUG",
        HOST="127.0.0.1",
        PORT=str(port),
        WEB_CONCURRENCY="1",
        MAX_PENDING_UPLOADS="100000",
        MAX_PENDING_BYTES=str(2**50),
    ) | {
        "PATH": os.environ["PATH"],
        **measured(),
        "JWT_SECRET": SECRET,
        **seaweedfs.variables,
    }
    directory = tmp_path_factory.mktemp("web")
    with (
        make_database() as database_url,
        Web({**environ, "DATABASE_URL": database_url}, port, directory) as process,
    ):
        yield process
