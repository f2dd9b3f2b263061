"""The service as an attacker meets it: tokens, PostgreSQL and a store that checks signatures."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from devstack.seaweedfs import SeaweedFS
from mediaservice import create_app
from tests.builders import settings
from tests.security.service import Service
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
def service(make_service: Callable[..., Service]) -> Service:
    return make_service()
