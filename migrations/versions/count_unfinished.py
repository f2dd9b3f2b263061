"""Let an owner's unfinished uploads be counted by their own index alone."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    _replace("status NOT IN ('processing', 'ready', 'failed') AND deleted_at IS NULL")


def downgrade() -> None:
    """Take back."""
    _replace("status = 'pending' AND deleted_at IS NULL")


def _replace(where: str) -> None:
    op.drop_index("idx_media_pending", table_name="media")
    op.create_index(
        "idx_media_pending",
        "media",
        ["owner_id"],
        postgresql_where=sa.text(where),
        sqlite_where=sa.text(where),
    )
