"""Indexes of changes, and sketches of keys, which make a store of very many edits quick."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

Number = sa.BigInteger().with_variant(sa.Integer, "sqlite")
"""A number that the database counts."""


def upgrade() -> None:
    """Create the indexes and the tables."""
    op.create_index("edits_made_in", "edits", ["made_in"])
    op.create_index("edits_forgotten_in", "edits", ["forgotten_in"])
    op.create_table(
        "bases",
        sa.Column("number", Number, primary_key=True, autoincrement=True),
        sa.Column("maker", sa.BigInteger, sa.ForeignKey("makers.number"), nullable=False),
        sa.Column("learned_from", sa.Integer, nullable=False),
        sa.Column("content", sa.LargeBinary, nullable=False),
        sa.Column("checksum", sa.BigInteger, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "sketches",
        sa.Column("edit", sa.BigInteger, sa.ForeignKey("edits.number"), primary_key=True),
        sa.Column("basis", sa.BigInteger, sa.ForeignKey("bases.number"), nullable=False),
        sa.Column("content", sa.LargeBinary, nullable=False),
        sa.Column("checksum", sa.BigInteger, nullable=False),
    )
