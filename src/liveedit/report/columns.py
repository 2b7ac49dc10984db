"""All records as one numpy table of 128 bytes per record.

So millions of records can be summarised in memory: each is read once, scored and discarded; its
texts are stored as numbers.
"""

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from liveedit.measures.costs import COSTS, cost_names
from liveedit.measures.protocols import protocol_order, size_of
from liveedit.measures.scores import SCORES, score_order, scores_of
from liveedit.types import Record

__all__ = ["Columns", "changes", "columns", "distinct"]

TEXTS = ("data", "protocol", "editor", "case", "metric")
"""Texts of a record that the table holds as numbers."""
INTEGERS = ("size", "seed", "window", "probe", "later", "experts", "own", "number")
"""Integers of a row; ``size`` is N, ``own`` whether an expert of the probe's own case fired."""
KEY = ("data", "protocol", "size", "editor", "seed", "case", "window", "probe")
"""Columns that identify a record, in the order by which the rows are sorted."""

SCORE_NAMES = tuple(score.name for score in SCORES)
COST_NAMES = tuple(cost.name for cost in COSTS)
ROW = np.dtype(
    [
        *((name, "i4") for name in TEXTS),
        *((name, "i4" if name in ("own", "number") else "i8") for name in INTEGERS),
        *((name, "f4") for name in SCORE_NAMES),
        *((name, "f8") for name in COST_NAMES),
    ]
)
KNOWN = frozenset(("edits", *(ROW.names or ())))
"""Names that no further column may have."""


@dataclass(frozen=True, slots=True)
class Columns:
    """The table of all records, each once: if a record was written twice, the later copy.

    Arguments:
        rows: A structured array (records,), sorted by :data:`KEY`. ``number`` is the position of a
            record in the pass over all records. A score or cost that a record does not have is
            NaN.
        texts: For each column of :data:`TEXTS` the texts that its numbers represent, in the order
            of the tables.
        scores: Names of the columns that are scores, in the order of the tables.
        costs: Names of the columns that are costs, in the order of the tables.
        repeated: Number of records that were left out because a later copy exists.
    """

    rows: np.ndarray
    texts: Mapping[str, Sequence[str]]
    scores: Sequence[str]
    costs: Sequence[str]
    repeated: int

    def sizes(self) -> list[tuple[str, int]]:
        """Each (protocol, N), by the order of the protocols."""
        found = self.rows[distinct(self.rows, "protocol", "size")]
        return [(self.named("protocol", row["protocol"]), int(row["size"])) for row in found]

    def named(self, column: str, code: int) -> str:
        """The text that the number ``code`` represents in ``column``."""
        return self.texts[column][code]


def columns(records: Iterable[Record], highlighted: Sequence[str] = ()) -> Columns:
    """Make the table in one pass over ``records``.

    The order of the records does not matter, except for ``number``. The editors ``highlighted``
    come after all others, in the given order.
    """
    reader = _Reader()
    rows = np.fromiter(reader.rows(records), dtype=ROW)
    rows = _with_columns(rows, reader.extra_columns(len(rows)))
    texts = {}
    for name, codes in reader.codes.items():
        texts[name] = _in_order(name, codes, highlighted)
        place = {text: number for number, text in enumerate(texts[name])}
        rows[name] = np.array([place[text] for text in codes], dtype="i4")[rows[name]]
    order = np.lexsort([rows["number"], *(rows[name] for name in reversed(KEY))])
    rows = rows[order]
    last = np.append(changes(rows, KEY), True)[: len(rows)]
    scores = sorted([*SCORE_NAMES, *reader.scores], key=score_order)
    return Columns(rows[last], texts, scores, cost_names(reader.costs), int((~last).sum()))


class _Reader:
    """Turns records into rows; scores and costs that are not declared are set aside."""

    def __init__(self) -> None:
        self.codes: dict[str, dict[str, int]] = {name: {} for name in TEXTS}
        self.scores: dict[str, array[float]] = {}
        self.costs: dict[str, array[float]] = {}

    def rows(self, records: Iterable[Record]) -> Iterator[tuple[float, ...]]:
        """A row of :data:`ROW` for each record."""
        for number, record in enumerate(records):
            scores = scores_of(record)
            _set_aside(self.scores, scores, number)
            _set_aside(self.costs, record.costs, number)
            yield (
                *(self._code(name, getattr(record, name)) for name in TEXTS),
                *_integers(record, number),
                *(scores.get(name, np.nan) for name in SCORE_NAMES),
                *(record.costs.get(name, np.nan) for name in COST_NAMES),
            )

    def extra_columns(self, length: int) -> dict[str, "array[float]"]:
        """The columns that were set aside, each with one value per record."""
        found = self.scores | self.costs
        for values in found.values():
            _fill(values, length)
        return found

    def _code(self, column: str, text: str) -> int:
        """The number of a text, in the order in which texts are first read."""
        codes = self.codes[column]
        return codes.setdefault(text, len(codes))


def _integers(record: Record, number: int) -> tuple[int, ...]:
    """The values of :data:`INTEGERS`."""
    own = any(firing.own for firing in record.fired)
    return (
        size_of(record), record.seed, record.window, record.probe, record.later,
        record.experts_fired, own, number,
    )  # fmt: skip


def _set_aside(
    collected: dict[str, "array[float]"], values: Mapping[str, float], number: int
) -> None:
    """Append the values of the record ``number`` that have no column in :data:`ROW`."""
    for name in values.keys() - KNOWN:
        column = collected.setdefault(name, array("d"))
        _fill(column, number)
        column.append(values[name])


def _fill(values: "array[float]", length: int) -> None:
    """Append NaN until there are ``length`` values."""
    values.extend([np.nan] * (length - len(values)))


def _with_columns(rows: np.ndarray, extra: Mapping[str, "array[float]"]) -> np.ndarray:
    """``rows`` with further columns of floats."""
    if not extra:
        return rows
    wider = np.empty(len(rows), dtype=[*ROW.descr, *((name, "f8") for name in extra)])
    for name in ROW.names or ():
        wider[name] = rows[name]
    for name, values in extra.items():
        wider[name] = values
    return wider


def _in_order(column: str, texts: Iterable[str], highlighted: Sequence[str]) -> list[str]:
    """Sorted by name; protocols as they are declared, highlighted editors last."""
    if column == "protocol":
        return sorted(texts, key=protocol_order)
    found = sorted(texts)
    if column != "editor":
        return found
    others = [text for text in found if text not in highlighted]
    return [*others, *(text for text in highlighted if text in found)]


def distinct(rows: np.ndarray, *names: str) -> np.ndarray:
    """Indices of the first row with each combination of values in ``names``, sorted by them."""
    order: np.ndarray = np.lexsort([rows[name] for name in reversed(names)])
    first = np.append(True, changes(rows[order], names))
    return np.compress(first[: len(rows)], order)


def changes(rows: np.ndarray, names: Iterable[str]) -> np.ndarray:
    """Whether each row but the first differs from the row before it in a column of ``names``."""
    different = [rows[name][1:] != rows[name][:-1] for name in names]
    changed: np.ndarray = np.logical_or.reduce(different)
    return changed
