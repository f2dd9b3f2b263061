"""Reading media, and the one way to change their status.

Knows tables and transitions, nothing of stores, brokers or limits.
"""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any, cast
from uuid import UUID

import structlog
from psycopg.rows import namedtuple_row
from sqlalchemy import (
    ColumnElement,
    Engine,
    Executable,
    Row,
    Select,
    TextClause,
    bindparam,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.dml import Insert, Update

from mediaservice import metrics
from mediaservice.errors import MEDIA_NOT_FOUND, NOT_OWNER, PROCESSING_FAILED, MediaError
from mediaservice.models import Media, now_plus
from mediaservice.states import TRANSITIONS, Event, OwnerType, Status

log = structlog.get_logger(__name__)

MediaRow = Row[Any]
"""A row of `media`; its attributes are the columns and `upload_expired`."""

COLUMNS = (
    *Media.__table__.c,
    (Media.upload_expires_at < now_plus(0)).label("upload_expired"),
)
NOT_DELETED = Media.deleted_at.is_(None)
IS_DUE = Media.due_at <= now_plus(0)
NOBODY = UUID(int=0)
"""The owner of tombstones for objects that have no row."""
_SCAN_BATCH = 1000
_LOCK = "SELECT pg_advisory_xact_lock(%s)"
_FIND = select(*COLUMNS).where(Media.id == bindparam("media_id"))


class Rows:
    """The `media` table of one database."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._compiled: dict[Executable, SQLCompiler] = {}
        isolation = "READ COMMITTED" if self.is_postgresql else "SERIALIZABLE"
        self.transactions = engine.execution_options(isolation_level=isolation)

    @property
    def is_postgresql(self) -> bool:
        """Whether this is PostgreSQL, or else SQLite."""
        return self.engine.dialect.name == "postgresql"

    def begin(self) -> Any:
        """Return a context manager: a connection in a transaction of several statements."""
        return self.transactions.begin()

    def execute_alone(
        self, lock: int, statement: Executable, parameters: dict[str, Any]
    ) -> MediaRow | None:
        """Run a statement in a transaction that overlaps no other with the same lock.

        Returns its first row. `lock` is a signed 64-bit number. On SQLite no two writers overlap.
        """
        if not self.is_postgresql:
            rows = self.execute(statement, parameters)
            return rows[0] if rows else None
        if statement not in self._compiled:
            self._compiled[statement] = cast(Any, statement).compile(self.engine)
        compiled = self._compiled[statement]
        with self.engine.connect() as connection:
            # Past SQLAlchemy, whose own bookkeeping would be half the cost of the busiest call.
            driver: Any = connection.connection.driver_connection
            with driver.transaction(), driver.cursor(row_factory=namedtuple_row) as cursor:
                cursor.execute(_LOCK, (lock,), prepare=True)
                cursor.execute(compiled.string, compiled.construct_params(parameters), prepare=True)
                return cast("MediaRow | None", cursor.fetchone())

    def execute(
        self, statement: Executable, parameters: dict[str, Any] | None = None
    ) -> Sequence[MediaRow]:
        """Run one statement as one transaction and return its rows."""
        with self.engine.connect() as connection:
            result = connection.execute(statement, parameters)
            return result.all() if result.returns_rows else []

    def find(self, media_id: UUID) -> MediaRow | None:
        """Return a media, a tombstone too, or None."""
        rows = self.execute(_FIND, {"media_id": media_id})
        return rows[0] if rows else None

    def scan(self) -> Iterator[MediaRow]:
        """Yield every media, tombstones too, in the order of their ids, a batch in memory."""
        after = UUID(int=0)
        while True:
            rows = self.execute(
                select(*COLUMNS).where(Media.id > after).order_by(Media.id).limit(_SCAN_BATCH)
            )
            yield from rows
            if len(rows) < _SCAN_BATCH:
                return
            after = rows[-1].id

    def now(self) -> datetime:
        """Return the database's time."""
        found: datetime = self.execute(select(now_plus(0).label("now")))[0].now
        return found

    def owned(self, media_id: UUID, caller: UUID) -> MediaRow:
        """Return a media of the caller's. Raises MEDIA_NOT_FOUND or NOT_OWNER."""
        row = self.find(media_id)
        if row is None or row.deleted_at is not None:
            raise MediaError(MEDIA_NOT_FOUND)
        if row.owner_id != caller:
            raise MediaError(NOT_OWNER)
        return row

    def visible(self, media_id: UUID, caller: UUID) -> MediaRow:
        """Return a media the caller may see: their own, and anybody's that is ready.

        A ready media is public at its CDN URL already; all else is MEDIA_NOT_FOUND to strangers.
        """
        row = self.find(media_id)
        if row is None or row.deleted_at is not None:
            raise MediaError(MEDIA_NOT_FOUND)
        if row.owner_id != caller and row.status != Status.READY:
            raise MediaError(MEDIA_NOT_FOUND)
        return row

    def page(
        self,
        *,
        owner_id: UUID,
        owner_type: str | None,
        status: str | None,
        before: UUID | None,
        limit: int,
    ) -> Sequence[MediaRow]:
        """Return an owner's media, newest first, that are older than `before`."""
        conditions: list[ColumnElement[bool]] = [Media.owner_id == owner_id, NOT_DELETED]
        if owner_type is not None:
            conditions.append(Media.owner_type == owner_type)
        if status is not None:
            conditions.append(Media.status == status)
        if before is not None:
            conditions.append(Media.id < before)
        return self.execute(
            select(*COLUMNS).where(*conditions).order_by(Media.id.desc()).limit(limit)
        )

    def transition(self, event: Event, media_id: UUID, **values: Any) -> MediaRow | None:
        """Apply an event to one media; return its new row, or None where it does not apply."""
        statement = transition(event).where(Media.id == media_id).values(**values)
        rows = self.execute(statement.returning(*COLUMNS))
        if not rows:
            return None
        log_transition(event, media_id)
        return rows[0]

    def tombstone(self, media_id: UUID) -> Insert:
        """Return the statement that makes a deleted or unknown media's objects due for purging.

        Where no row is left it is made anew, as a tombstone of nobody's: so the purge is retried
        like any other, whatever happens to this process. A media that lives is left alone.
        """
        insert = (postgresql if self.is_postgresql else sqlite).insert(Media)
        now = now_plus(0)
        statement: Insert = insert.values(
            id=media_id,
            owner_id=NOBODY,
            owner_type=OwnerType.USER,
            status=Status.FAILED,
            error_code=PROCESSING_FAILED,
            raw_key=raw_key(media_id),
            created_at=now,
            updated_at=now,
            upload_expires_at=now,
            due_at=now,
            deleted_at=now,
            attempt=0,
            attempts_left=0,
        ).on_conflict_do_update(
            index_elements=["id"],
            set_={"due_at": now},
            where=Media.deleted_at.is_not(None),
        )
        return statement


def raw_key(media_id: UUID) -> str:
    """Return where a media's original goes. Ids are random, so no key is ever used twice."""
    return f"uploads/{media_id}"


def transition(event: Event) -> Update:
    """Return the conditional UPDATE of an event; the caller narrows it and adds values."""
    rule = TRANSITIONS[event]
    statement = update(Media).where(NOT_DELETED, Media.status.in_(rule.sources))
    if rule.pinned_only:
        statement = statement.where(Media.raw_etag.is_not(None))
    if rule.target is not None:
        statement = statement.values(status=rule.target)
    return statement.values(updated_at=now_plus(0))


def due_media(*conditions: ColumnElement[bool] | TextClause, limit: int) -> Select[tuple[UUID]]:
    """Return the ids of up to `limit` media that are due, longest first, for an UPDATE to take.

    Each is locked, and those that somebody else has locked are passed over. It is a CTE because
    PostgreSQL runs it once: a plain subquery may run, and lock `limit` more, for every row joined.
    """
    due = (
        select(Media.id)
        .where(*conditions, IS_DUE)
        .order_by(Media.due_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
        .cte("due")
    )
    return select(due.c.id)


def log_transition(event: Event, media_id: UUID, **facts: Any) -> None:
    """Leave the trace that audits and tests follow: one line for each change of status."""
    metrics.TRANSITIONS.labels(event.value).inc()
    log.info("media_transition", transition=event.value, media_id=str(media_id), **facts)
