"""Reading media, and the one way to change their status.

Knows tables and transitions, nothing of stores, brokers or limits.
"""

from collections.abc import Container, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import structlog
from sqlalchemy import (
    ColumnElement,
    Engine,
    Executable,
    Integer,
    Row,
    Select,
    TextClause,
    bindparam,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.sql.dml import Insert, Update

from mediaservice import metrics
from mediaservice.database import is_postgresql, now_plus
from mediaservice.errors import MEDIA_NOT_FOUND, NOT_OWNER, PROCESSING_FAILED, MediaError
from mediaservice.keys import raw_key
from mediaservice.lifecycle.statements import (
    LibpqConnections,
    PipelinedTransaction,
    PreparedStatement,
)
from mediaservice.models import Media
from mediaservice.states import NOBODY, TRANSITIONS, Event, OwnerType, Status

log = structlog.get_logger(__name__)

MediaRow = Row[Any]
"""A row of `media`; its attributes are what the statement returns, mostly `COLUMNS`."""

COLUMNS = (
    *Media.c,
    (Media.c.upload_expires_at < now_plus(0)).label("upload_expired"),
)
NOT_DELETED = Media.c.deleted_at.is_(None)
IS_DUE = Media.c.due_at <= now_plus(0)
_SCAN_BATCH = 1000


class Rows:
    """The `media` table of one database."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.is_postgresql = is_postgresql(engine)
        self._connections = LibpqConnections(engine)
        self._find = self.prepare(select(*COLUMNS).where(Media.c.id == bindparam("media_id")))
        self._pages: dict[frozenset[str], PreparedStatement] = {}
        isolation = "READ COMMITTED" if self.is_postgresql else "SERIALIZABLE"
        self.transactional_engine = engine.execution_options(isolation_level=isolation)

    def begin(self) -> Any:
        """Return a context manager: a connection in a transaction of several statements."""
        return self.transactional_engine.begin()

    def prepare(self, statement: Executable) -> PreparedStatement:
        """Return a statement that is run often."""
        return PreparedStatement(self._connections, statement)

    def send(
        self, calls: Sequence[tuple[PreparedStatement, Mapping[str, Any]]]
    ) -> PipelinedTransaction:
        """Begin to run statements, each with its parameters, as one transaction."""
        return PipelinedTransaction(self.transactional_engine, calls)

    def execute(self, statement: Executable) -> Sequence[MediaRow]:
        """Run one statement as one transaction and return its rows."""
        with self.engine.connect() as connection:
            result = connection.execute(statement)
            return result.all() if result.returns_rows else []

    def find(self, media_id: UUID) -> MediaRow | None:
        """Return a media, a tombstone too, or None."""
        rows = self._find.run(media_id=media_id)
        return rows[0] if rows else None

    def scan(self, after: UUID | None = None) -> Iterator[MediaRow]:
        """Yield media, tombstones too, in the order of ids behind `after`, a batch in memory."""
        after = after or UUID(int=0)
        while True:
            rows = self.execute(
                select(*COLUMNS).where(Media.c.id > after).order_by(Media.c.id).limit(_SCAN_BATCH)
            )
            yield from rows
            if len(rows) < _SCAN_BATCH:
                return
            after = rows[-1].id

    def now(self) -> datetime:
        """Return the database's time."""
        found: datetime = self.execute(select(now_plus(0).label("now")))[0].now
        return found

    def existing(self, media_id: UUID) -> MediaRow:
        """Return a media that is not deleted. Raises MEDIA_NOT_FOUND."""
        row = self.find(media_id)
        if row is None or row.deleted_at is not None:
            raise MediaError(MEDIA_NOT_FOUND)
        return row

    def owned(self, media_id: UUID, caller: UUID) -> MediaRow:
        """Return a media of the caller's. Raises MEDIA_NOT_FOUND or NOT_OWNER."""
        row = self.existing(media_id)
        if row.owner_id != caller:
            raise MediaError(NOT_OWNER)
        return row

    def visible(self, media_id: UUID, caller: UUID) -> MediaRow:
        """Return a media the caller may see: their own, and anybody's that is ready.

        A ready media is public at its CDN URL already; all else is MEDIA_NOT_FOUND to strangers.
        """
        row = self.existing(media_id)
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
        given = {"owner_type": owner_type, "status": status, "before": before}
        filters = {name: value for name, value in given.items() if value is not None}
        names = frozenset(filters)
        if names not in self._pages:
            self._pages[names] = self.prepare(_page_statement(names))
        return self._pages[names].run(owner_id=owner_id, page_size=limit, **filters)

    def insert(self) -> postgresql.Insert | sqlite.Insert:
        """Return the database's own INSERT, which can say what to do about a conflict."""
        return postgresql.insert(Media) if self.is_postgresql else sqlite.insert(Media)

    def transition(self, event: Event, media_id: UUID, **values: Any) -> MediaRow | None:
        """Apply an event to one media; return its new row, or None where it does not apply."""
        statement = update_for(event).where(Media.c.id == media_id).values(**values)
        return changed_row(event, self.execute(statement.returning(*COLUMNS)))

    def tombstone_statement(self, media_id: UUID) -> Insert:
        """Return the statement that makes a deleted or unknown media's objects due for purging.

        Without a row, insert a tombstone of nobody's, so that the purge is retried like any other.
        A media that lives is left alone.
        """
        now = now_plus(0)
        return (
            self.insert()
            .values(
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
            )
            .on_conflict_do_update(
                index_elements=["id"],
                set_={"due_at": now},
                where=Media.c.deleted_at.is_not(None),
            )
        )


def _page_statement(filters: Container[str]) -> Select[Any]:
    """Return the statement of `Rows.page` with these of its optional filters."""
    conditions = {
        "owner_type": Media.c.owner_type == bindparam("owner_type"),
        "status": Media.c.status == bindparam("status"),
        "before": Media.c.id < bindparam("before"),
    }
    return (
        select(*COLUMNS)
        .where(Media.c.owner_id == bindparam("owner_id"), NOT_DELETED)
        .where(*(condition for name, condition in conditions.items() if name in filters))
        .order_by(Media.c.id.desc())
        .limit(bindparam("page_size", type_=Integer()))
    )


def named_keys(row: MediaRow) -> list[str]:
    """Return the keys of the public bucket that a ready media names, each once."""
    return list(dict.fromkeys([row.public_key, *(v["key"] for v in row.variants or [])]))


def days_from_now(days: int) -> now_plus:
    """Return the time so many days from now, by the database's clock."""
    return now_plus(timedelta(days=days).total_seconds())


def update_for(event: Event) -> Update:
    """Return the conditional UPDATE of an event; the caller narrows it and adds values."""
    rule = TRANSITIONS[event]
    statement = update(Media).where(NOT_DELETED, Media.c.status.in_(rule.sources))
    if rule.pinned_only:
        statement = statement.where(Media.c.raw_etag.is_not(None))
    if rule.target is not None:
        statement = statement.values(status=rule.target)
    return statement.values(updated_at=now_plus(0))


def fresh_attempts(max_attempts: int) -> dict[str, Any]:
    """Return the values that make a media's job due now, with a new set of attempts."""
    return {
        "attempts_left": max_attempts,
        "due_at": now_plus(0),
        "processing_requested_at": now_plus(0),
    }


def due_media(
    *conditions: ColumnElement[bool] | TextClause, limit: int | ColumnElement[int]
) -> Select[tuple[UUID]]:
    """Return the ids of up to `limit` media that are due, longest first, for an UPDATE to take.

    Each is locked, and those that somebody else has locked are passed over. It is a CTE because
    PostgreSQL runs it once: a plain subquery may run, and lock `limit` more, for every row joined.
    """
    due = (
        select(Media.c.id)
        .where(*conditions, IS_DUE)
        .order_by(Media.c.due_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
        .cte("due")
    )
    return select(due.c.id)


def changed_row(event: Event, rows: Sequence[MediaRow]) -> MediaRow | None:
    """Return the one row that an event has changed, once logged; None where it did not apply."""
    if not rows:
        return None
    log_transition(event, rows[0].id)
    return rows[0]


def log_transition(event: Event, media_id: UUID, **facts: Any) -> None:
    """Log and count one change of status: audits and tests follow these lines."""
    metrics.TRANSITIONS.labels(event.value).inc()
    _leave_trace(event, media_id, **facts)


def log_transitions(event: Event, rows: Sequence[MediaRow], **facts: Any) -> None:
    """Log many, each with its request id; counted at once."""
    metrics.TRANSITIONS.labels(event.value).inc(len(rows))
    for row in rows:
        _leave_trace(event, row.id, request_id=row.request_id, **facts)


def _leave_trace(event: Event, media_id: UUID, **facts: Any) -> None:
    log.info("media_transition", transition=event.value, media_id=str(media_id), **facts)
