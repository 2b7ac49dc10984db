"""Reports: from the records of an evaluation to scores, tables, curves and one page that shows them
all.

>>> write_report("runs/demo", "runs/demo/report")  # doctest: +SKIP
"""

import json
from pathlib import Path

from PIL import Image

from liveedit.artifacts import check_files, write_files
from liveedit.errors import BadInput
from liveedit.report.columns import columns
from liveedit.report.figures import PAPER_SCORES, figure_files
from liveedit.report.files import Reading, failures, read_records
from liveedit.report.page import Images, render
from liveedit.report.paper import paper_files
from liveedit.report.scores import Summary, as_json, is_report, summarised, summary, write_summary
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
"""Up to so many editors have all their tables in the terminal."""


def write_report(
    records_path: str | Path, folder: str | Path, images: Images | None = None
) -> Path:
    """Read the records at ``records_path`` and write the report into ``folder``; the path of its
    page is returned.

    Written are ``summary.json``, ``table.md``, ``table.csv``, ``curves.svg`` and the other figures,
    ``tables/`` in the form of the papers, and ``index.html``, each whole or not at all, over
    earlier ones only (:func:`write_files`). ``images`` finds the pictures that records name;
    without it, names are taken as paths. Raises :class:`BadInput` where there is no record or a
    broken one, and where a file of such a name is not a report's, :class:`StorageError` where a
    disk fails.
    """
    reading, folder = read_records(records_path), expanded(folder)
    table = columns(reading)
    numbers = summarised(table)
    made = tables(numbers)
    contents = {
        "summary.json": as_json(numbers),
        "table.md": markdown(made, reading.failures).encode(),
        "table.csv": csv_text(made).encode(),
        **figure_files(numbers),
        **{f"tables/{name}": content for name, content in paper_files(numbers).items()},
        "index.html": render(reading, table, numbers, images or _at_path).encode(),
    }
    write_files(folder, contents, allow_unmarked=is_report(folder))
    return folder / "index.html"


def check_report(folder: str | Path) -> None:
    """Raise :class:`BadInput` where a report in ``folder`` would meet files of somebody else's:
    asked before a run.
    """
    check_files(
        folder,
        ("summary.json", "table.md", "table.csv", "curves.svg", "index.html"),
        allow_unmarked=is_report(folder),
    )


def terminal_tables(folder: str | Path) -> list[tuple[str, list[str], list[list[str]]]]:
    """The tables of the report in ``folder`` that fit a terminal, as (title, heading, rows): scores
    and cost.

    Of more than :data:`FEW` editors these are the papers' metrics alone, in both scores.

    Raises :class:`BadInput` where :func:`write_report` or :func:`write_summary` has not been.
    """
    path = expanded(folder) / "summary.json"
    try:
        numbers: Summary = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        raise BadInput(f"cannot read {path}: make the report anew from its records") from None
    few = len({row["editor"] for row in numbers["rows"]}) <= FEW
    shown = [
        table
        for table in tables(numbers)
        if (table.kind != "firing" if few else table.kind == "main" and table.score in PAPER_SCORES)
    ]
    return [(f"{table.data}: {table.title}", *terminal_rows(table)) for table in shown]


def _at_path(name: str) -> Image.Image | None:
    path = Path(name)
    return Image.open(path) if path.is_file() else None
