"""The `media` table, its indexes and the conditions they are about.

No queries and no behaviour: `lifecycle` is the only module that reads or writes rows.
"""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, Index, Integer, Text, Uuid, func, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from mediaservice.database import Json, UtcDateTime
from mediaservice.states import OwnerType, Status


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
