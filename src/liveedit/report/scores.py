"""From records to numbers: every score of each metric with its interval, firing, forgetting, and
what it cost.

:mod:`liveedit.report.columns` says what one record is worth; here are means over probes.
``average`` is the mean of the papers' five metrics. Intervals are 95 % percentile bootstraps over
cases, since the probes of a case share its edit. Several seeds are pooled: each resample draws
seeds with replacement, and of each drawn seed as many cases as it has. All metrics of a group, and
all editors tested on equally many cases of the same seeds, share the resamples.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import TypedDict, TypeVar

import numpy as np

from liveedit.artifacts import resolved_path, write_files
from liveedit.errors import BadInput
from liveedit.report.columns import SCORES, Columns, columns, distinct, probe_scores
from liveedit.types import Record

__all__ = [
    "AVERAGED",
    "SCORES",
    "CostRow",
    "FiringRow",
    "ForgettingRow",
    "ScoreRow",
    "Summary",
    "as_json",
    "is_report",
    "metric_order",
    "probe_scores",
    "summarised",
    "summary",
    "write_summary",
]

AVERAGED = ("reliability", "text_generality", "image_generality", "text_locality", "image_locality")
"""The metrics of the papers' tables, in their order."""

SUMMARY = "summary.json"
RESAMPLES = 1000
SEED = 0

LATER = (0, 1, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000)
"""Where the classes of "edits made later" begin in which forgetting is given."""

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
    "image_alone",
)


class _Group(TypedDict):
    data: str
    protocol: str
    edits: int
    editor: str


class ScoreRow(_Group):
    """One score of one metric: ``value`` in 0..1 with its interval, over ``n`` probes of ``seeds``
    seeds.
    """

    metric: str
    score: str
    value: float
    low: float
    high: float
    n: int
    seeds: int


class FiringRow(_Group):
    """Shares of ``n`` probes where any expert fired and where one of the own edit did; mean experts
    a probe.
    """

    metric: str
    fired: float
    own: float
    experts: float
    n: int


class CostRow(_Group):
    """Mean seconds and bytes an edit, mean seconds a query, largest peak memory in bytes (0 if it
    was not measured).
    """

    edit_seconds: float
    edit_bytes: float
    query_seconds: float
    peak_bytes: float


class ForgettingRow(TypedDict):
    """Reliability of the edits after which ``later`` more were made, the mean of its class of
    :data:`LATER`.
    """

    data: str
    protocol: str
    editor: str
    later: float
    score: str
    value: float
    low: float
    high: float
    n: int


class Summary(TypedDict):
    """All that the tables and curves show; what ``summary.json`` holds."""

    rows: list[ScoreRow]
    firing: list[FiringRow]
    cost: list[CostRow]
    forgetting: list[ForgettingRow]


def metric_order(metric: str) -> tuple[int, str]:
    """Sort key: the papers' metrics as in their tables, then the others that are known, then the
    rest by name.
    """
    return (_ORDER.index(metric) if metric in _ORDER else len(_ORDER)), metric


def summary(records: Iterable[Record]) -> Summary:
    """The numbers of ``records``, which are gone through once. Raises :class:`BadInput` where there
    is none.
    """
    return summarised(columns(records))


def summarised(table: Columns) -> Summary:
    """Scores, firing and cost of every (data, protocol, edits, editor), in this order, and
    forgetting.

    The same records in any order give the same summary. Raises :class:`BadInput` where there is no
    record.
    """
    if not len(table.rows):
        raise BadInput("there is no record to report: run an evaluation to its first finished case")
    result = Summary(rows=[], firing=[], cost=[], forgetting=_forgetting(table))
    for group, rows in _groups(table):
        metrics = _by_metric(table, rows)
        result["rows"] += _score_rows(group, rows, metrics)
        result["firing"] += [_firing_row(group, metric, rows[at]) for metric, at in metrics.items()]
        result["cost"].append(_cost_row(group, rows))
    return result


def _groups(table: Columns) -> Iterator[tuple[_Group, np.ndarray]]:
    """Each (data, protocol, edits, editor) with its rows, which stand together in the table."""
    names = ("data", "protocol", "edits", "editor")
    new = np.logical_or.reduce([table.rows[name][1:] != table.rows[name][:-1] for name in names])
    for rows in np.split(table.rows, np.flatnonzero(new) + 1):
        data, protocol, editor = (
            table.named(name, rows[0][name]) for name in ("data", "protocol", "editor")
        )
        yield _Group(data=data, protocol=protocol, edits=int(rows[0]["edits"]), editor=editor), rows


def _by_metric(table: Columns, rows: np.ndarray) -> dict[str, np.ndarray]:
    """Where in ``rows`` each metric is, in the order of the tables."""
    found = {
        table.named("metric", code): np.flatnonzero(rows["metric"] == code)
        for code in np.unique(rows["metric"])
    }
    return {metric: found[metric] for metric in sorted(found, key=metric_order)}


_Column = tuple[str, str]


def _score_rows(
    group: _Group, rows: np.ndarray, metrics: Mapping[str, np.ndarray]
) -> list[ScoreRow]:
    means, totals = _resampled(
        rows, {(m, score): (at, rows[score]) for m, at in metrics.items() for score in SCORES}
    )
    for score in SCORES:
        keys = [(metric, score) for metric in AVERAGED]
        if all(key in means for key in keys):
            means["average", score] = np.mean([means[key] for key in keys], axis=0)
            totals["average", score] = sum(totals[key] for key in keys)
    seeds = len(np.unique(rows["seed"]))
    return [
        ScoreRow(
            **group,
            metric=m,
            score=score,
            **_interval(means[m, score]),
            n=totals[m, score],
            seeds=seeds,
        )
        for m, score in sorted(means, key=lambda key: (metric_order(key[0]), SCORES.index(key[1])))
    ]


_Key = TypeVar("_Key")


class _Interval(TypedDict):
    value: float
    low: float
    high: float


def _interval(means: np.ndarray) -> _Interval:
    """From a mean and its bootstrap replicates, of which some may be NaN."""
    low, high = np.nanpercentile(means[1:], (2.5, 97.5))
    value, low, high = (round(float(x), 6) for x in (means[0], low, high))
    return _Interval(value=value, low=low, high=high)


def _resampled(
    rows: np.ndarray, wanted: Mapping[_Key, tuple[np.ndarray, np.ndarray]]
) -> tuple[dict[_Key, np.ndarray], dict[_Key, int]]:
    """Of each column that has a number: the mean over probes with its replicates, (1 + RESAMPLES,),
    and how many.

    A column is places in ``rows`` and the scores of all ``rows``, NaN where there is none. A
    replicate that drew no case with such a probe is NaN.
    """
    unit, sizes = _units(rows)
    weights = _weights(sizes)
    sums, counts = {}, {}
    for key, (at, scores) in wanted.items():
        at = at[~np.isnan(scores[at])]
        if len(at):
            sums[key] = np.bincount(unit[at], scores[at], minlength=sum(sizes))
            counts[key] = np.bincount(unit[at], minlength=sum(sizes))
    with np.errstate(invalid="ignore"):
        means = (weights @ np.stack([*sums.values()], axis=1)) / (
            weights @ np.stack([*counts.values()], axis=1)
        )
    return dict(zip(sums, means.T, strict=True)), {
        key: int(count.sum()) for key, count in counts.items()
    }


def _units(rows: np.ndarray) -> tuple[np.ndarray, tuple[int, ...]]:
    """The place of each row's (seed, case) among those of ``rows``, sorted, and the number of cases
    of each seed.
    """
    _, seed = np.unique(rows["seed"], return_inverse=True)
    cases = int(rows["case"].max()) + 1
    found, unit = np.unique(seed * cases + rows["case"], return_inverse=True)
    return unit, tuple(np.bincount(found // cases).tolist())


@lru_cache(maxsize=4)
def _weights(sizes: tuple[int, ...]) -> np.ndarray:
    """How often each case counts, (1 + RESAMPLES, cases of all seeds): once each in the first row,
    drawn below.
    """
    random = np.random.default_rng(SEED)
    seeds = random.multinomial(len(sizes), [1 / len(sizes)] * len(sizes), size=RESAMPLES)
    drawn = [
        random.multinomial(n * times, [1 / n] * n) for n, times in zip(sizes, seeds.T, strict=True)
    ]
    return np.vstack([np.ones((1, sum(sizes))), np.hstack(drawn)])


def _firing_row(group: _Group, metric: str, rows: np.ndarray) -> FiringRow:
    fired, own, experts = (_mean(x) for x in (rows["experts"] > 0, rows["own"], rows["experts"]))
    return FiringRow(**group, metric=metric, fired=fired, own=own, experts=experts, n=len(rows))


def _cost_row(group: _Group, rows: np.ndarray) -> CostRow:
    """An edit counts once, however many probes its case has."""
    first = distinct(rows, "seed", "window", "case")
    return CostRow(
        **group,
        edit_seconds=_mean(rows["edit_seconds"][first]),
        edit_bytes=_mean(rows["edit_bytes"][first]),
        query_seconds=_mean(rows["query_seconds"]),
        peak_bytes=float(rows["peak_bytes"].max()),
    )


def _mean(values: np.ndarray) -> float:
    return round(float(np.mean(values)), 9)


def _forgetting(table: Columns) -> list[ForgettingRow]:
    """Where the protocol edits on between an edit and its question: "gap" and "stream"."""
    texts = table.texts
    asked = np.isin(
        table.rows["protocol"], [i for i, name in enumerate(texts["protocol"]) if name != "windows"]
    )
    asked &= np.isin(
        table.rows["metric"], [i for i, name in enumerate(texts["metric"]) if name == "reliability"]
    )
    rows = table.rows[asked]
    found: list[ForgettingRow] = []
    for data, protocol, editor in sorted(
        {(int(r["data"]), int(r["protocol"]), int(r["editor"])) for r in rows}
    ):
        own = rows[
            (rows["data"] == data) & (rows["protocol"] == protocol) & (rows["editor"] == editor)
        ]
        member = np.searchsorted(LATER, own["later"], side="right")
        at = {int(number): np.flatnonzero(member == number) for number in np.unique(member)}
        scores = ("token_accuracy", "exact_match")
        means, totals = _resampled(
            own, {(number, s): (at[number], own[s]) for number in at for s in scores}
        )
        found += [
            ForgettingRow(
                data=texts["data"][data],
                protocol=texts["protocol"][protocol],
                editor=texts["editor"][editor],
                later=_mean(own["later"][at[number]]),
                score=score,
                **_interval(means[number, score]),
                n=totals[number, score],
            )
            for number, score in sorted(means, key=lambda key: (SCORES.index(key[1]), key[0]))
        ]
    return found


def write_summary(records: Iterable[Record], folder: str | Path) -> Path:
    """Write ``folder/summary.json`` whole or not at all, and return its path.

    Raises :class:`BadInput` where there is no record or the file there is no summary,
    :class:`StorageError` where writing fails.
    """
    content = as_json(summary(records))
    return write_files(folder, {SUMMARY: content}, allow_unmarked=is_report(folder)) / SUMMARY


def is_report(folder: str | Path) -> bool:
    """Whether the ``summary.json`` in ``folder`` is a report's, of which older ones bear no other
    mark.
    """
    try:
        made = json.loads((resolved_path(folder) / SUMMARY).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(made, dict) and made.keys() >= {"rows", "firing"}


def as_json(made: Summary) -> bytes:
    """The content of ``summary.json``."""
    return (json.dumps(made, indent=1, ensure_ascii=False) + "\n").encode()
