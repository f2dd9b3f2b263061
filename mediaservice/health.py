"""For those who run the service: whether web is up, whether it can serve, what it has counted."""

from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

import structlog
from flask import Blueprint, Response, request
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from mediaservice.auth import may_read_metrics
from mediaservice.errors import UNAUTHENTICATED, MediaError
from mediaservice.storage import StoreUnavailable
from mediaservice.web import Components, components

READY_SECONDS = 3.0

log = structlog.get_logger(__name__)

blueprint = Blueprint("health", __name__)
# A thread for each, whatever hangs: a check that does not get it in time counts as failed.
_database_check = ThreadPoolExecutor(max_workers=1, thread_name_prefix="readyz-database")
_store_check = ThreadPoolExecutor(max_workers=1, thread_name_prefix="readyz-store")


@blueprint.get("/healthz")
def healthz() -> dict[str, str]:
    """Answer, if the process can."""
    return {"status": "ok"}


@blueprint.get("/readyz")
def readyz() -> tuple[dict[str, Any], int]:
    """Say within READY_SECONDS whether database and store answer; web does not need the broker."""
    parts = components()
    checks = {
        "database": _database_check.submit(_check_database, parts),
        "store": _store_check.submit(_check_store, parts),
    }
    wait(checks.values(), timeout=READY_SECONDS)
    found = {name: _outcome(check) for name, check in checks.items()}
    ready = all(outcome == "ok" for outcome in found.values())
    return {"status": "ok" if ready else "unavailable", "checks": found}, 200 if ready else 503


@blueprint.get("/metrics")
def metrics() -> Response:
    """Show what all workers of this server have counted, to those who may see it."""
    if not may_read_metrics(request, components().settings):
        raise MediaError(UNAUTHENTICATED)
    registry = CollectorRegistry()
    try:
        MultiProcessCollector(registry)
    except ValueError:  # this is the only process
        registry = REGISTRY
    return Response(generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})


def _check_database(parts: Components) -> str:
    try:
        parts.lifecycle.rows.execute(text("SELECT 1"))
    except SQLAlchemyError as error:
        log.warning("not_ready", check="database", reason=str(getattr(error, "orig", error)))
        return "unavailable"
    return "ok"


def _check_store(parts: Components) -> str:
    try:
        parts.storage.ping()
    except StoreUnavailable as error:
        log.warning("not_ready", check="store", reason=str(error))
        return "unavailable"
    return "ok"


def _outcome(check: Future[str]) -> str:
    if check.done():
        return check.result()
    check.cancel()  # unless it is running
    return "no answer in time"
