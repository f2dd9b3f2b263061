"""Keep when processing was asked for, and the trace it belongs to."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.add_column("media", sa.Column("processing_requested_at", sa.DateTime(timezone=True)))
    op.add_column("media", sa.Column("traceparent", sa.Text))


def downgrade() -> None:
    """Take back."""
    op.drop_column("media", "traceparent")
    op.drop_column("media", "processing_requested_at")
