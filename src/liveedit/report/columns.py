"""Records as one numpy table, 128 bytes a record, so that millions of them can be summarised in
memory.

A record is read once, scored, and forgotten; texts are held as numbers. What one record is worth:

=================
====================================================================================================
token_accuracy     share of the target's tokens predicted under teacher forcing; of a probe that
must stay as before,
                   share of the answer's positions where the likeliest token stayed (LiveEdit's locality)
exact_match        the free answer is the target but for case, spaces and a final full stop, or,
where nothing may
                   change, letter by letter what the unedited model answered
contains           the free answer holds the target, both without case, extra spaces and a final
full stop; only of
                   probes that want a target
top1_kept          share of all positions whose likeliest token stayed, VLKEB's text locality; of
probes that have it top10_rank         ``top10_kept``, VLKEB's image locality; of probes that have
it unedited_match     as ``exact_match``, of the unedited model's answer; only of probes that want a
target =================
====================================================================================================
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from liveedit.types import Record

__all__ = ["SCORES", "Columns", "columns", "distinct", "normalise", "probe_scores", "size_of"]

SCORES = ("token_accuracy", "exact_match", "contains", "top1_kept", "top10_rank", "unedited_match")

TEXTS = ("data", "protocol", "editor", "case", "metric")
ROW = np.dtype(
    [
        *((name, "i4") for name in TEXTS),
        *((name, "i8") for name in ("edits", "seed", "window", "probe", "later")),
        *((score, "f4") for score in SCORES),
        ("experts", "i8"),
        *((name, "i4") for name in ("own", "number")),
        *((name, "f8") for name in ("edit_seconds", "query_seconds", "edit_bytes", "peak_bytes")),
    ]
)
PROTOCOLS = ("windows", "stream", "gap")
OURS = "pinpoint"
LAST = ("liveedit", OURS)
"""What stands behind its rivals: the published method, and ours."""
PLACE = ("data", "protocol", "edits", "editor", "seed", "case", "window", "probe")
"""What tells a record from all others, in the order of the table's rows."""


@dataclass(frozen=True, slots=True)
class Columns:
    """``rows`` (records,) of :data:`ROW`, sorted by :data:`PLACE`, each record once, its later copy
    where it has two.

    ``texts`` are what the numbers in the columns of :data:`TEXTS` stand for. ``number`` is the
    place in the pass over the records, ``edits`` what :func:`size_of` says, a score that a record
    cannot give is NaN.
    """

    rows: np.ndarray
    texts: dict[str, list[str]]
    repeated: int

    def sizes(self) -> list[tuple[str, int]]:
        """Each (protocol, N), the protocols in their order."""
        first = distinct(self.rows, "protocol", "edits")
        return [
            (self.named("protocol", row["protocol"]), int(row["edits"])) for row in self.rows[first]
        ]

    def named(self, column: str, code: int) -> str:
        """The text that ``code`` stands for in ``column``."""
        return self.texts[column][code]


def columns(records: Iterable[Record]) -> Columns:
    """Go through ``records`` once; the same records in any order give the same columns, ``number``
    aside.
    """
    codes: dict[str, dict[str, int]] = {name: {} for name in TEXTS}
    rows = np.fromiter(_rows(records, codes), dtype=ROW)
    for name, found in codes.items():
        place = {text: number for number, text in enumerate(_in_order(found))}
        rows[name] = np.array([place[text] for text in found], dtype="i4")[rows[name]]
    order = np.lexsort([rows["number"], *(rows[name] for name in reversed(PLACE))])
    rows = rows[order]
    last = np.append(_changes(rows, PLACE), True)[: len(rows)]
    return Columns(
        rows[last], {name: _in_order(found) for name, found in codes.items()}, int((~last).sum())
    )


def distinct(rows: np.ndarray, *names: str) -> np.ndarray:
    """The places of the first of ``rows`` with each combination of the columns ``names``, in their
    order.
    """
    order: np.ndarray = np.lexsort([rows[name] for name in reversed(names)])
    first = np.append(True, _changes(rows[order], names))
    return np.compress(first[: len(rows)], order)


def _changes(rows: np.ndarray, names: Iterable[str]) -> np.ndarray:
    """Whether each of ``rows`` but the first differs from the one before it in any column of
    ``names``.
    """
    changes: np.ndarray = np.logical_or.reduce(
        [rows[name][1:] != rows[name][:-1] for name in names]
    )
    return changes


def _in_order(texts: Iterable[str]) -> list[str]:
    """Sorted, but protocols as in :data:`PROTOCOLS` and editors of :data:`LAST` behind all others."""
    special = (*PROTOCOLS, *LAST)
    return sorted(
        texts, key=lambda text: (text in LAST, special.index(text) if text in special else -1, text)
    )


def _rows(
    records: Iterable[Record], codes: dict[str, dict[str, int]]
) -> Iterator[tuple[float, ...]]:
    nan = float("nan")
    for number, record in enumerate(records):
        scores = probe_scores(record)
        yield (
            *(codes[name].setdefault(getattr(record, name), len(codes[name])) for name in TEXTS),
            size_of(record), record.seed, record.window, record.probe, record.later,
            *(scores.get(score, nan) for score in SCORES),
            record.experts_fired, any(firing.own for firing in record.fired), number,
            record.edit_seconds, record.query_seconds, record.edit_bytes, record.peak_bytes,
        )  # fmt: skip


def size_of(record: Record) -> int:
    """N as tables give it: the number of edits in the pool, or, of the protocol "gap", the gap."""
    return record.later if record.protocol == "gap" else record.edits


def normalise(answer: str) -> str:
    """``answer`` without outer spaces, spaces in a row, case and a final full stop."""
    return " ".join(answer.split()).casefold().removesuffix(".").rstrip()


def probe_scores(record: Record) -> dict[str, float]:
    """The scores in 0..1 that one record gives, by name; a score that it cannot give is not there."""
    scores = {}
    if record.wanted == "target":
        target, answer = normalise(record.target), normalise(record.answer_after)
        scores["exact_match"] = float(answer == target)
        scores["contains"] = float(target in answer)
        scores["unedited_match"] = float(normalise(record.answer_before) == target)
    else:
        scores["exact_match"] = float(record.answer_after == record.answer_before)
    if wanted := record.tokens_wanted:
        same = sum(a == b for a, b in zip(record.tokens_after, wanted, strict=False))
        scores["token_accuracy"] = same / len(wanted)
    if (kept := record.top1_kept) is not None:
        scores["top1_kept"] = kept
    if record.top10_kept is not None:
        scores["top10_rank"] = record.top10_kept
    return scores
