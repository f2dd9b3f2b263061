"""The `media` table and the few SQL expressions that PostgreSQL and SQLite spell differently.

No queries and no behaviour: `lifecycle` is the only module that reads or writes rows.
"""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import msgspec
from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    ColumnElement,
    DateTime,
    Dialect,
    Double,
    Engine,
    FromClause,
    Index,
    Integer,
    Text,
    TypeDecorator,
    Uuid,
    bindparam,
    cast,
    column,
    create_engine,
    event,
    func,
    select,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.sql.type_api import TypeEngine

from mediaservice.states import OwnerType, Status


class UtcDateTime(TypeDecorator[datetime]):
    """TIMESTAMPTZ; on SQLite, which has no zones, text in UTC. Always aware in Python."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Refuse naive times: they would mean another instant on another machine."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("times are stored with their zone")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Return the time in UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class now_plus(FunctionElement[datetime]):  # noqa: N801 - reads as the SQL function it is
    """The database's clock, plus seconds: one clock for every process, however theirs differ."""

    type = UtcDateTime()
    inherit_cache = True

    def __init__(self, seconds: float | ColumnElement[float]) -> None:
        if not isinstance(seconds, ColumnElement):
            seconds = bindparam(None, float(seconds), type_=Double())
        super().__init__(seconds)


@compiles(now_plus, "postgresql")
def _now_plus_postgresql(element: Any, compiler: Any, **kwargs: Any) -> str:
    return f"(now() + make_interval(secs => {compiler.process(element.clauses, **kwargs)}))"


@compiles(now_plus, "sqlite")
def _now_plus_sqlite(element: Any, compiler: Any, **kwargs: Any) -> str:
    # SQLite has milliseconds; the zeros make it the text SQLAlchemy stores, so that it compares.
    seconds = compiler.process(element.clauses, **kwargs)
    return f"(strftime('%Y-%m-%d %H:%M:%f', 'now', {seconds} || ' seconds') || '000')"


def _where(condition: str) -> dict[str, Any]:
    return {"postgresql_where": text(condition), "sqlite_where": text(condition)}


# The predicates of the partial indexes, as constants: a query that uses the same text can always be
# answered from the index, where a bind parameter would hide that from a generic plan.
IS_PENDING = "status = 'pending' AND deleted_at IS NULL"
# The same rows, spelled so that idx_media_status cannot answer for them: if no upload was pending
# when statistics were taken it looks cheapest, and everybody's would be read to count one owner's.
IS_UNFINISHED = "status NOT IN ('processing', 'ready', 'failed') AND deleted_at IS NULL"
AWAITS_WORKER = "status = 'processing' AND deleted_at IS NULL"
AWAITS_HOUSEKEEPING = "(status <> 'processing' OR deleted_at IS NOT NULL)"

Json = JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")


def recordset(dialect: Dialect, **columns: TypeEngine[Any]) -> FromClause:
    """Return a table of typed columns read from the bind parameter `records`, a JSON array.

    One statement with one parameter serves a batch of any length, so it is compiled, and prepared
    by the server, once. UUIDs are given as 32 hex digits, which both databases understand.
    """
    records = bindparam("records", type_=Text())
    if dialect.name == "postgresql":
        given = (
            func.jsonb_to_recordset(cast(records, JSONB))
            .table_valued(*(column(name, type_) for name, type_ in columns.items()))
            .render_derived(name="given", with_types=True)
        )
        # The planner takes a function's rows for a hundred, and reads a small table as a whole for
        # so many. Of those below a limit that it is not told it expects a tenth.
        return select(given).limit(bindparam("at_most", 10**6)).subquery("records")
    each = func.json_each(records).table_valued("value")
    return select(
        *(
            func.json_extract(each.c.value, f"$.{name}", type_=type_).label(name)
            for name, type_ in columns.items()
        )
    ).subquery("records")


class Base(DeclarativeBase):
    """What the migrations compare the database with."""


def _one_of(name: str, values: type[Status] | type[OwnerType]) -> str:
    return f"{name} IN ({', '.join(repr(str(value)) for value in values)})"


class Media(Base):
    """One image: who uploaded it, where its bytes are, where it stands, when it is next due."""

    __tablename__ = "media"

    id: Mapped[UUID] = mapped_column(Uuid, primary_key=True)
    owner_id: Mapped[UUID] = mapped_column(Uuid)
    owner_type: Mapped[str] = mapped_column(Text)
    status: Mapped[str] = mapped_column(Text)
    raw_key: Mapped[str] = mapped_column(Text)
    public_key: Mapped[str | None] = mapped_column(Text)
    content_type: Mapped[str | None] = mapped_column(Text)  # declared; once pinned, of the bytes
    size_bytes: Mapped[int | None] = mapped_column(BigInteger)  # of the original
    width: Mapped[int | None] = mapped_column(Integer)  # of the object at public_key
    height: Mapped[int | None] = mapped_column(Integer)
    created_at: Mapped[datetime | None] = mapped_column(UtcDateTime, server_default=func.now())
    processed_at: Mapped[datetime | None] = mapped_column(UtcDateTime)

    updated_at: Mapped[datetime] = mapped_column(UtcDateTime)
    upload_expires_at: Mapped[datetime] = mapped_column(UtcDateTime)
    due_at: Mapped[datetime | None] = mapped_column(UtcDateTime)  # when the loop must act
    deleted_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    attempt: Mapped[int] = mapped_column(Integer)  # the one last published; fences late failures
    attempts_left: Mapped[int] = mapped_column(Integer)
    raw_etag: Mapped[str | None] = mapped_column(Text)  # set once the original is pinned
    checksum_sha256: Mapped[str | None] = mapped_column(Text)  # base64, as S3 has it
    error_code: Mapped[str | None] = mapped_column(Text)
    variants: Mapped[list[dict[str, Any]] | None] = mapped_column(Json)
    placeholder: Mapped[str | None] = mapped_column(Text)
    idempotency_key: Mapped[str | None] = mapped_column(Text)
    request_id: Mapped[str | None] = mapped_column(Text)  # the job's correlation_id
    processing_requested_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    traceparent: Mapped[str | None] = mapped_column(Text)  # W3C's; NULL while nothing is traced

    __table_args__ = (
        CheckConstraint(_one_of("status", Status), name="ck_media_status"),
        CheckConstraint(_one_of("owner_type", OwnerType), name="ck_media_owner_type"),
        CheckConstraint(
            "status NOT IN ('processing', 'ready') OR raw_etag IS NOT NULL",
            name="ck_media_pinned",
        ),
        CheckConstraint("status <> 'ready' OR public_key IS NOT NULL", name="ck_media_ready"),
        CheckConstraint("status <> 'failed' OR error_code IS NOT NULL", name="ck_media_failed"),
        CheckConstraint("deleted_at IS NULL OR due_at IS NOT NULL", name="ck_media_deleted"),
        CheckConstraint("attempt >= 0 AND attempts_left >= 0", name="ck_media_attempts"),
        Index("idx_media_owner", "owner_type", "owner_id"),
        Index("idx_media_status", "status", **_where("status = 'pending'")),
        Index("idx_media_listing", "owner_id", "id"),
        Index(
            "idx_media_pending",
            "owner_id",
            **_where(IS_UNFINISHED),
        ),
        Index(
            "idx_media_idempotency_key",
            "owner_id",
            "idempotency_key",
            unique=True,
            **_where("idempotency_key IS NOT NULL"),
        ),
        # Two halves of "what is due", so that a mass deletion cannot stand in front of new jobs.
        Index(
            "idx_media_due_dispatch",
            "due_at",
            **_where(f"due_at IS NOT NULL AND {AWAITS_WORKER}"),
        ),
        Index(
            "idx_media_due",
            "due_at",
            **_where(f"due_at IS NOT NULL AND {AWAITS_HOUSEKEEPING}"),
        ),
    )


def create_database_engine(database_url: str) -> Engine:
    """Return the engine of one process; connections open lazily, so it may be made before a fork.

    Every statement commits by itself; `Rows.begin` is for transactions of several.
    """
    if database_url.startswith("postgresql"):
        return create_engine(
            database_url,
            isolation_level="AUTOCOMMIT",
            # There is nothing to roll back: whoever begins a transaction also ends it.
            pool_reset_on_return=None,
            json_deserializer=msgspec.json.decode,  # a page of a list has variants by the hundred
            pool_size=2,
            max_overflow=2,
            connect_args={
                "connect_timeout": 5,
                # A server that has vanished is noticed, instead of waited for.
                "keepalives_idle": 10,
                "keepalives_interval": 5,
                "keepalives_count": 3,
                "tcp_user_timeout": 15_000,
                "options": "-c timezone=UTC -c statement_timeout=15000",
            },
        )
    engine = create_engine(database_url, isolation_level="AUTOCOMMIT", connect_args={"timeout": 15})
    event.listen(engine, "connect", _prepare_sqlite)
    return engine


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    # WAL lets web read while the listener writes.
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
