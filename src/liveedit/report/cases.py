"""The single cases of the page: each question with the answers of the unedited and edited models.

They are one compact JSON value in which every text, picture and answer is stored once and referred
to by its number. To keep the page small, only some cases of each benchmark are shown: from the
first seed, evenly spread over the cases that were evaluated most often. At first the page shows the
largest N of the first protocol.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from liveedit.measures.metrics import label
from liveedit.measures.protocols import setting_label, size_of
from liveedit.measures.scores import EXACT_MATCH, TOKEN_ACCURACY, UNEDITED_MATCH, scores_of
from liveedit.report.columns import Columns, distinct
from liveedit.report.files import Reading
from liveedit.types import Record

__all__ = ["Numbering", "cases_json", "chosen", "shortened"]

CASES = 200
"""Largest number of cases in a page."""
ANSWERS = 200_000
"""Largest number of answers in a page."""
LONGEST_TEXT = 280
"""Largest number of characters of a text."""


class Numbering:
    """Numbers different values in the order of their first use."""

    def __init__(self) -> None:
        self._numbers: dict[Any, int] = {}

    def __call__(self, value: Any) -> int:
        """The number of ``value``, from 0."""
        return self._numbers.setdefault(value, len(self._numbers))

    @property
    def values(self) -> list[Any]:
        """The values, by number."""
        return list(self._numbers)


def chosen(table: Columns) -> np.ndarray:
    """The rows of the cases that are shown, with all their probes, editors and N."""
    found = []
    for data in np.unique(table.rows["data"]):
        rows = table.rows[table.rows["data"] == data]
        rows = rows[rows["seed"] == rows["seed"].min()]
        evaluated = distinct(rows, "case", "protocol", "size", "editor")
        cases, times = np.unique(rows["case"][evaluated], return_counts=True)
        count = min(len(cases), CASES, ANSWERS * len(cases) // len(rows))
        count = max(1, count // len(table.texts["data"]))
        often = cases[times >= np.sort(times)[-count]]
        shown = often[np.arange(count) * len(often) // count]
        found.append(rows[np.isin(rows["case"], shown)])
    return np.concatenate(found)


def cases_json(
    reading: Reading, table: Columns, editors: Sequence[str]
) -> tuple[dict[str, Any], list[str]]:
    """The JSON value, and the names of its pictures by number.

    ``texts`` and ``outcomes`` are by number; an outcome is [text, whether it is right, percent of
    tokens or null, experts]. A member of ``cases`` is [benchmark, [question, target, picture],
    probes]. A probe is [metric, question, target or -1 for "as before", picture, answer of the
    unedited model, whether that is right or null, answers]. The answers map the number of a
    setting (protocol and N) to the number of each editor's outcome, -1 where there is none.
    """
    builder = _Builder(table, editors)
    for _, record in reading.pick(chosen(table)["number"]):
        builder.add(record)
    return builder.value(), builder.pictures.values


class _Builder:
    """Collects the records of the cases that are shown."""

    def __init__(self, table: Columns, editors: Sequence[str]) -> None:
        self.editors = list(editors)
        self.texts = Numbering()
        self.pictures = Numbering()
        self._outcomes = Numbering()
        self._settings = Numbering()
        self._metrics = Numbering()
        self._probes: dict[tuple[str, str], dict[int, list[Any]]] = defaultdict(dict)
        self._edits: dict[tuple[str, str], list[int]] = {}
        sizes = table.sizes()
        for protocol, size in sizes:
            self._settings(setting_label(protocol, size))
        self._start = max(i for i, (protocol, _) in enumerate(sizes) if protocol == sizes[0][0])
        self._count = len(distinct(table.rows, "data", "case"))

    def add(self, record: Record) -> None:
        """Add the answer of an editor, with its probe if that is new."""
        case = record.data, record.case
        probes = self._probes[case]
        if record.probe not in probes:
            probes[record.probe] = [self._metrics(record.metric), *self._probe(record), {}]
        answers = probes[record.probe][-1]
        setting = self._settings(setting_label(record.protocol, size_of(record)))
        row = answers.setdefault(setting, [-1] * len(self.editors))
        row[self.editors.index(record.editor)] = self._outcomes(self._outcome(record))
        if record.metric == "reliability" and case not in self._edits:
            self._edits[case] = [
                self._text(record.prompt),
                self._text(record.target),
                self.pictures(record.image),
            ]

    def value(self) -> dict[str, Any]:
        """The JSON value."""
        return {
            "editors": self.editors,
            "settings": self._settings.values,
            "start": self._start,
            "metrics": [[name, label(name)] for name in self._metrics.values],
            "texts": self.texts.values,
            "outcomes": self._outcomes.values,
            "cases": [self._case(case) for case in sorted(self._probes)],
            "of": self._count,
        }

    def _case(self, case: tuple[str, str]) -> list[Any]:
        """Benchmark, edit and probes of a case."""
        probes = self._probes[case]
        return [case[0], self._edits.get(case), [probes[number] for number in sorted(probes)]]

    def _probe(self, record: Record) -> list[Any]:
        """Question, target, picture, answer of the unedited model, and whether it is right."""
        unedited = scores_of(record).get(UNEDITED_MATCH.name)
        return [
            self._text(record.prompt),
            -1 if record.wanted == "before" else self._text(record.target),
            self.pictures(record.image),
            self._text(record.answer_before),
            None if unedited is None else int(unedited),
        ]

    def _outcome(self, record: Record) -> tuple[int, int, int | None, str]:
        """Answer, whether it is right, percent of tokens, experts that fired."""
        scores = scores_of(record)
        tokens = scores.get(TOKEN_ACCURACY.name)
        return (
            self._text(record.answer_after),
            int(scores[EXACT_MATCH.name]),
            None if tokens is None else round(100 * tokens),
            _experts(record),
        )

    def _text(self, text: str) -> int:
        return self.texts(shortened(text))


def _experts(record: Record) -> str:
    """The experts that fired, with their weights."""
    experts = []
    for firing in record.fired:
        own = " own" if firing.own else ""
        experts.append(f"#{firing.expert} {firing.weight:.2f}{own}")
    if more := record.experts_fired - len(record.fired):
        experts.append(f"+ {more:,} more")
    return ", ".join(experts)


def shortened(text: str) -> str:
    """``text`` in one line, cut to the length that a card has room for."""
    text = " ".join(text.split())
    return text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT].rstrip()} …"
