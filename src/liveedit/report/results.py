"""Results: scores, tables and figures of all records, computed once for all parts of a report."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from liveedit.report.chart import Block, Style, styles
from liveedit.report.columns import Columns, columns
from liveedit.report.figures import figures
from liveedit.report.files import Reading
from liveedit.report.scores import Summary, summarised
from liveedit.report.table import Table, tables

__all__ = ["Results", "results_of"]


@dataclass(frozen=True, slots=True)
class Results:
    """All that a report shows.

    Arguments:
        reading: The records, after a pass over all of them.
        columns: The records as a table.
        summary: The numbers.
        tables: The tables of these numbers.
        figures: The figures of these numbers, as blocks by name.
        styles: The look of each editor's lines.
    """

    reading: Reading
    columns: Columns
    summary: Summary
    tables: Sequence[Table]
    figures: Mapping[str, Sequence[Block]]
    styles: dict[str, Style]


def results_of(reading: Reading, highlighted: Sequence[str] = ()) -> Results:
    """Compute the results in one pass over the records.

    The editors ``highlighted`` come after all others, in the given order; the last of these is
    drawn on top. Raises :class:`BadInput` where there is no record or a broken one.
    """
    table = columns(reading, highlighted)
    summary = summarised(table)
    editors = [row["editor"] for row in summary["rows"]]
    return Results(
        reading=reading,
        columns=table,
        summary=summary,
        tables=tables(summary),
        figures=figures(summary),
        styles=styles(editors, highlighted[-1] if highlighted else ""),
    )
