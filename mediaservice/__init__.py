"""media-service: direct uploads to S3, processed by a worker, served by a CDN.

The one place where things are put together. Imports that only one kind of process needs are made
in its function, so that listener and worker do without Flask's memory.
"""

import threading
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from config.settings import Settings

if TYPE_CHECKING:
    from flask import Flask

    from mediaservice.broker import Broker
    from mediaservice.lifecycle import Lifecycle
    from mediaservice.listener import Listener
    from mediaservice.monitoring import Heartbeat
    from mediaservice.storage import Storage

PROJECT = Path(__file__).resolve().parent.parent


def create_app(settings: Settings, *, with_commands: bool = False) -> "Flask":
    """Return the WSGI application: the API, its documentation and health.

    `with_commands` gives it `flask media` and what `flask db` needs, which serving does not.
    """
    from mediaservice import api, health, openapi, pages
    from mediaservice.auth import create_authenticator, document_security
    from mediaservice.storage import Storage
    from mediaservice.tracing import trace_web
    from mediaservice.web import Components, MediaApi, MediaFlask, set_up_web

    app = MediaFlask(__name__)
    app.config.update(
        API_TITLE="media-service",
        API_VERSION="1",
        OPENAPI_VERSION="3.1.0",
        OPENAPI_URL_PREFIX="/api",
        OPENAPI_JSON_PATH="openapi.json",
        API_SPEC_OPTIONS={**openapi.SPEC_OPTIONS, **document_security(settings)},
        PROPAGATE_EXCEPTIONS=False,
    )
    storage = Storage(
        settings, presign_endpoint=settings.presign_endpoint, with_circuit_breaker=not with_commands
    )
    lifecycle = create_lifecycle(settings, storage)
    app.extensions["media"] = Components(
        settings,
        storage,
        lifecycle,
        create_authenticator(settings),
        partial(create_broker, settings, threading.Event()),
    )
    trace_web(app, lifecycle.rows.engine)
    set_up_web(app)
    rest = MediaApi(app)
    openapi.describe(rest.spec)
    rest.register_blueprint(api.blueprint)
    app.register_blueprint(health.blueprint)
    app.register_blueprint(pages.blueprint)
    if with_commands:
        _add_commands(app)
    return app


def _add_commands(app: "Flask") -> None:
    from flask_migrate import Migrate

    from mediaservice import commands, models

    app.cli.add_command(commands.media)
    # Flask-Migrate wants no more of its `db` than the metadata.
    db = SimpleNamespace(metadata=models.Media.metadata)
    Migrate(app, cast(Any, db), directory=str(PROJECT / "migrations"))


def create_lifecycle(settings: Settings, storage: "Storage") -> "Lifecycle":
    """Return the operations on media, over the configured database and a store."""
    from mediaservice.database import create_database_engine
    from mediaservice.lifecycle import Lifecycle

    return Lifecycle(create_database_engine(settings.database_url), storage, settings)


def create_listener(settings: Settings, heartbeat: "Heartbeat | None" = None) -> "Listener":
    """Return the listener, not yet connected to anything."""
    from mediaservice.listener import Listener
    from mediaservice.storage import Storage

    stopping = threading.Event()
    return Listener(
        create_lifecycle(settings, Storage(settings)),
        create_broker(settings, stopping),
        stopping,
        poll_seconds=settings.poll_seconds,
        one_by_one=not settings.has_broker,
        heartbeat=heartbeat,
    )


def create_broker(settings: Settings, stopping: threading.Event) -> "Broker":
    """Return the listener's side of RabbitMQ, or the worker itself where there is no broker."""
    from mediaservice.broker import RESULTS_QUEUE
    from mediaservice.broker.inline import InlineBroker
    from mediaservice.broker.rabbitmq import RabbitMQBroker
    from mediaservice.listener import PUBLISHERS, RESULT_PREFETCH

    if settings.has_broker:
        return RabbitMQBroker(
            settings.broker_url,
            queue=RESULTS_QUEUE,
            prefetch=RESULT_PREFETCH,
            publishers=PUBLISHERS,
            wait=stopping.wait,
        )
    from mediaservice.storage import Storage
    from mediaworker.sandbox import Sandbox
    from mediaworker.worker import Worker

    sandbox = Sandbox.from_settings(settings)
    worker = Worker(Storage(settings), sandbox.render)
    return InlineBroker(worker.process, stopping, close=sandbox.close)
