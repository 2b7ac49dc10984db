"""Tables of a summary: one row per (N, editor), in the form of LiveEdit's Table 1, as Markdown, CSV or plain rows.

For each benchmark: a table a score of the papers' metrics, a table a score of all other metrics, how often experts
fired, and what edits and queries cost.
"""

import csv
import io
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, Literal

from liveedit.report.scores import AVERAGED, SCORES, Summary, metric_order

__all__ = ["Cell", "Kind", "Line", "Table", "csv_text", "label", "markdown", "score_label", "tables", "terminal_rows"]

Kind = Literal["main", "other", "firing", "cost"]
Unit = Literal["percent", "count", "seconds", "bytes"]

SHORT = {
    "reliability": "Rel",
    "text_generality": "T-Gen",
    "image_generality": "I-Gen",
    "text_locality": "T-Loc",
    "image_locality": "I-Loc",
    "average": "Average",
    "image_generality_unseen": "I-Gen unseen",
    "same_image_other_question": "Same image, other question",
    "look_alike_image": "Look-alike image",
}
MAIN = (*AVERAGED, "average")
SCORE_LABELS = {
    "token_accuracy": "Token accuracy (teacher-forced)",
    "exact_match": "Exact match (free generation)",
    "top10_rank": "Ten best tokens kept, by rank",
}
FIRING: dict[str, tuple[str, Unit]] = {
    "fired": ("Probes where an expert fired", "percent"),
    "own": ("Probes where an expert of their own edit fired", "percent"),
    "experts": ("Experts that fired, mean a probe", "count"),
}
COST: dict[str, tuple[str, Unit]] = {
    "edit_seconds": ("Time an edit", "seconds"),
    "edit_bytes": ("Memory an edit", "bytes"),
    "query_seconds": ("Time a query", "seconds"),
}
INTERVAL_NOTE = "Percent, with the 95 % interval of a bootstrap over cases."


def label(metric: str) -> str:
    """The column heading of a metric; one that is not known is headed by its name in words."""
    words = re.sub(r"(\d)hop", r"\1-hop", metric.replace("_", " "))
    return SHORT.get(metric, words[:1].upper() + words[1:])


def score_label(score: str) -> str:
    """The heading of a score."""
    return SCORE_LABELS.get(score, label(score))


@dataclass(frozen=True, slots=True)
class Cell:
    """A number of a table: ``column`` names what it is, ``low`` and ``high`` its interval if it has one.

    ``value`` is ``None`` where nothing was measured. ``best`` marks the highest score among the editors at one N.
    """

    column: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    unit: Unit = "percent"
    best: bool = False

    @property
    def text(self) -> str:
        """The number as it is printed."""
        return "–" if self.value is None else _PRINTED[self.unit](self.value)

    @property
    def interval(self) -> str:
        """The interval in percent, ``95.1–98.9``, or nothing."""
        return "" if self.low is None or self.high is None else f"{100 * self.low:.1f}–{100 * self.high:.1f}"


@dataclass(frozen=True, slots=True)
class Line:
    """One row: an editor after ``edits`` edits."""

    edits: int
    editor: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """A heading, the columns after N and editor as (name, heading), and the rows."""

    kind: Kind
    title: str
    note: str
    data: str
    score: str
    columns: tuple[tuple[str, str], ...]
    lines: tuple[Line, ...]


def tables(summary: Summary) -> list[Table]:
    """All tables: by benchmark the papers' metrics, the other metrics, firing, cost. Empty ones are left out."""
    made = []
    for data in dict.fromkeys(row["data"] for row in summary["rows"]):
        for score in SCORES:
            rows = [row for row in summary["rows"] if row["data"] == data and row["score"] == score]
            main = [row for row in rows if row["metric"] in MAIN]
            other = [row for row in rows if row["metric"] not in MAIN]
            made.append(_score_table("main", score_label(score), data, score, main))
            made.append(_score_table("other", f"{score_label(score)}, other probes", data, score, other))
        made += _firing_tables(data, [row for row in summary["firing"] if row["data"] == data])
        made.append(_cost_table(data, [row for row in summary["cost"] if row["data"] == data]))
    return [table for table in made if table.lines]


def _score_table(kind: Kind, title: str, data: str, score: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    lines = _lines(rows, lambda row: Cell(row["metric"], row["value"], row["low"], row["high"]))
    return Table(kind, title, INTERVAL_NOTE, data, score, _metric_columns(rows), _with_best(lines))


def _firing_tables(data: str, rows: Sequence[Mapping[str, Any]]) -> list[Table]:
    """Editors none of whose experts ever fired have no experts, and no row."""
    with_experts = {row["editor"] for row in rows if row["experts"] > 0}
    rows = [row for row in rows if row["editor"] in with_experts]

    def table(name: str, title: str, unit: Unit) -> Table:
        lines = _lines(rows, lambda row: Cell(row["metric"], row[name], unit=unit))
        note = "Percent of probes." if unit == "percent" else ""
        return Table("firing", title, note, data, name, _metric_columns(rows), lines)

    return [table(name, title, unit) for name, (title, unit) in FIRING.items()]


def _cost_table(data: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    lines = tuple(
        Line(
            row["edits"],
            row["editor"],
            tuple(Cell(name, row[name] or None, unit=unit) for name, (_, unit) in COST.items()),
        )
        for row in rows
    )
    columns = tuple((name, heading) for name, (heading, _) in COST.items())
    return Table("cost", "Time and memory", "Means, as measured in this run.", data, "cost", columns, lines)


def _metric_columns(rows: Sequence[Mapping[str, Any]]) -> tuple[tuple[str, str], ...]:
    return tuple((metric, label(metric)) for metric in sorted({row["metric"] for row in rows}, key=metric_order))


def _lines(rows: Sequence[Mapping[str, Any]], cell: Callable[[Mapping[str, Any]], Cell]) -> tuple[Line, ...]:
    """A line per (edits, editor); where an editor lacks a metric that another has, its cell is empty."""
    columns = [name for name, _ in _metric_columns(rows)]

    def line(edits: int, editor: str, members: Iterable[Mapping[str, Any]]) -> Line:
        cells = {row["metric"]: cell(row) for row in members}
        return Line(edits, editor, tuple(cells.get(column, Cell(column)) for column in columns))

    return tuple(line(*key, members) for key, members in groupby(rows, lambda row: (row["edits"], row["editor"])))


def _with_best(lines: Sequence[Line]) -> tuple[Line, ...]:
    """Mark the highest value of each column at each N, where several editors compete."""
    marked: list[Line] = []
    for _, group in groupby(lines, lambda line: line.edits):
        rivals = list(group)
        columns = zip(*(line.cells for line in rivals), strict=True)
        cells = zip(*map(_best_of, columns), strict=True) if len(rivals) > 1 else (line.cells for line in rivals)
        marked += [replace(line, cells=tuple(row)) for line, row in zip(rivals, cells, strict=True)]
    return tuple(marked)


def _best_of(column: Sequence[Cell]) -> list[Cell]:
    top = max((cell.value for cell in column if cell.value is not None), default=None)
    return [replace(cell, best=cell.value is not None and cell.value == top) for cell in column]


def markdown(made: Iterable[Table]) -> str:
    """The tables as one Markdown text, a section a benchmark; the best of several editors is bold."""
    parts = ["# Results\n"]
    for data, group in groupby(made, lambda table: table.data):
        parts.append(f"## {_escaped(data)}\n")
        parts += [_markdown_table(table) for table in group]
    return "\n".join(parts)


def _markdown_table(table: Table) -> str:
    head = ["N", "Editor", *(heading for _, heading in table.columns)]
    rule = ["---:", ":---", *("---:" for _ in table.columns)]
    body = [[f"{line.edits:,}", line.editor, *map(_markdown_cell, line.cells)] for line in table.lines]
    rows = ["| " + " | ".join(map(_escaped, row)) + " |" for row in (head, rule, *body)]
    return "\n".join([f"### {table.title}\n", *([f"{table.note}\n"] if table.note else []), *rows, ""])


def _markdown_cell(cell: Cell) -> str:
    text = f"**{cell.text}**" if cell.best else cell.text
    return f"{text} [{cell.interval}]" if cell.interval else text


def _escaped(text: str) -> str:
    """``text`` as it can stand in a cell of a Markdown table."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def csv_text(summary: Summary) -> str:
    """All numbers as one CSV sheet: a row per (data, score, N, editor), a column a metric, scores in percent.

    Each score has ``low`` and ``high`` beside it. The rows ``fired``, ``own`` (percent) and ``experts`` tell of firing,
    the rows ``cost`` of seconds and bytes, each in columns of their own names.
    """
    sheet: dict[tuple[str, str, int, str], dict[str, str]] = {}
    for table in tables(summary):
        for line in table.lines:
            key = table.data, table.score, line.edits, line.editor
            names = dict(zip(("data", "score", "edits", "editor"), map(str, key), strict=True))
            sheet.setdefault(key, names).update(_csv_numbers(line, intervals=table.kind in ("main", "other")))
    out = io.StringIO()
    writer = csv.DictWriter(
        out, list(dict.fromkeys(name for row in sheet.values() for name in row)), lineterminator="\n"
    )
    writer.writeheader()
    writer.writerows(sheet.values())
    return out.getvalue()


def _csv_numbers(line: Line, *, intervals: bool) -> dict[str, str]:
    numbers = {}
    for cell in line.cells:
        numbers[cell.column] = _csv_number(cell.value, cell.unit)
        if intervals:
            numbers[f"{cell.column}_low"] = _csv_number(cell.low, cell.unit)
            numbers[f"{cell.column}_high"] = _csv_number(cell.high, cell.unit)
    return numbers


def _csv_number(value: float | None, unit: Unit) -> str:
    return "" if value is None else f"{100 * value:.2f}" if unit == "percent" else f"{value:.6g}"


def terminal_rows(table: Table) -> tuple[list[str], list[list[str]]]:
    """The heading and the rows as plain text; in the main tables the interval, in whole percent, stands below."""
    head = ["N", "Editor", *(heading for _, heading in table.columns)]
    cell = _terminal_cell if table.kind == "main" else lambda cell: cell.text
    return head, [[f"{line.edits:,}", line.editor, *map(cell, line.cells)] for line in table.lines]


def _terminal_cell(cell: Cell) -> str:
    """``97.3``, and ``95–99`` on a second line."""
    return (
        cell.text
        if cell.low is None or cell.high is None
        else f"{cell.text}\n{100 * cell.low:.0f}–{100 * cell.high:.0f}"
    )


def _scaled(value: float, steps: Sequence[tuple[float, str]]) -> str:
    """``value`` in the largest unit that it fills, with three significant digits."""
    size, unit = next((step for step in steps if value >= step[0]), steps[-1])
    number = value / size
    return f"{number:.0f} {unit}" if number >= 100 else f"{number:.3g} {unit}"


_PRINTED: dict[Unit, Callable[[float], str]] = {
    "percent": lambda value: f"{100 * value:.1f}",
    "count": lambda value: f"{value:.2f}",
    "seconds": lambda value: _scaled(value, ((1, "s"), (1e-3, "ms"), (1e-6, "µs"))),
    "bytes": lambda value: _scaled(value, ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1, "B"))),
}
