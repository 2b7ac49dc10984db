"""From records to numbers: both scores of each metric with their intervals, how often experts fired, and what it cost.

=================  ====================================================================================================
token_accuracy     mean over probes of the share of target tokens predicted under teacher forcing (the papers' score)
exact_match        share of probes whose free generation is the answer wanted: the target but for case, spaces and a
                   final full stop, or, where nothing may change, letter by letter what the unedited model answered
top10_rank         mean of ``top10_kept`` (VLKEB's locality), over the probes that have it
=================  ====================================================================================================

``average`` is the mean of the papers' five metrics. Intervals are 95 % percentile bootstraps over cases, since the
probes of a case share its edit; all metrics of a group, and all editors tested on the same cases, share the resamples.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypedDict

import numpy as np

from liveedit.errors import BadInput
from liveedit.report.files import write_file
from liveedit.types import Record

__all__ = [
    "AVERAGED",
    "SCORES",
    "CostRow",
    "FiringRow",
    "ScoreRow",
    "Summary",
    "as_json",
    "metric_order",
    "normalise",
    "probe_scores",
    "summary",
    "write_summary",
]

AVERAGED = ("reliability", "text_generality", "image_generality", "text_locality", "image_locality")
"""The metrics of the papers' tables, in their order."""

SCORES = ("token_accuracy", "exact_match", "top10_rank")

RESAMPLES = 1000
SEED = 0

_ORDER = (
    *AVERAGED,
    "average",
    "image_generality_unseen",
    "portability_1hop",
    "portability_2hop",
    "portability_3hop",
    "portability_4hop",
    "same_image_other_question",
    "look_alike_image",
    "question_alone",
)


class ScoreRow(TypedDict):
    """One score of one metric: ``value`` in 0..1 with its interval, over ``n`` probes."""

    editor: str
    data: str
    edits: int
    metric: str
    score: str
    value: float
    low: float
    high: float
    n: int


class FiringRow(TypedDict):
    """Shares of ``n`` probes where any expert fired and where one of the own edit did; mean experts a probe."""

    editor: str
    data: str
    edits: int
    metric: str
    fired: float
    own: float
    experts: float
    n: int


class CostRow(TypedDict):
    """Mean seconds and bytes an edit, mean seconds a query."""

    editor: str
    data: str
    edits: int
    edit_seconds: float
    edit_bytes: float
    query_seconds: float


class Summary(TypedDict):
    """All that the tables and curves show; what ``summary.json`` holds."""

    rows: list[ScoreRow]
    firing: list[FiringRow]
    cost: list[CostRow]


class _Group(TypedDict):
    data: str
    edits: int
    editor: str


def normalise(answer: str) -> str:
    """``answer`` without outer spaces, spaces in a row, case and a final full stop."""
    return " ".join(answer.split()).casefold().removesuffix(".").rstrip()


def probe_scores(record: Record) -> dict[str, float]:
    """The scores in 0..1 that one record gives, by name; a score that it cannot give is not there."""
    if record.wanted == "target":
        exact = normalise(record.answer_after) == normalise(record.target)
    else:
        exact = record.answer_after == record.answer_before
    scores = {"exact_match": float(exact)}
    if wanted := record.tokens_wanted:
        same = sum(a == b for a, b in zip(record.tokens_after, wanted, strict=False))
        scores["token_accuracy"] = same / len(wanted)
    if record.top10_kept is not None:
        scores["top10_rank"] = record.top10_kept
    return scores


def metric_order(metric: str) -> tuple[int, str]:
    """Sort key: the papers' metrics as in their tables, then the others that are known, then the rest by name."""
    return (_ORDER.index(metric) if metric in _ORDER else len(_ORDER)), metric


def summary(records: Iterable[Record]) -> Summary:
    """Scores, firing and cost of every (data, edits, editor), in this order; the same records give the same summary.

    Raises :class:`BadInput` where there is no record.
    """
    groups: dict[tuple[str, int, str], list[Record]] = defaultdict(list)
    for record in records:
        groups[record.data, record.edits, record.editor].append(record)
    if not groups:
        raise BadInput("there is no record to report: run an evaluation to its first finished case")
    result = Summary(rows=[], firing=[], cost=[])
    for (data, edits, editor), members in sorted(groups.items()):
        group = _Group(data=data, edits=edits, editor=editor)
        result["rows"] += _score_rows(group, members)
        result["firing"] += _firing_rows(group, members)
        result["cost"].append(_cost_row(group, members))
    return result


def _score_rows(group: _Group, records: list[Record]) -> list[ScoreRow]:
    sums, counts = _by_case(records)
    totals = {key: int(count.sum()) for key, count in counts.items()}
    means = _resampled_means(sums, counts)
    for score in SCORES:
        keys = [(metric, score) for metric in AVERAGED]
        if all(key in means for key in keys):
            means["average", score] = np.mean([means[key] for key in keys], axis=0)
            totals["average", score] = sum(totals[key] for key in keys)
    rows = []
    for metric, score in sorted(means, key=lambda key: (metric_order(key[0]), SCORES.index(key[1]))):
        values = means[metric, score]
        low, high = np.nanpercentile(values[1:], (2.5, 97.5))
        value, low, high = (round(float(x), 6) for x in (values[0], low, high))
        rows.append(
            ScoreRow(**group, metric=metric, score=score, value=value, low=low, high=high, n=totals[metric, score])
        )
    return rows


_Column = tuple[str, str]


def _by_case(records: list[Record]) -> tuple[dict[_Column, np.ndarray], dict[_Column, np.ndarray]]:
    """Per (metric, score): the sum of the score and the number of probes of each case, both (cases,)."""
    index = {case: i for i, case in enumerate(sorted({record.case for record in records}))}
    sums: dict[_Column, np.ndarray] = defaultdict(lambda: np.zeros(len(index)))
    counts: dict[_Column, np.ndarray] = defaultdict(lambda: np.zeros(len(index)))
    for record in records:
        for score, value in probe_scores(record).items():
            sums[record.metric, score][index[record.case]] += value
            counts[record.metric, score][index[record.case]] += 1
    return sums, counts


def _resampled_means(
    sums: Mapping[_Column, np.ndarray], counts: Mapping[_Column, np.ndarray]
) -> dict[_Column, np.ndarray]:
    """Per column the mean over probes, then its bootstrap replicates, (1 + RESAMPLES,).

    A replicate that drew no case with such a probe is NaN.
    """
    weights = _case_weights(len(next(iter(sums.values()))))
    with np.errstate(invalid="ignore"):
        means = (weights @ np.stack([*sums.values()], axis=1)) / (weights @ np.stack([*counts.values()], axis=1))
    return dict(zip(sums, means.T, strict=True))


def _case_weights(cases: int) -> np.ndarray:
    """How often each case counts, (1 + RESAMPLES, cases): once each in the first row, drawn with replacement below."""
    drawn = np.random.default_rng(SEED).integers(cases, size=(RESAMPLES, cases))
    flat = drawn + cases * np.arange(RESAMPLES)[:, None]
    times = np.bincount(flat.ravel(), minlength=RESAMPLES * cases).reshape(RESAMPLES, cases)
    return np.vstack([np.ones((1, cases)), times])


def _firing_rows(group: _Group, records: list[Record]) -> list[FiringRow]:
    by_metric: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        by_metric[record.metric].append(record)
    return [
        FiringRow(
            **group,
            metric=metric,
            fired=_mean(r.experts_fired > 0 for r in by_metric[metric]),
            own=_mean(any(firing.own for firing in r.fired) for r in by_metric[metric]),
            experts=_mean(r.experts_fired for r in by_metric[metric]),
            n=len(by_metric[metric]),
        )
        for metric in sorted(by_metric, key=metric_order)
    ]


def _cost_row(group: _Group, records: list[Record]) -> CostRow:
    """An edit counts once, however many probes its case has."""
    edits = {(r.window, r.seed, r.case): (r.edit_seconds, r.edit_bytes) for r in records}.values()
    return CostRow(
        **group,
        edit_seconds=_mean(seconds for seconds, _ in edits),
        edit_bytes=_mean(size for _, size in edits),
        query_seconds=_mean(r.query_seconds for r in records),
    )


def _mean(values: Iterable[float]) -> float:
    return round(float(np.mean([*values])), 9)


def write_summary(records: Iterable[Record], folder: str | Path) -> Path:
    """Write ``folder/summary.json`` whole or not at all, and return its path.

    Raises :class:`BadInput` where there is no record, :class:`StorageError` where writing fails.
    """
    return write_file(Path(folder) / "summary.json", as_json(summary(records)))


def as_json(made: Summary) -> bytes:
    """The content of ``summary.json``."""
    return (json.dumps(made, indent=1, ensure_ascii=False) + "\n").encode()
