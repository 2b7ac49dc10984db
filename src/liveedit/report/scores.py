"""From records to numbers: scores with their intervals, firing, forgetting and costs.

Scores are means over probes of what :mod:`liveedit.measures.scores` computes for each record.
``average`` is the mean of the papers' five metrics. Intervals are 95 % percentile bootstraps over
cases, since the probes of a case share its edit. Several seeds are pooled: each resample draws
seeds with replacement and, for each drawn seed, as many cases as that seed has. All metrics of a
group, and all editors evaluated on equally many cases of the same seeds, share the resamples.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, TypedDict, TypeVar, cast

import numpy as np

from liveedit.artifacts import resolved_path, write_files
from liveedit.errors import BadInput
from liveedit.measures.costs import cost_named
from liveedit.measures.metrics import AVERAGE, AVERAGED, metric_order
from liveedit.measures.protocols import protocol_named
from liveedit.measures.scores import HEADLINES, score_order
from liveedit.report.columns import Columns, changes, columns, distinct
from liveedit.types import Record

__all__ = [
    "LATER",
    "RESAMPLES",
    "CostRow",
    "FiringRow",
    "ForgettingRow",
    "ScoreRow",
    "Summary",
    "as_json",
    "is_report",
    "summarised",
    "summary",
    "write_summary",
]

SUMMARY = "summary.json"
RESAMPLES = 1000
SEED = 0
"""Seed of the resamples."""

LATER = (0, 1, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000)
"""Lower bounds of the classes of "edits made later" for which forgetting is given."""

GROUP = ("data", "protocol", "size", "editor")
"""Columns whose values the rows of a group share."""

CostRow = dict[str, Any]
"""``data``, ``protocol``, ``edits`` and ``editor``, and each cost by its name."""


class _Group(TypedDict):
    data: str
    protocol: str
    edits: int
    editor: str


class ScoreRow(_Group):
    """One score of one metric in 0..1 with its interval, over ``n`` probes of ``seeds`` seeds."""

    metric: str
    score: str
    value: float
    low: float
    high: float
    n: int
    seeds: int


class FiringRow(_Group):
    """How often experts fired, over ``n`` probes of a metric.

    ``fired`` is the share of probes where any expert fired, ``own`` the share where an expert of
    the case's own edit fired, ``experts`` the mean number of experts.
    """

    metric: str
    fired: float
    own: float
    experts: float
    n: int


class ForgettingRow(TypedDict):
    """Reliability of the edits after which ``later`` more were made.

    ``later`` is the mean of a class of :data:`LATER`.
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
    """All numbers of the tables and curves; the content of ``summary.json``."""

    rows: list[ScoreRow]
    firing: list[FiringRow]
    cost: list[CostRow]
    forgetting: list[ForgettingRow]


def summary(records: Iterable[Record], highlighted: Sequence[str] = ()) -> Summary:
    """Summarise ``records`` in one pass; the editors ``highlighted`` come last.

    Raises :class:`BadInput` where there is no record.
    """
    return summarised(columns(records, highlighted))


def summarised(table: Columns) -> Summary:
    """Scores, firing and costs of every (data, protocol, N, editor), in this order, and forgetting.

    The same records in any order give the same summary. Raises :class:`BadInput` where there is no
    record.
    """
    if not len(table.rows):
        raise BadInput("there is no record to report: run an evaluation to its first finished case")
    result = Summary(rows=[], firing=[], cost=[], forgetting=_forgetting(table))
    for group, rows in _groups(table):
        metrics = _by_metric(table, rows)
        result["rows"] += _score_rows(group, rows, metrics, table.scores)
        result["firing"] += [_firing_row(group, name, rows[at]) for name, at in metrics.items()]
        result["cost"].append(_cost_row(group, rows, table.costs))
    return result


def _groups(table: Columns) -> Iterator[tuple[_Group, np.ndarray]]:
    """Each (data, protocol, N, editor) with its rows, which are contiguous in the table."""
    starts = np.flatnonzero(changes(table.rows, GROUP)) + 1
    for rows in np.split(table.rows, starts):
        first = rows[0]
        group = _Group(
            data=table.named("data", first["data"]),
            protocol=table.named("protocol", first["protocol"]),
            edits=int(first["size"]),
            editor=table.named("editor", first["editor"]),
        )
        yield group, rows


def _by_metric(table: Columns, rows: np.ndarray) -> dict[str, np.ndarray]:
    """Indices in ``rows`` of each metric, in the order of the tables."""
    found = {
        table.named("metric", code): np.flatnonzero(rows["metric"] == code)
        for code in np.unique(rows["metric"])
    }
    return {metric: found[metric] for metric in sorted(found, key=metric_order)}


def _score_rows(
    group: _Group, rows: np.ndarray, metrics: Mapping[str, np.ndarray], scores: Sequence[str]
) -> list[ScoreRow]:
    """A row for each metric and score, the average of the five metrics included."""
    wanted = {}
    for metric, at in metrics.items():
        wanted.update({(metric, score): (at, rows[score]) for score in scores})
    means, totals = _resampled(rows, wanted)
    for score in scores:
        keys = [(metric, score) for metric in AVERAGED]
        if all(key in means for key in keys):
            means[AVERAGE, score] = np.mean([means[key] for key in keys], axis=0)
            totals[AVERAGE, score] = sum(totals[key] for key in keys)
    seeds = len(np.unique(rows["seed"]))
    return [
        ScoreRow(
            **group,
            metric=metric,
            score=score,
            **_interval(means[metric, score]),
            n=totals[metric, score],
            seeds=seeds,
        )
        for metric, score in sorted(means, key=_table_order)
    ]


def _table_order(key: tuple[str, str]) -> tuple[Any, ...]:
    """Sort key of a (metric, score)."""
    metric, score = key
    return metric_order(metric), score_order(score)


_Key = TypeVar("_Key")


class _Interval(TypedDict):
    value: float
    low: float
    high: float


def _interval(means: np.ndarray) -> _Interval:
    """The value and its interval, from a mean and its bootstrap replicates, some possibly NaN."""
    low, high = np.nanpercentile(means[1:], (2.5, 97.5))
    value, low, high = (round(float(number), 6) for number in (means[0], low, high))
    return _Interval(value=value, low=low, high=high)


def _resampled(
    rows: np.ndarray, wanted: Mapping[_Key, tuple[np.ndarray, np.ndarray]]
) -> tuple[dict[_Key, np.ndarray], dict[_Key, int]]:
    """Mean over probes with its replicates (1 + RESAMPLES,), and number of probes, by key.

    ``wanted`` gives for each key indices in ``rows`` and the scores of all ``rows``, NaN where
    there is none; keys without a number are left out. A replicate that drew no case with such a
    probe is NaN.
    """
    unit, sizes = _units(rows)
    weights = _weights(sizes)
    sums = {}
    counts = {}
    for key, (at, scores) in wanted.items():
        at = at[~np.isnan(scores[at])]
        if len(at):
            sums[key] = np.bincount(unit[at], scores[at], minlength=sum(sizes))
            counts[key] = np.bincount(unit[at], minlength=sum(sizes))
    if not sums:
        return {}, {}
    weighted_sums = weights @ np.stack([*sums.values()], axis=1)
    weighted_counts = weights @ np.stack([*counts.values()], axis=1)
    with np.errstate(invalid="ignore"):
        means = weighted_sums / weighted_counts
    totals = {key: int(count.sum()) for key, count in counts.items()}
    return dict(zip(sums, means.T, strict=True)), totals


def _units(rows: np.ndarray) -> tuple[np.ndarray, tuple[int, ...]]:
    """Index of each row's (seed, case) among those of ``rows``, and number of cases per seed."""
    _, seed = np.unique(rows["seed"], return_inverse=True)
    cases = int(rows["case"].max()) + 1
    found, unit = np.unique(seed * cases + rows["case"], return_inverse=True)
    return unit, tuple(np.bincount(found // cases).tolist())


@lru_cache(maxsize=4)
def _weights(sizes: tuple[int, ...]) -> np.ndarray:
    """Weight of each case in each resample, (1 + RESAMPLES, cases of all seeds).

    In the first row every case counts once. ``sizes`` are the numbers of cases of each seed.
    """
    random = np.random.default_rng(SEED)
    seeds = random.multinomial(len(sizes), [1 / len(sizes)] * len(sizes), size=RESAMPLES)
    drawn = [
        random.multinomial(n * times, [1 / n] * n) for n, times in zip(sizes, seeds.T, strict=True)
    ]
    return np.vstack([np.ones((1, sum(sizes))), np.hstack(drawn)])


def _firing_row(group: _Group, metric: str, rows: np.ndarray) -> FiringRow:
    return FiringRow(
        **group,
        metric=metric,
        fired=_mean(rows["experts"] > 0),
        own=_mean(rows["own"]),
        experts=_mean(rows["experts"]),
        n=len(rows),
    )


def _cost_row(group: _Group, rows: np.ndarray, costs: Sequence[str]) -> CostRow:
    """The costs of a group, pooled as they are declared."""
    first_of_edit = distinct(rows, "seed", "window", "case")
    row: CostRow = {**group}
    for name in costs:
        cost = cost_named(name)
        values = rows[name][first_of_edit] if cost.per == "edit" else rows[name]
        values = values[~np.isnan(values)]
        pooled = np.mean if cost.pooled == "mean" else np.max
        row[name] = round(float(pooled(values)), 9) if len(values) else 0.0
    return row


def _mean(values: np.ndarray) -> float:
    return round(float(np.mean(values)), 9)


def _forgetting(table: Columns) -> list[ForgettingRow]:
    """Reliability by the number of later edits, of the protocols that measure forgetting."""
    rows = table.rows
    protocols = [protocol_named(name).measures_forgetting for name in table.texts["protocol"]]
    reliability = [name == "reliability" for name in table.texts["metric"]]
    kept = np.array(protocols, bool)[rows["protocol"]] & np.array(reliability, bool)[rows["metric"]]
    rows = rows[kept]
    found: list[ForgettingRow] = []
    for first in rows[distinct(rows, "data", "protocol", "editor")]:
        names = ("data", "protocol", "editor")
        same = np.logical_and.reduce([rows[name] == first[name] for name in names])
        group = {name: table.named(name, first[name]) for name in names}
        found += _forgetting_rows(group, rows[same])
    return found


def _forgetting_rows(group: Mapping[str, str], rows: np.ndarray) -> list[ForgettingRow]:
    """The rows of one editor, for each class of :data:`LATER` that has a record."""
    member = np.searchsorted(LATER, rows["later"], side="right")
    at = {int(number): np.flatnonzero(member == number) for number in np.unique(member)}
    wanted = {}
    for score in HEADLINES:
        wanted.update({(score.name, number): (at[number], rows[score.name]) for number in at})
    means, totals = _resampled(rows, wanted)
    return [
        ForgettingRow(
            data=group["data"],
            protocol=group["protocol"],
            editor=group["editor"],
            later=_mean(rows["later"][at[number]]),
            score=score,
            **_interval(means[score, number]),
            n=totals[score, number],
        )
        for score, number in sorted(means, key=lambda key: (score_order(key[0]), key[1]))
    ]


def write_summary(
    records: Iterable[Record], folder: str | Path, highlighted: Sequence[str] = ()
) -> Path:
    """Write ``folder/summary.json`` whole or not at all, and return its path.

    Raises :class:`BadInput` where there is no record or an existing file is not a summary,
    :class:`StorageError` where writing fails.
    """
    content = as_json(summary(records, highlighted))
    return write_files(folder, {SUMMARY: content}, allow_unmarked=is_report(folder)) / SUMMARY


def is_report(folder: str | Path) -> bool:
    """Whether the ``summary.json`` in ``folder`` belongs to a report, also an old one."""
    try:
        made = json.loads((resolved_path(folder) / SUMMARY).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(made, dict) and made.keys() >= {"rows", "firing"}


def as_json(made: Summary) -> bytes:
    """The content of ``summary.json``, with a row a line."""
    parts = []
    for name, rows in cast("dict[str, list[object]]", made).items():
        lines = [json.dumps(row, ensure_ascii=False, separators=(",", ":")) for row in rows]
        parts.append(f'"{name}": [\n' + ",\n".join(lines) + "\n]")
    return ("{\n" + ",\n".join(parts) + "\n}\n").encode()
