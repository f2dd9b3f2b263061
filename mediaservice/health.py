"""Health, for those who run the service: whether the process is up, and whether it can serve."""

from typing import Any

from flask import Blueprint
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from mediaservice.storage import StoreUnavailable
from mediaservice.web import components

blueprint = Blueprint("health", __name__)


@blueprint.get("/healthz")
def healthz() -> dict[str, str]:
    """Answer, if the process can."""
    return {"status": "ok"}


@blueprint.get("/readyz")
def readyz() -> tuple[dict[str, Any], int]:
    """Say whether database and store answer; not the broker, which web does not need."""
    checks = {"database": _database(), "store": _store()}
    ready = all(check == "ok" for check in checks.values())
    return {"status": "ok" if ready else "unavailable", "checks": checks}, 200 if ready else 503


def _database() -> str:
    try:
        components().lifecycle.rows.execute(text("SELECT 1"))
    except DBAPIError:
        return "unavailable"
    return "ok"


def _store() -> str:
    try:
        components().storage.ping()
    except StoreUnavailable:
        return "unavailable"
    return "ok"
