"""Reports: from the records of an evaluation to scores, tables, curves and one page with them all.

>>> write_report("runs/demo", "runs/demo/report")  # doctest: +SKIP
"""

import json
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from liveedit.artifacts import check_files, write_files
from liveedit.errors import BadInput
from liveedit.measures.scores import HEADLINES
from liveedit.report.figures import figure_files
from liveedit.report.files import Reading, failures, read_records
from liveedit.report.page import Images, render
from liveedit.report.paper import paper_files
from liveedit.report.results import results_of
from liveedit.report.scores import Summary, as_json, is_report, summary, write_summary
from liveedit.report.table import Table, csv_text, markdown, tables, terminal_rows
from liveedit.types import expanded

__all__ = [
    "Images",
    "Reading",
    "Summary",
    "Table",
    "check_report",
    "failures",
    "read_records",
    "summary",
    "tables",
    "terminal_tables",
    "write_report",
    "write_summary",
]

FEW = 4
"""Largest number of editors whose tables are all shown in the terminal."""


def write_report(
    records_path: str | Path,
    folder: str | Path,
    images: Images | None = None,
    highlighted: Sequence[str] = (),
) -> Path:
    """Read the records at ``records_path``, write the report into ``folder``, return its page.

    The files are ``summary.json``, ``table.md``, ``table.csv``, ``curves.svg`` and the other
    figures, ``tables/`` in the form of the papers, and ``index.html``, each written whole or not at
    all. Only files of an earlier report are replaced (:func:`write_files`).

    ``images`` finds the pictures that records name; without it, names are taken as paths. The
    editors ``highlighted`` come after all others, in the given order; the last of these is drawn on
    top. Raises :class:`BadInput` where there is no record or a broken one, and where a file of such
    a name does not belong to a report, :class:`StorageError` where a disk fails.
    """
    folder = expanded(folder)
    results = results_of(read_records(records_path), highlighted)
    papers = paper_files(results.summary)
    contents = {
        "summary.json": as_json(results.summary),
        "table.md": markdown(results.tables, results.reading.failures).encode(),
        "table.csv": csv_text(results.tables).encode(),
        **figure_files(results.figures, results.styles),
        **{f"tables/{name}": content for name, content in papers.items()},
        "index.html": render(results, images or _open_path).encode(),
    }
    write_files(folder, contents, allow_unmarked=is_report(folder))
    return folder / "index.html"


def check_report(folder: str | Path) -> None:
    """Raise :class:`BadInput` where a report in ``folder`` would overwrite unrelated files.

    To be called before a run.
    """
    check_files(
        folder,
        ("summary.json", "table.md", "table.csv", "curves.svg", "index.html"),
        allow_unmarked=is_report(folder),
    )


def terminal_tables(folder: str | Path) -> list[tuple[str, list[str], list[list[str]]]]:
    """The tables of the report in ``folder`` that fit a terminal, as (title, heading, rows).

    These are scores and costs; for more than :data:`FEW` editors only the papers' metrics, in the
    headline scores. Raises :class:`BadInput` where there is no report.
    """
    path = expanded(folder) / "summary.json"
    try:
        numbers: Summary = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        raise BadInput(f"cannot read {path}: make the report again from its records") from None
    few = len({row["editor"] for row in numbers["rows"]}) <= FEW
    shown = [table for table in tables(numbers) if _fits_terminal(table, few=few)]
    return [(f"{table.data}: {table.title}", *terminal_rows(table)) for table in shown]


def _fits_terminal(table: Table, *, few: bool) -> bool:
    """Whether a table is shown in the terminal, where the report has few editors or many."""
    if few:
        return table.kind != "firing"
    return table.kind == "main" and table.score in {score.name for score in HEADLINES}


def _open_path(name: str) -> Image.Image | None:
    """The picture in the file ``name``."""
    path = Path(name)
    return Image.open(path) if path.is_file() else None
