"""The tables of a store.

    makers      the editors and models that made the edits
    edits       one row for each edit, with who made it, when and why; rows are never removed
    experts     the tensors of an edit: the keys, which stay in memory, and the factors
    bases       of a maker: the directions in which the sketches of its edits' keys are kept
    sketches    the keys of an edit in these directions, which stay in memory
    images      the images of an edit, as they were given
    thumbnails  small JPEGs of them
    weights     of each maker: the present weights, for a method whose weights hold all edits, else
                what its editor has learned of the model
    changes     one row for each change; its number is the version of the store
    hits        how often, and when, an edit fired

Listing edits never reads a tensor or an image; ``pictures`` counts an edit's images. An edit is in
force from ``made_in`` until ``forgotten_in``, which are versions, so that each past state can be
read.
"""

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
)

__all__ = [
    "APPLICATION", "HEAD", "bases", "changes", "edits", "experts", "hits", "images", "makers",
    "metadata", "sketches", "thumbnails", "weights",
]  # fmt: skip

HEAD = "0002"
"""The newest revision of the tables, in ``migrations/versions``."""
APPLICATION = 0x4C454454
"""SQLite's ``application_id`` of a store: "LEDT"."""

metadata = MetaData()
# SQLite counts rows itself only if the type is INTEGER.
Number = BigInteger().with_variant(Integer, "sqlite")

makers = Table(
    "makers",
    metadata,
    Column("number", Number, primary_key=True),
    Column("editor", String, nullable=False),
    Column("editor_fingerprint", String, nullable=False),
    Column("model_fingerprint", String, nullable=False),
    Column("opens_with", JSON, nullable=False),
    Column("layout", JSON, nullable=False),
)
changes = Table(
    "changes",
    metadata,
    Column("version", Number, primary_key=True, autoincrement=True),
    Column("time", String, nullable=False),
    Column("kind", String, nullable=False),
    Column("who", Text, nullable=False),
    sqlite_autoincrement=True,
)
edits = Table(
    "edits",
    metadata,
    Column("number", Number, primary_key=True, autoincrement=True),
    Column("id", String, nullable=False, unique=True),
    Column("maker", ForeignKey("makers.number"), nullable=False),
    Column("question", Text, nullable=False),
    Column("answer", Text, nullable=False),
    Column("image", String, nullable=False),
    Column("about", Integer),
    Column("names", JSON, nullable=False),
    Column("asked", BigInteger, nullable=False),
    Column("time", String, nullable=False),
    Column("who", Text, nullable=False),
    Column("why", Text, nullable=False),
    Column("took", Boolean),
    Column("held", Boolean, nullable=False),
    Column("conflicts", JSON, nullable=False),
    Column("made_in", ForeignKey("changes.version"), nullable=False),
    Column("forgotten_in", ForeignKey("changes.version")),
    Column("pictures", Integer, nullable=False),
    Column("checksum", BigInteger, nullable=False),
    Index("edits_of_a_question", "asked", "number"),
    Index("edits_by_image", "image"),
    Index("edits_made_in", "made_in"),
    Index("edits_forgotten_in", "forgotten_in"),
    sqlite_autoincrement=True,
)
experts = Table(
    "experts",
    metadata,
    Column("edit", ForeignKey("edits.number"), primary_key=True),
    # SQLite reads a row up to the last column wanted: what opening reads comes first.
    Column("keys", LargeBinary, nullable=False),
    Column("keys_checksum", BigInteger, nullable=False),
    Column("text", Text, nullable=False),
    Column("factors", LargeBinary, nullable=False),
    Column("factors_checksum", BigInteger, nullable=False),
)
bases = Table(
    "bases",
    metadata,
    Column("number", Number, primary_key=True, autoincrement=True),
    Column("maker", ForeignKey("makers.number"), nullable=False),
    Column("learned_from", Integer, nullable=False),
    Column("content", LargeBinary, nullable=False),
    Column("checksum", BigInteger, nullable=False),
    sqlite_autoincrement=True,
)
sketches = Table(
    "sketches",
    metadata,
    Column("edit", ForeignKey("edits.number"), primary_key=True),
    Column("basis", ForeignKey("bases.number"), nullable=False),
    Column("content", LargeBinary, nullable=False),
    Column("checksum", BigInteger, nullable=False),
)
images = Table(
    "images",
    metadata,
    Column("edit", ForeignKey("edits.number"), primary_key=True),
    Column("position", Integer, primary_key=True),
    Column("content", LargeBinary, nullable=False),
)
thumbnails = Table(
    "thumbnails",
    metadata,
    Column("edit", ForeignKey("edits.number"), primary_key=True),
    Column("content", LargeBinary, nullable=False),
)
weights = Table(
    "weights",
    metadata,
    Column("maker", ForeignKey("makers.number"), primary_key=True),
    Column("part", Integer, primary_key=True),
    Column("content", LargeBinary, nullable=False),
)
hits = Table(
    "hits",
    metadata,
    Column("number", Number, primary_key=True, autoincrement=True),
    Column("edit", ForeignKey("edits.number"), nullable=False),
    Column("time", String, nullable=False),
    Column("weight", Float, nullable=False),
    Column("request", String, nullable=False),
    Index("hits_of_an_edit", "edit", "number"),
    sqlite_autoincrement=True,
)
