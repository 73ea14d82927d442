"""The table of events."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create the table."""
    # In SQLite an INTEGER primary key is the row's own address; PostgreSQL sorts streams by byte, as SQLite does.
    seq = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    stream = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
    op.create_table(
        "events",
        sa.Column("seq", seq, primary_key=True, autoincrement=False),
        sa.Column("stream", stream, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("time", sa.Double, nullable=False),
        sa.Column("event_time", sa.BigInteger),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("payload", sa.JSON, nullable=False),
        sa.Column("prev_hash", sa.Text, nullable=False),
        sa.Column("hash", sa.Text, nullable=False),
        sa.UniqueConstraint("key", name="events_key"),
        sa.UniqueConstraint("stream", "version", name="events_stream_version"),
    )
