"""Index the media that have failed, and those whose last attempt is under way."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

INDEXES = {
    "idx_media_last_attempt": "status = 'processing' AND deleted_at IS NULL AND attempts_left = 0",
    "idx_media_failed": "status = 'failed' AND deleted_at IS NULL",
}


def upgrade() -> None:
    """Make them while the service goes on, which takes no transaction.

    One that was interrupted leaves an index behind that is kept up and never used: it goes first.
    """
    with op.get_context().autocommit_block():
        for name, where in INDEXES.items():
            op.drop_index(name, "media", if_exists=True, postgresql_concurrently=True)
            op.create_index(
                name,
                "media",
                ["due_at"],
                postgresql_where=sa.text(where),
                sqlite_where=sa.text(where),
                postgresql_concurrently=True,
            )


def downgrade() -> None:
    """Drop them, while the service goes on as well."""
    with op.get_context().autocommit_block():
        for name in INDEXES:
            op.drop_index(name, "media", if_exists=True, postgresql_concurrently=True)
