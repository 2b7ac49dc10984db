"""What the page shows of single cases: what was asked, and what the unedited model and each editor
answered.

All of it is one compact JSON value in which every text, picture and answer stands once and is named
by its number. A page shows so many cases that it stays small: of each benchmark, evenly spread over
those that were asked about most often, in the first seed. At first it shows the largest N of the
first protocol.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from liveedit.report.columns import Columns, distinct, probe_scores, size_of
from liveedit.report.files import Reading
from liveedit.report.table import label, setting_label
from liveedit.types import Record

__all__ = ["Numbering", "cases_json", "chosen"]

CASES = 200
ANSWERS = 200_000
"""A page shows at most so many cases and answers."""
LONGEST_TEXT = 280


class Numbering:
    """Gives each different value a number, in the order in which they come."""

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
    """The rows of the cases that are shown, with all their probes, editors and N, of one seed a
    benchmark.
    """
    found = []
    for data in np.unique(table.rows["data"]):
        rows = table.rows[table.rows["data"] == data]
        rows = rows[rows["seed"] == rows["seed"].min()]
        asked = distinct(rows, "case", "protocol", "edits", "editor")
        cases, times = np.unique(rows["case"][asked], return_counts=True)
        most = max(
            1, min(len(cases), CASES, ANSWERS * len(cases) // len(rows)) // len(table.texts["data"])
        )
        often = cases[times >= np.sort(times)[-most]]
        found.append(rows[np.isin(rows["case"], often[np.arange(most) * len(often) // most])])
    return np.concatenate(found)


def cases_json(
    reading: Reading, table: Columns, editors: Sequence[str]
) -> tuple[dict[str, Any], list[str]]:
    """The JSON value, and the names of its pictures by their numbers.

    ``texts`` and ``outcomes`` ([text, right, percent of tokens or null, experts]) are by number. Of
    ``cases`` each is [benchmark, [question, target, picture], probes], a probe [metric, question,
    wanted or -1 for "as before", picture, answer of the unedited model, whether that is right or
    null, answers], and its answers are, by the number of a setting (protocol and N), for each
    editor the number of the outcome, or -1.
    """
    texts, pictures, outcomes, settings, metrics = (Numbering() for _ in range(5))
    order = {name: number for number, name in enumerate(editors)}
    shown = chosen(table)
    sizes = table.sizes()
    for protocol, edits in sizes:
        settings(setting_label(protocol, edits))
    probes: dict[tuple[str, str], dict[int, list[Any]]] = defaultdict(dict)
    edited: dict[tuple[str, str], tuple[str, str, str]] = {}
    for _, record in reading.pick(shown["number"]):
        case = record.data, record.case
        if record.probe not in probes[case]:
            probes[case][record.probe] = [
                metrics(record.metric),
                *_asked(record, texts, pictures),
                {},
            ]
        answers = probes[case][record.probe][-1]
        row = answers.setdefault(
            settings(setting_label(record.protocol, size_of(record))), [-1] * len(editors)
        )
        row[order[record.editor]] = outcomes(_outcome(record, texts))
        if record.metric == "reliability":
            edited.setdefault(case, (record.prompt, record.target, record.image))
    value = {
        "editors": list(editors),
        "settings": settings.values,
        "start": max(place for place, (protocol, _) in enumerate(sizes) if protocol == sizes[0][0]),
        "metrics": [[name, label(name)] for name in metrics.values],
        "texts": texts.values,
        "outcomes": outcomes.values,
        "cases": [
            [
                case[0],
                _edit(edited.get(case), texts, pictures),
                [probe for _, probe in sorted(members.items())],
            ]
            for case, members in sorted(probes.items())
        ],
        "of": len(distinct(table.rows, "data", "case")),
    }
    return value, pictures.values


def _asked(record: Record, texts: Numbering, pictures: Numbering) -> list[Any]:
    """Question, wanted, picture, the unedited model's answer and whether it is right."""
    unedited = probe_scores(record).get("unedited_match")
    return [
        texts(shortened(record.prompt)),
        -1 if record.wanted == "before" else texts(shortened(record.target)),
        pictures(record.image),
        texts(shortened(record.answer_before)),
        None if unedited is None else int(unedited),
    ]


def _outcome(record: Record, texts: Numbering) -> tuple[int, int, int | None, str]:
    scores = probe_scores(record)
    tokens = scores.get("token_accuracy")
    experts = [f"#{f.expert} {f.weight:.2f}{' own' if f.own else ''}" for f in record.fired]
    if more := record.experts_fired - len(record.fired):
        experts.append(f"+ {more:,} more")
    return (
        texts(shortened(record.answer_after)),
        int(scores["exact_match"]),
        None if tokens is None else round(100 * tokens),
        ", ".join(experts),
    )


def _edit(
    edit: tuple[str, str, str] | None, texts: Numbering, pictures: Numbering
) -> list[int] | None:
    if edit is None:
        return None
    prompt, target, image = edit
    return [texts(shortened(prompt)), texts(shortened(target)), pictures(image)]


def shortened(text: str) -> str:
    """``text`` in one line, cut where it would fill a card."""
    text = " ".join(text.split())
    return text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT].rstrip()} …"
