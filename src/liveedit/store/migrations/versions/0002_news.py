"""Indexes by which the changes since a version are found without a look at all edits."""

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Create the indexes."""
    op.create_index("edits_made_in", "edits", ["made_in"])
    op.create_index("edits_forgotten_in", "edits", ["forgotten_in"])
