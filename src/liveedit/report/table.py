"""Tables of a summary: one row per (N, editor), as Markdown, CSV or plain rows.

For each benchmark and protocol there are, for each score, one table of the papers' metrics and one
of all other metrics; then how often experts fired, what edits and queries cost, and the reliability
after later edits.
"""

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, Literal

from liveedit.measures.costs import Cost, cost_named, cost_names
from liveedit.measures.metrics import AVERAGE, AVERAGED, label, metric_order
from liveedit.measures.protocols import protocol_named, titled
from liveedit.measures.scores import HEADLINES, score_heading, shown_scores
from liveedit.measures.units import Unit, printed
from liveedit.report.scores import Summary

__all__ = [
    "MAIN",
    "Cell",
    "Kind",
    "Line",
    "Table",
    "best_marked",
    "csv_text",
    "markdown",
    "markdown_table",
    "settings",
    "tables",
    "terminal_rows",
]

Kind = Literal["main", "other", "firing", "cost", "forgetting"]
Row = Mapping[str, Any]
"""A row of a summary."""

MAIN = (*AVERAGED, AVERAGE)
"""Columns of the main tables: the metrics of LiveEdit's tables and their average."""
FIRING: Mapping[str, tuple[str, Unit]] = {
    "fired": ("Probes where an expert fired", "percent"),
    "own": ("Probes where an expert of their own edit fired", "percent"),
    "experts": ("Experts that fired, mean per probe", "count"),
}
"""Title and unit of each table of firing."""
REMEMBERED = {score.name: f"Rel, {score.short}" for score in HEADLINES}
"""Headings of the table of forgetting."""
GROUP = ("data", "protocol", "edits", "editor")
"""Keys of a row of costs that are not costs."""
INTERVAL_NOTE = "Percent, with the 95 % interval of a bootstrap over cases"


@dataclass(frozen=True, slots=True)
class Cell:
    """A number of a table.

    Arguments:
        column: Name of the column.
        value: The number; ``None`` where nothing was measured.
        low: Lower end of its interval, if it has one.
        high: Upper end of its interval, if it has one.
        unit: Unit of the three.
        best: Whether it is the highest score among several editors at one N.
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
        return "–" if self.value is None else printed(self.value, self.unit)

    @property
    def interval(self) -> str:
        """The interval in percent, ``95.1–98.9``, or nothing."""
        if self.low is None or self.high is None:
            return ""
        return f"{100 * self.low:.1f}–{100 * self.high:.1f}"

    @property
    def spread(self) -> float | None:
        """Half the width of the interval."""
        if self.low is None or self.high is None:
            return None
        return (self.high - self.low) / 2


@dataclass(frozen=True, slots=True)
class Line:
    """A row of a table: an editor at N = ``edits``."""

    edits: int
    editor: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """A table with a row per (N, editor).

    Arguments:
        kind: Kind of its numbers; ``main`` and ``other`` are scores.
        title: Its title.
        note: Remark below the title.
        data: Name of the benchmark.
        protocol: Name of the protocol.
        score: Entry of the column ``score`` in the CSV file: a score, or "fired", "cost" ….
        columns: (name, heading) of the columns after N and editor.
        lines: The rows.
        size: Heading of N.
    """

    kind: Kind
    title: str
    note: str
    data: str
    protocol: str
    score: str
    columns: tuple[tuple[str, str], ...]
    lines: tuple[Line, ...]
    size: str = "N"


def settings(summary: Summary) -> list[tuple[str, str]]:
    """Each (benchmark, protocol) of the summary, in its order."""
    return list(dict.fromkeys((row["data"], row["protocol"]) for row in summary["rows"]))


def tables(summary: Summary) -> list[Table]:
    """All tables but empty ones.

    By benchmark and protocol: the papers' metrics, the other metrics, firing, costs, forgetting.
    """
    found: list[Table] = []
    for data, protocol in settings(summary):
        maker = _TableMaker(data, protocol)
        found += maker.scores(summary["rows"])
        found += maker.firing(summary["firing"])
        found.append(maker.cost(summary["cost"]))
        found.append(maker.forgetting(summary["forgetting"]))
    return [table for table in found if table.lines]


@dataclass(frozen=True, slots=True)
class _TableMaker:
    """Makes the tables of one benchmark and protocol, from the rows of all."""

    data: str
    protocol: str

    def scores(self, rows: Iterable[Row]) -> list[Table]:
        """For each score a table of the papers' metrics and one of the others."""
        own = self._own(rows)
        found = []
        for score in shown_scores(row["score"] for row in own):
            scored = [row for row in own if row["score"] == score]
            main = [row for row in scored if row["metric"] in MAIN]
            other = [row for row in scored if row["metric"] not in MAIN]
            found.append(self._score("main", score, score_heading(score), main))
            found.append(self._score("other", score, score_heading(score), other))
        return found

    def _score(self, kind: Kind, score: str, heading: str, rows: Sequence[Row]) -> Table:
        seeds = max((row["seeds"] for row in rows), default=1)
        over = f" of up to {seeds} seeds" if seeds > 1 else ""
        suffix = ", other probes" if kind == "other" else ""
        return self._table(
            kind,
            score,
            titled(heading, self.protocol) + suffix,
            _metric_columns(rows),
            best_marked(_lines(rows, _score_cell)),
            note=f"{INTERVAL_NOTE}{over}.",
        )

    def firing(self, rows: Iterable[Row]) -> list[Table]:
        """Tables of how often experts fired; an editor whose experts never fired has no row."""
        own = self._own(rows)
        with_experts = {row["editor"] for row in own if row["experts"] > 0}
        own = [row for row in own if row["editor"] in with_experts]
        return [self._firing(name, title, unit, own) for name, (title, unit) in FIRING.items()]

    def _firing(self, name: str, title: str, unit: Unit, rows: Sequence[Row]) -> Table:
        def cell(row: Row) -> Cell:
            return Cell(row["metric"], row[name], unit=unit)

        return self._table(
            "firing",
            name,
            titled(title, self.protocol),
            _metric_columns(rows),
            _lines(rows, cell),
            note="Percent of probes." if unit == "percent" else "",
        )

    def cost(self, rows: Iterable[Row]) -> Table:
        """One row per (N, editor), one column per cost."""
        own = self._own(rows)
        costs = _costs(own)
        lines = [
            Line(row["edits"], row["editor"], tuple(_cost_cell(row, cost) for cost in costs))
            for row in own
        ]
        return self._table(
            "cost",
            "cost",
            titled("Time and memory", self.protocol),
            tuple((cost.name, cost.heading) for cost in costs),
            tuple(lines),
            note="Means as measured in this run; of peak memory the largest value.",
        )

    def forgetting(self, rows: Iterable[Row]) -> Table:
        """One row per (number of later edits, editor), one column per score."""
        cells_of: dict[tuple[int, str], dict[str, Cell]] = {}
        for row in sorted(self._own(rows), key=lambda row: float(row["later"])):
            cell = Cell(row["score"], row["value"], row["low"], row["high"])
            cells_of.setdefault((round(row["later"]), row["editor"]), {})[row["score"]] = cell
        lines = []
        for (later, editor), cells in cells_of.items():
            line = tuple(cells.get(name, Cell(name)) for name in REMEMBERED)
            lines.append(Line(later, editor, line))
        return self._table(
            "forgetting",
            "forgetting",
            titled("Reliability after later edits", self.protocol),
            tuple(REMEMBERED.items()),
            best_marked(lines),
            note=f"{INTERVAL_NOTE}.",
            size="Later edits",
        )

    def _own(self, rows: Iterable[Row]) -> list[Row]:
        """The rows of this benchmark and protocol."""
        own = (self.data, self.protocol)
        return [row for row in rows if (row["data"], row["protocol"]) == own]

    def _table(
        self,
        kind: Kind,
        score: str,
        title: str,
        columns: tuple[tuple[str, str], ...],
        lines: tuple[Line, ...],
        *,
        note: str,
        size: str = "",
    ) -> Table:
        return Table(
            kind=kind,
            title=title,
            note=note,
            data=self.data,
            protocol=self.protocol,
            score=score,
            columns=columns,
            lines=lines,
            size=size or protocol_named(self.protocol).size_heading,
        )


def _score_cell(row: Row) -> Cell:
    return Cell(row["metric"], row["value"], row["low"], row["high"])


def _costs(rows: Sequence[Row]) -> list[Cost]:
    """The costs that have a column."""
    names = set[str]()
    for row in rows:
        names |= row.keys() - set(GROUP)
    costs = map(cost_named, cost_names(names))
    return [cost for cost in costs if not cost.optional or any(row.get(cost.name) for row in rows)]


def _cost_cell(row: Row, cost: Cost) -> Cell:
    """The cost of a row; 0 means that it was not measured."""
    return Cell(cost.name, row.get(cost.name) or None, unit=cost.unit)


def _metric_columns(rows: Sequence[Row]) -> tuple[tuple[str, str], ...]:
    metrics = sorted({row["metric"] for row in rows}, key=metric_order)
    return tuple((metric, label(metric)) for metric in metrics)


def _lines(rows: Sequence[Row], cell: Callable[[Row], Cell]) -> tuple[Line, ...]:
    """A line per (N, editor); a metric that an editor lacks and another has is an empty cell."""
    columns = [name for name, _ in _metric_columns(rows)]
    found = []
    for (edits, editor), members in groupby(rows, lambda row: (row["edits"], row["editor"])):
        cells = {row["metric"]: cell(row) for row in members}
        line = tuple(cells.get(column, Cell(column)) for column in columns)
        found.append(Line(edits, editor, line))
    return tuple(found)


def best_marked(lines: Sequence[Line]) -> tuple[Line, ...]:
    """Mark the highest value of each column at each N, where there are several editors."""
    marked: list[Line] = []
    for _, group in groupby(lines, lambda line: line.edits):
        competing = list(group)
        if len(competing) < 2:
            marked += competing
            continue
        columns = zip(*(line.cells for line in competing), strict=True)
        rows = zip(*map(_best_of, columns), strict=True)
        marked += [replace(line, cells=cells) for line, cells in zip(competing, rows, strict=True)]
    return tuple(marked)


def _best_of(column: Sequence[Cell]) -> list[Cell]:
    top = max((cell.value for cell in column if cell.value is not None), default=None)
    return [replace(cell, best=cell.value is not None and cell.value == top) for cell in column]


# Markdown


def markdown(made: Iterable[Table], failures: Iterable[str] = ()) -> str:
    """The tables as one Markdown text, one section per benchmark; the best editor is bold.

    ``failures`` are lines about editors that were not evaluated to the end.
    """
    parts = ["# Results\n", *(f"Not evaluated to the end: {_escaped(line)}\n" for line in failures)]
    for data, group in groupby(made, lambda table: table.data):
        parts.append(f"## {_escaped(data)}\n")
        parts += [markdown_table(table) for table in group]
    return "\n".join(parts)


def markdown_table(table: Table, cell_text: Callable[[Cell], str] | None = None) -> str:
    """One table under its title; ``cell_text`` formats a cell, by default value and interval."""
    written = cell_text or _markdown_cell
    rule = ["---:", ":---", *("---:" for _ in table.columns)]
    rows = [_head(table), rule]
    for line in table.lines:
        rows.append([f"{line.edits:,}", line.editor, *map(written, line.cells)])
    text = ["| " + " | ".join(map(_escaped, row)) + " |" for row in rows]
    note = [f"{table.note}\n"] if table.note else []
    return "\n".join([f"### {table.title}\n", *note, *text, ""])


def _head(table: Table) -> list[str]:
    """The headings of all columns."""
    return [table.size, "Editor", *(heading for _, heading in table.columns)]


def _markdown_cell(cell: Cell) -> str:
    text = f"**{cell.text}**" if cell.best else cell.text
    return f"{text} [{cell.interval}]" if cell.interval else text


def _escaped(text: str) -> str:
    """``text`` escaped for a cell of a Markdown table."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


# CSV


def csv_text(made: Iterable[Table]) -> str:
    """The tables as one CSV sheet: a row per (data, protocol, score, N, editor), scores in percent.

    There is one column per metric, with ``low`` and ``high`` beside it. The column ``score`` also
    marks the other rows: ``fired``, ``own`` (both in percent) and ``experts`` for firing, ``cost``
    for costs, and ``forgetting`` for reliability, where N is the number of later edits. Costs and
    reliability have their own columns.
    """
    sheet: dict[tuple[str, str, str, int, str], dict[str, str]] = {}
    for table in made:
        for line in table.lines:
            key = table.data, table.protocol, table.score, line.edits, line.editor
            intervals = table.kind in ("main", "other", "forgetting")
            row = sheet.setdefault(key, _csv_key(*key))
            row.update(_csv_numbers(line, intervals=intervals))
    names: dict[str, None] = {}
    for row in sheet.values():
        names |= dict.fromkeys(row)
    out = io.StringIO()
    writer = csv.DictWriter(out, list(names), lineterminator="\n")
    writer.writeheader()
    writer.writerows(sheet.values())
    return out.getvalue()


def _csv_key(data: str, protocol: str, score: str, edits: int, editor: str) -> dict[str, str]:
    return {
        "data": data,
        "protocol": protocol,
        "score": score,
        "edits": str(edits),
        "editor": editor,
    }


def _csv_numbers(line: Line, *, intervals: bool) -> dict[str, str]:
    numbers = {}
    for cell in line.cells:
        numbers[cell.column] = _csv_number(cell.value, cell.unit)
        if intervals:
            numbers[f"{cell.column}_low"] = _csv_number(cell.low, cell.unit)
            numbers[f"{cell.column}_high"] = _csv_number(cell.high, cell.unit)
    return numbers


def _csv_number(value: float | None, unit: Unit) -> str:
    if value is None:
        return ""
    return f"{100 * value:.2f}" if unit == "percent" else f"{value:.6g}"


# Terminal


def terminal_rows(table: Table) -> tuple[list[str], list[list[str]]]:
    """Headings and rows as plain text; main tables have the interval in a second line of a cell."""
    written = _terminal_cell if table.kind == "main" else _plain_cell
    rows = [[f"{line.edits:,}", line.editor, *map(written, line.cells)] for line in table.lines]
    return _head(table), rows


def _plain_cell(cell: Cell) -> str:
    return cell.text


def _terminal_cell(cell: Cell) -> str:
    """``97.3``, and ``95–99`` on a second line."""
    if cell.low is None or cell.high is None:
        return cell.text
    return f"{cell.text}\n{100 * cell.low:.0f}–{100 * cell.high:.0f}"
