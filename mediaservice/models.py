"""The `media` table, its indexes and the conditions they are about.

No queries and no behaviour: `lifecycle` is the only module that reads or writes rows.
"""

from typing import Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    Uuid,
    func,
    text,
)

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

# Of these two there are few, however much else is due.
IS_LAST_ATTEMPT = f"{AWAITS_WORKER} AND attempts_left = 0"
HAS_FAILED = "status = 'failed' AND deleted_at IS NULL"


def _one_of(name: str, values: type[Status] | type[OwnerType]) -> str:
    return f"{name} IN ({', '.join(repr(str(value)) for value in values)})"


# One image: who uploaded it, where its bytes are, where it stands, when it is next due. A table of
# Core, for nothing here uses the ORM's sessions, and it takes 6 MB of every process.
Media = Table(
    "media",
    MetaData(),
    Column("id", Uuid, primary_key=True),
    Column("owner_id", Uuid, nullable=False),
    Column("owner_type", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("raw_key", Text, nullable=False),
    Column("public_key", Text),
    Column("content_type", Text),  # declared; once pinned, of the bytes
    Column("size_bytes", BigInteger),  # of the original
    Column("width", Integer),  # of the object at public_key
    Column("height", Integer),
    Column("created_at", UtcDateTime, server_default=func.now()),
    Column("processed_at", UtcDateTime),
    Column("updated_at", UtcDateTime, nullable=False),
    Column("upload_expires_at", UtcDateTime, nullable=False),
    Column("due_at", UtcDateTime),  # when the loop must act
    Column("deleted_at", UtcDateTime),
    Column("attempt", Integer, nullable=False),  # the one last published; fences late failures
    Column("attempts_left", Integer, nullable=False),
    Column("raw_etag", Text),  # set once the original is pinned
    Column("checksum_sha256", Text),  # base64, like S3's
    Column("error_code", Text),
    Column("variants", Json),
    Column("placeholder", Text),
    Column("idempotency_key", Text),
    Column("request_id", Text),  # the job's correlation_id
    Column("processing_requested_at", UtcDateTime),
    Column("traceparent", Text),  # W3C's; NULL while nothing is traced
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
    Index("idx_media_last_attempt", "due_at", **_where(IS_LAST_ATTEMPT)),
    Index("idx_media_failed", "due_at", **_where(HAS_FAILED)),
)
