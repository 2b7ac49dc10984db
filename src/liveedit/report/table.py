"""Tables of a summary: one row per (N, editor), as Markdown, CSV or plain rows.

For each benchmark and protocol: a table a score of the papers' metrics, a table a score of all
other metrics, how often experts fired, what edits and queries cost, and how well early edits are
remembered.
"""

import csv
import io
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, Literal

from liveedit.report.scores import AVERAGED, Summary, metric_order

__all__ = [
    "MAIN",
    "MEANING",
    "SCORE_MEANING",
    "Cell",
    "Kind",
    "Line",
    "Table",
    "best_marked",
    "csv_text",
    "label",
    "markdown",
    "markdown_table",
    "score_label",
    "setting_label",
    "settings",
    "size_heading",
    "tables",
    "terminal_rows",
    "titled",
]

Kind = Literal["main", "other", "firing", "cost", "forgetting"]
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
MEANING = {
    "reliability": "Reliability: the edit's own question about its own image gets the new answer.",
    "text_generality": "Text generality: the question in other words gets the new answer.",
    "image_generality": "Image generality: the question about another image of the same thing gets the new answer.",
    "text_locality": "Text locality: an unrelated question without an image is answered as before.",
    "image_locality": "Image locality: an unrelated question about an unrelated image is answered as before.",
    "average": "The mean of these five.",
    "image_generality_unseen": "Image generality on an image of a kind that no editor was trained on.",
    "look_alike_image": "The edit's question about an image that looks alike is answered as before.",
    "same_image_other_question": "Another question about the edit's image is answered as before.",
    "question_alone": "The edit's question without its image is answered as before.",
    "image_alone": "The edit's image without its question is described as before.",
    "portability_1hop": "Portability: what follows from the edit, one fact further, and so on, is answered anew.",
}
"""What is asked about each metric, and what an answer should be."""
SCORE_LABELS = {
    "token_accuracy": "Token accuracy (teacher-forced)",
    "exact_match": "Exact match (free generation)",
    "contains": "Target contained (free generation)",
    "top1_kept": "Best token kept, at all positions",
    "top10_rank": "Ten best tokens kept, by rank, at all positions",
}
SCORE_MEANING = {
    "token_accuracy": "The share of the wanted answer's tokens that are the likeliest, each after the wanted ones.",
    "exact_match": "Whether the model, left to write by itself, writes the wanted answer.",
}
"""How the papers' two scores are counted."""
FIRING: dict[str, tuple[str, Unit]] = {
    "fired": ("Probes where an expert fired", "percent"),
    "own": ("Probes where an expert of their own edit fired", "percent"),
    "experts": ("Experts that fired, mean a probe", "count"),
}
COST: dict[str, tuple[str, Unit]] = {
    "edit_seconds": ("Time an edit", "seconds"),
    "edit_bytes": ("Memory an edit", "bytes"),
    "query_seconds": ("Time a query", "seconds"),
    "peak_bytes": ("Peak memory", "bytes"),
}
REMEMBERED = {"token_accuracy": "Rel, token accuracy", "exact_match": "Rel, exact match"}
INTERVAL_NOTE = "Percent, with the 95 % interval of a bootstrap over cases"


def label(metric: str) -> str:
    """The column heading of a metric; one that is not known is headed by its name in words."""
    words = re.sub(r"(\d)hop", r"\1-hop", metric.replace("_", " "))
    return SHORT.get(metric, words[:1].upper() + words[1:])


def score_label(score: str) -> str:
    """The heading of a score."""
    return SCORE_LABELS.get(score, label(score))


@dataclass(frozen=True, slots=True)
class Cell:
    """A number of a table: ``column`` names what it is, ``low`` and ``high`` its interval if it has
    one.

    ``value`` is ``None`` where nothing was measured. ``best`` marks the highest score among the
    editors at one N.
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
        return (
            ""
            if self.low is None or self.high is None
            else f"{100 * self.low:.1f}–{100 * self.high:.1f}"
        )

    @property
    def spread(self) -> float | None:
        """Half the width of the interval."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2


@dataclass(frozen=True, slots=True)
class Line:
    """One row: an editor after ``edits`` edits."""

    edits: int
    editor: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """A heading, the columns after N and editor as (name, heading), and the rows. ``size`` is the
    heading of N.
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
    """All tables: by benchmark and protocol the papers' metrics, the others, firing, cost,
    forgetting; no empty one.
    """
    made = []
    for data, protocol in settings(summary):
        scores, firing = (
            _own(summary["rows"], data, protocol),
            _own(summary["firing"], data, protocol),
        )
        for score in SCORE_LABELS:
            rows = [row for row in scores if row["score"] == score]
            made.append(
                _score_table(
                    "main", data, protocol, score, [row for row in rows if row["metric"] in MAIN]
                )
            )
            made.append(
                _score_table(
                    "other", data, protocol, score, [r for r in rows if r["metric"] not in MAIN]
                )
            )
        made += _firing_tables(data, protocol, firing)
        made.append(_cost_table(data, protocol, _own(summary["cost"], data, protocol)))
        made.append(_forgetting_table(data, protocol, _own(summary["forgetting"], data, protocol)))
    return [table for table in made if table.lines]


def _own(rows: Iterable[Mapping[str, Any]], data: str, protocol: str) -> list[Mapping[str, Any]]:
    return [row for row in rows if (row["data"], row["protocol"]) == (data, protocol)]


def size_heading(protocol: str) -> str:
    """What heads the column of N."""
    return "Gap" if protocol == "gap" else "N"


def setting_label(protocol: str, edits: int) -> str:
    """What tells one N of a protocol from all others, in words."""
    return f"{edits:,}" if protocol == "windows" else f"{protocol} {edits:,}"


def titled(title: str, protocol: str) -> str:
    """``title``, with the protocol if it is not LiveEdit's windows."""
    return title if protocol == "windows" else f"{title}, {protocol}"


def _score_table(
    kind: Kind, data: str, protocol: str, score: str, rows: Sequence[Mapping[str, Any]]
) -> Table:
    lines = _lines(rows, lambda row: Cell(row["metric"], row["value"], row["low"], row["high"]))
    title = titled(score_label(score), protocol) + (", other probes" if kind == "other" else "")
    seeds = max((row["seeds"] for row in rows), default=1)
    note = f"{INTERVAL_NOTE}{f' of up to {seeds} seeds' if seeds > 1 else ''}."
    return Table(
        kind,
        title,
        note,
        data,
        protocol,
        score,
        _metric_columns(rows),
        best_marked(lines),
        size_heading(protocol),
    )


def _firing_tables(data: str, protocol: str, rows: Sequence[Mapping[str, Any]]) -> list[Table]:
    """Editors none of whose experts ever fired have no experts, and no row."""
    with_experts = {row["editor"] for row in rows if row["experts"] > 0}
    rows = [row for row in rows if row["editor"] in with_experts]

    def table(name: str, title: str, unit: Unit) -> Table:
        lines = _lines(rows, lambda row: Cell(row["metric"], row[name], unit=unit))
        note = "Percent of probes." if unit == "percent" else ""
        columns, title = _metric_columns(rows), titled(title, protocol)
        return Table(
            "firing", title, note, data, protocol, name, columns, lines, size_heading(protocol)
        )

    return [table(name, title, unit) for name, (title, unit) in FIRING.items()]


def _cost_table(data: str, protocol: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    shown = {
        name: heading
        for name, heading in COST.items()
        if name != "peak_bytes" or any(r[name] for r in rows)
    }
    lines = tuple(
        Line(
            row["edits"],
            row["editor"],
            tuple(Cell(name, row[name] or None, unit=unit) for name, (_, unit) in shown.items()),
        )
        for row in rows
    )
    columns = tuple((name, heading) for name, (heading, _) in shown.items())
    title, note = titled("Time and memory", protocol), "Means, as measured in this run."
    return Table(
        "cost", title, note, data, protocol, "cost", columns, lines, size_heading(protocol)
    )


def _forgetting_table(data: str, protocol: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    """A line per (edits made later, editor), a column a score."""
    held: dict[tuple[int, str], dict[str, Cell]] = {}
    for row in sorted(rows, key=lambda row: float(row["later"])):
        cell = Cell(row["score"], row["value"], row["low"], row["high"])
        held.setdefault((round(row["later"]), row["editor"]), {})[row["score"]] = cell
    lines = [
        Line(*key, tuple(cells.get(name, Cell(name)) for name in REMEMBERED))
        for key, cells in held.items()
    ]
    title, columns = titled("Reliability after later edits", protocol), tuple(REMEMBERED.items())
    note = f"{INTERVAL_NOTE}."
    return Table(
        "forgetting",
        title,
        note,
        data,
        protocol,
        "forgetting",
        columns,
        best_marked(lines),
        "Later edits",
    )


def _metric_columns(rows: Sequence[Mapping[str, Any]]) -> tuple[tuple[str, str], ...]:
    return tuple(
        (metric, label(metric))
        for metric in sorted({row["metric"] for row in rows}, key=metric_order)
    )


def _lines(
    rows: Sequence[Mapping[str, Any]], cell: Callable[[Mapping[str, Any]], Cell]
) -> tuple[Line, ...]:
    """A line per (edits, editor); where an editor lacks a metric that another has, its cell is
    empty.
    """
    columns = [name for name, _ in _metric_columns(rows)]

    def line(edits: int, editor: str, members: Iterable[Mapping[str, Any]]) -> Line:
        cells = {row["metric"]: cell(row) for row in members}
        return Line(edits, editor, tuple(cells.get(column, Cell(column)) for column in columns))

    return tuple(
        line(*key, members)
        for key, members in groupby(rows, lambda row: (row["edits"], row["editor"]))
    )


def best_marked(lines: Sequence[Line]) -> tuple[Line, ...]:
    """Mark the highest value of each column at each N, where several editors compete."""
    marked: list[Line] = []
    for _, group in groupby(lines, lambda line: line.edits):
        rivals = list(group)
        columns = zip(*(line.cells for line in rivals), strict=True)
        cells = (
            zip(*map(_best_of, columns), strict=True)
            if len(rivals) > 1
            else (line.cells for line in rivals)
        )
        marked += [replace(line, cells=tuple(row)) for line, row in zip(rivals, cells, strict=True)]
    return tuple(marked)


def _best_of(column: Sequence[Cell]) -> list[Cell]:
    top = max((cell.value for cell in column if cell.value is not None), default=None)
    return [replace(cell, best=cell.value is not None and cell.value == top) for cell in column]


def markdown(made: Iterable[Table], failures: Iterable[str] = ()) -> str:
    """The tables as one Markdown text, a section a benchmark; the best of several editors is bold.

    ``failures`` says which editors were not tested to the end.
    """
    parts = ["# Results\n", *(f"Not tested to the end: {_escaped(line)}\n" for line in failures)]
    for data, group in groupby(made, lambda table: table.data):
        parts.append(f"## {_escaped(data)}\n")
        parts += [markdown_table(table) for table in group]
    return "\n".join(parts)


def markdown_table(table: Table, cell_text: Callable[[Cell], str] | None = None) -> str:
    """One table under its title; ``cell_text`` writes a cell, if not as value and interval."""
    head = [table.size, "Editor", *(heading for _, heading in table.columns)]
    rule = ["---:", ":---", *("---:" for _ in table.columns)]
    body = [
        [f"{line.edits:,}", line.editor, *map(cell_text or _markdown_cell, line.cells)]
        for line in table.lines
    ]
    rows = ["| " + " | ".join(map(_escaped, row)) + " |" for row in (head, rule, *body)]
    return "\n".join(
        [f"### {table.title}\n", *([f"{table.note}\n"] if table.note else []), *rows, ""]
    )


def _markdown_cell(cell: Cell) -> str:
    text = f"**{cell.text}**" if cell.best else cell.text
    return f"{text} [{cell.interval}]" if cell.interval else text


def _escaped(text: str) -> str:
    """``text`` as it can stand in a cell of a Markdown table."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def csv_text(made: Iterable[Table]) -> str:
    """The tables as one CSV sheet: a row per (data, protocol, score, N, editor), a column a metric,
    scores in percent.

    Each score has ``low`` and ``high`` beside it. The rows ``fired``, ``own`` (percent) and
    ``experts`` tell of firing, ``cost`` of seconds and bytes, ``forgetting`` of reliability, where
    N is the number of later edits, each in columns of their own names.
    """
    sheet: dict[tuple[str, str, str, int, str], dict[str, str]] = {}
    for table in made:
        for line in table.lines:
            key = table.data, table.protocol, table.score, line.edits, line.editor
            names = dict(
                zip(("data", "protocol", "score", "edits", "editor"), map(str, key), strict=True)
            )
            sheet.setdefault(key, names).update(
                _csv_numbers(line, intervals=table.kind in ("main", "other", "forgetting"))
            )
    out = io.StringIO()
    writer = csv.DictWriter(
        out,
        list(dict.fromkeys(name for row in sheet.values() for name in row)),
        lineterminator="\n",
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
    """The heading and the rows as plain text; in the main tables the interval, in whole percent,
    stands below.
    """
    head = [table.size, "Editor", *(heading for _, heading in table.columns)]
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
