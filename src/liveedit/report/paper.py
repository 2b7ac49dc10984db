"""Tables in the form of the papers' tables, for comparison with these: Markdown, CSV and LaTeX.

- LiveEdit's Table 1: a row per (edits, editor); Rel, T-Gen, I-Gen (in the paper M-Gen), T-Loc,
  I-Loc (in the paper M-Loc), Average.
- VLKEB's Table 2: one row per editor, one table per N (in the paper one edit); Rel, T-Gen, I-Gen,
  T-Loc, I-Loc, Port.

Each exists in two scores, token accuracy and exact match. The papers define locality differently,
and each table uses its own paper's definition. The first compares the best token at the answer's
positions. The second compares, at all positions, the best token for text and the ten best by rank
for images. ± is half the width of the 95 % interval; LiveEdit's paper does not define its own. The
best of several editors at one N is bold.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import NamedTuple

from liveedit.measures.metrics import AVERAGE, AVERAGED, ONE_HOP, label
from liveedit.measures.protocols import protocol_named, titled
from liveedit.measures.scores import (
    HEADLINES,
    TEN_BEST_KEPT,
    TOKEN_ACCURACY,
    TOP1_KEPT,
    Score,
)
from liveedit.report.scores import ScoreRow, Summary
from liveedit.report.table import (
    Cell,
    Line,
    Table,
    best_marked,
    csv_text,
    markdown_table,
    settings,
)

__all__ = ["latex", "liveedit_tables", "paper_files", "vlkeb_tables"]

VLKEB_LOCALITY = {"text_locality": TOP1_KEPT.name, "image_locality": TEN_BEST_KEPT.name}
"""Scores of locality in VLKEB's table of token accuracy."""
VLKEB_NOTE = "Locality at all positions: the best token (T-Loc), the ten best by rank (I-Loc)."


class _Column(NamedTuple):
    """A column of a paper's table."""

    metric: str
    score: str
    heading: str


def liveedit_tables(summary: Summary, score: Score) -> list[Table]:
    """LiveEdit's Table 1 in one score, for each benchmark and protocol."""
    columns = [_Column(metric, score.name, label(metric)) for metric in (*AVERAGED, AVERAGE)]
    note = f"Locality: {score.locality}."
    return _tables(summary, score, columns, note)


def vlkeb_tables(summary: Summary, score: Score) -> list[Table]:
    """VLKEB's Table 2 in one score, for each benchmark, protocol and N."""
    locality = VLKEB_LOCALITY if score is TOKEN_ACCURACY else {}
    columns = [
        _Column(metric, locality.get(metric, score.name), label(metric)) for metric in AVERAGED
    ]
    columns.append(_Column(ONE_HOP, score.name, "Port"))
    note = VLKEB_NOTE if locality else f"Locality: {score.locality}."
    found = []
    for whole in _tables(summary, score, columns, f"{note} Port: one hop."):
        for edits, lines in groupby(whole.lines, lambda line: line.edits):
            title = f"{whole.title}, {whole.size} = {edits:,}"
            found.append(replace(whole, title=title, lines=tuple(lines)))
    return found


def _tables(summary: Summary, score: Score, columns: Sequence[_Column], note: str) -> list[Table]:
    """A table with these columns for each benchmark and protocol that has a number in one."""
    found = [
        _table(summary, data, protocol, score, columns, note)
        for data, protocol in settings(summary)
    ]
    return [table for table in found if table.lines]


_Numbers = Mapping[tuple[int, str, str, str], ScoreRow]
"""Rows by N, editor, metric and score."""


def _table(
    summary: Summary,
    data: str,
    protocol: str,
    score: Score,
    columns: Sequence[_Column],
    note: str,
) -> Table:
    """A line per (N, editor) that has a number in one of the columns."""
    numbers = {
        (row["edits"], row["editor"], row["metric"], row["score"]): row
        for row in summary["rows"]
        if (row["data"], row["protocol"]) == (data, protocol)
    }
    lines = []
    for edits, editor in dict.fromkeys(key[:2] for key in numbers):
        cells = tuple(_cell(numbers, edits, editor, column, score) for column in columns)
        if any(cell.value is not None for cell in cells):
            lines.append(Line(edits, editor, cells))
    return Table(
        kind="main",
        title=f"{data}: {titled(score.heading, protocol)}",
        note=f"Percent, ± half the width of the 95 % interval. {note}",
        data=data,
        protocol=protocol,
        score=score.name,
        columns=tuple((_column_name(column, score), column.heading) for column in columns),
        lines=best_marked(lines),
        size=protocol_named(protocol).size_heading,
    )


def _column_name(column: _Column, score: Score) -> str:
    """Name of a column; if its score is not that of the table, the name includes the score."""
    return column.metric if column.score == score.name else f"{column.metric}_{column.score}"


def _cell(numbers: _Numbers, edits: int, editor: str, column: _Column, score: Score) -> Cell:
    name = _column_name(column, score)
    row = numbers.get((edits, editor, column.metric, column.score))
    return Cell(name, row["value"], row["low"], row["high"]) if row else Cell(name)


def paper_files(summary: Summary) -> dict[str, bytes]:
    """The content of each file by its name: two papers, two scores, three formats."""
    papers: Mapping[str, Callable[[Summary, Score], list[Table]]] = {
        "liveedit-table1": liveedit_tables,
        "vlkeb-table2": vlkeb_tables,
    }
    contents = {}
    for paper, tables_of in papers.items():
        for score in HEADLINES:
            made = tables_of(summary, score)
            name = f"{paper}-{score.name.replace('_', '-')}"
            texts = [markdown_table(table, _plus_minus) for table in made]
            contents[f"{name}.md"] = "\n".join(texts).encode()
            contents[f"{name}.csv"] = csv_text(made).encode()
            contents[f"{name}.tex"] = "\n".join(map(latex, made)).encode()
    return contents


def _plus_minus(cell: Cell) -> str:
    text = f"**{cell.text}**" if cell.best else cell.text
    return text if cell.spread is None else f"{text} ± {100 * cell.spread:.1f}"


# LaTeX


def latex(table: Table) -> str:
    """``table`` as a LaTeX table; the preamble has to load booktabs."""
    groups = []
    for _, lines in groupby(table.lines, lambda line: line.edits):
        rows = [_latex_line(line, first=i == 0) for i, line in enumerate(lines)]
        groups.append("".join(f"{row}\n" for row in rows))
    body = "\\midrule\n".join(groups)
    headings = (table.size, "Editor", *(heading for _, heading in table.columns))
    head = " & ".join(map(_latex, headings))
    return (
        "\\begin{table}\n\\centering\n"
        f"\\caption{{{_latex(f'{table.title}. {table.note}')}}}\n"
        f"\\begin{{tabular}}{{rl{'c' * len(table.columns)}}}\n\\toprule\n"
        f"{head} \\\\\n\\midrule\n"
        f"{body}\\bottomrule\n\\end{{tabular}}\n\\end{{table}}\n"
    )


def _latex_line(line: Line, *, first: bool) -> str:
    """A row; only the first of its group has N."""
    cells = [f"{line.edits:,}" if first else "", _latex(line.editor), *map(_latex_cell, line.cells)]
    return f"{' & '.join(cells)} \\\\"


def _latex_cell(cell: Cell) -> str:
    if cell.value is None:
        return "--"
    text = f"\\textbf{{{cell.text}}}" if cell.best else cell.text
    return text if cell.spread is None else f"{text}{{\\scriptsize $\\pm${100 * cell.spread:.1f}}}"


def _latex(text: str) -> str:
    """``text`` with the special characters of LaTeX escaped."""
    return " ".join(text.split()).translate(_LATEX)


_LATEX = str.maketrans(
    {sign: f"\\{sign}" for sign in "&%$#_{}"}
    | {
        "\\": "\\textbackslash{}",
        "~": "\\textasciitilde{}",
        "^": "\\textasciicircum{}",
        "±": "$\\pm$",
    }
    | {"<": "\\textless{}", ">": "\\textgreater{}", "–": "--"}
)
