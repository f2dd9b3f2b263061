"""Create the media table."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

TIMESTAMP = sa.DateTime(timezone=True)
JSON = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")


def upgrade() -> None:
    """Make it, with its indexes."""
    op.create_table(
        "media",
        sa.Column("id", sa.Uuid, primary_key=True),
        sa.Column("owner_id", sa.Uuid, nullable=False),
        sa.Column("owner_type", sa.Text, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("raw_key", sa.Text, nullable=False),
        sa.Column("public_key", sa.Text),
        sa.Column("content_type", sa.Text),
        sa.Column("size_bytes", sa.BigInteger),
        sa.Column("width", sa.Integer),
        sa.Column("height", sa.Integer),
        sa.Column("created_at", TIMESTAMP, server_default=sa.func.now()),
        sa.Column("processed_at", TIMESTAMP),
        sa.Column("updated_at", TIMESTAMP, nullable=False),
        sa.Column("upload_expires_at", TIMESTAMP, nullable=False),
        sa.Column("due_at", TIMESTAMP),
        sa.Column("deleted_at", TIMESTAMP),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("attempts_left", sa.Integer, nullable=False),
        sa.Column("raw_etag", sa.Text),
        sa.Column("checksum_sha256", sa.Text),
        sa.Column("error_code", sa.Text),
        sa.Column("variants", JSON),
        sa.Column("placeholder", sa.Text),
        sa.Column("idempotency_key", sa.Text),
        sa.Column("request_id", sa.Text),
        sa.Column("processing_requested_at", TIMESTAMP),
        sa.Column("traceparent", sa.Text),
        sa.CheckConstraint(
            "status IN ('pending', 'processing', 'ready', 'failed')", name="ck_media_status"
        ),
        sa.CheckConstraint("owner_type IN ('user', 'event')", name="ck_media_owner_type"),
        sa.CheckConstraint(
            "status NOT IN ('processing', 'ready') OR raw_etag IS NOT NULL",
            name="ck_media_pinned",
        ),
        sa.CheckConstraint("status <> 'ready' OR public_key IS NOT NULL", name="ck_media_ready"),
        sa.CheckConstraint("status <> 'failed' OR error_code IS NOT NULL", name="ck_media_failed"),
        sa.CheckConstraint("deleted_at IS NULL OR due_at IS NOT NULL", name="ck_media_deleted"),
        sa.CheckConstraint("attempt >= 0 AND attempts_left >= 0", name="ck_media_attempts"),
    )
    op.create_index("idx_media_owner", "media", ["owner_type", "owner_id"])
    op.create_index("idx_media_listing", "media", ["owner_id", "id"])
    for name, columns, unique, where in (
        ("idx_media_status", ["status"], False, "status = 'pending'"),
        (
            "idx_media_pending",
            ["owner_id"],
            False,
            "status NOT IN ('processing', 'ready', 'failed') AND deleted_at IS NULL",
        ),
        (
            "idx_media_idempotency_key",
            ["owner_id", "idempotency_key"],
            True,
            "idempotency_key IS NOT NULL",
        ),
        (
            "idx_media_due_dispatch",
            ["due_at"],
            False,
            "due_at IS NOT NULL AND status = 'processing' AND deleted_at IS NULL",
        ),
        (
            "idx_media_due",
            ["due_at"],
            False,
            "due_at IS NOT NULL AND (status <> 'processing' OR deleted_at IS NOT NULL)",
        ),
    ):
        op.create_index(
            name,
            "media",
            columns,
            unique=unique,
            postgresql_where=sa.text(where),
            sqlite_where=sa.text(where),
        )


def downgrade() -> None:
    """Drop it."""
    op.drop_table("media")
