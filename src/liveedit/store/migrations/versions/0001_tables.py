"""The first tables."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

Number = sa.BigInteger().with_variant(sa.Integer, "sqlite")
"""A number that the database counts."""


def upgrade() -> None:
    """Create all tables."""
    op.create_table(
        "makers",
        sa.Column("number", Number, primary_key=True),
        sa.Column("editor", sa.String, nullable=False),
        sa.Column("editor_fingerprint", sa.String, nullable=False),
        sa.Column("model_fingerprint", sa.String, nullable=False),
        sa.Column("opens_with", sa.JSON, nullable=False),
        sa.Column("layout", sa.JSON, nullable=False),
    )
    op.create_table(
        "changes",
        sa.Column("version", Number, primary_key=True, autoincrement=True),
        sa.Column("time", sa.String, nullable=False),
        sa.Column("kind", sa.String, nullable=False),
        sa.Column("who", sa.Text, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "edits",
        sa.Column("number", Number, primary_key=True, autoincrement=True),
        sa.Column("id", sa.String, nullable=False, unique=True),
        sa.Column("maker", sa.BigInteger, sa.ForeignKey("makers.number"), nullable=False),
        sa.Column("question", sa.Text, nullable=False),
        sa.Column("answer", sa.Text, nullable=False),
        sa.Column("image", sa.String, nullable=False),
        sa.Column("about", sa.Integer),
        sa.Column("names", sa.JSON, nullable=False),
        sa.Column("asked", sa.BigInteger, nullable=False),
        sa.Column("time", sa.String, nullable=False),
        sa.Column("who", sa.Text, nullable=False),
        sa.Column("why", sa.Text, nullable=False),
        sa.Column("took", sa.Boolean),
        sa.Column("held", sa.Boolean, nullable=False),
        sa.Column("conflicts", sa.JSON, nullable=False),
        sa.Column("made_in", sa.BigInteger, sa.ForeignKey("changes.version"), nullable=False),
        sa.Column("forgotten_in", sa.BigInteger, sa.ForeignKey("changes.version")),
        sa.Column("pictures", sa.Integer, nullable=False),
        sa.Column("checksum", sa.BigInteger, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("edits_of_a_question", "edits", ["asked", "number"])
    op.create_index("edits_by_image", "edits", ["image"])
    op.create_table(
        "experts",
        sa.Column("edit", sa.BigInteger, sa.ForeignKey("edits.number"), primary_key=True),
        # In this order since SQLite reads a row up to the last column wanted. Stores that were made
        # with another order open more slowly, and are no different otherwise.
        sa.Column("keys", sa.LargeBinary, nullable=False),
        sa.Column("keys_checksum", sa.BigInteger, nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("factors", sa.LargeBinary, nullable=False),
        sa.Column("factors_checksum", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "images",
        sa.Column("edit", sa.BigInteger, sa.ForeignKey("edits.number"), primary_key=True),
        sa.Column("position", sa.Integer, primary_key=True),
        sa.Column("content", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "thumbnails",
        sa.Column("edit", sa.BigInteger, sa.ForeignKey("edits.number"), primary_key=True),
        sa.Column("content", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "weights",
        sa.Column("maker", sa.BigInteger, sa.ForeignKey("makers.number"), primary_key=True),
        sa.Column("part", sa.Integer, primary_key=True),
        sa.Column("content", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "hits",
        sa.Column("number", Number, primary_key=True, autoincrement=True),
        sa.Column("edit", sa.BigInteger, sa.ForeignKey("edits.number"), nullable=False),
        sa.Column("time", sa.String, nullable=False),
        sa.Column("weight", sa.Float, nullable=False),
        sa.Column("request", sa.String, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("hits_of_an_edit", "hits", ["edit", "number"])
