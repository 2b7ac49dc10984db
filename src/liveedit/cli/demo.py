"""`liveedit demo`: corrections of the embedded model before and after, then the lifelong test."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from liveedit.cli.benchmark import run_evaluation
from liveedit.cli.display import shown
from liveedit.cli.editor_specs import parse_specs
from liveedit.cli.options import path
from liveedit.measures.protocols import Windows

if TYPE_CHECKING:
    from liveedit.editable import EditableVLM
    from liveedit.types import Case

__all__ = ["demo"]

EDITORS = "pinpoint,liveedit,ft-l"
CORRECTIONS = 8
HEADINGS = (
    "drawing and question",
    "before",
    "edit to",
    "after",
    "other artist's drawing",
    "look-alike",
)


def demo(
    out: Annotated[
        Path, typer.Option(parser=path, help="Folder for the records and the page.")
    ] = Path("runs/demo"),
    cases: Annotated[
        int, typer.Option(min=1, help="Cases to evaluate at each number of edits.")
    ] = 60,
) -> None:
    """Correct the embedded model, then run the lifelong test with up to 1,000 edits."""
    from liveedit.data import load_cases
    from liveedit.report import check_report

    check_report(out)
    _show_corrections(Console())
    protocol = Windows(max_cases=cases, ask=cases)
    drawn = load_cases("emblem", "test")
    run_evaluation("emblem", parse_specs(EDITORS), drawn, protocol, out, data="emblem", trained=out)


def _show_corrections(console: Console) -> None:
    """Make one edit after another, and show the answers before and after."""
    from liveedit.data.emblem import Emblem
    from liveedit.data.emblem.cases import counterfactual_cases
    from liveedit.editable import load

    console.print("loading the embedded model …")
    edited = load()
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for heading in HEADINGS:
        table.add_column(heading, overflow="fold")
    for case in counterfactual_cases(Emblem(), "test")[:CORRECTIONS]:
        table.add_row(*(shown(cell, lines=True) for cell in _correction(edited, case)))
    console.print(table)


def _correction(edited: "EditableVLM", case: "Case") -> tuple[str, ...]:
    """Make the edit of a case, and return its row of the table."""
    edit = case.edits[0]
    probes = {probe.metric: probe.query for probe in case.probes}
    queries = [edit, probes["look_alike_image"]]
    if "image_generality" in probes:
        queries.append(probes["image_generality"])
    before = edited.unedited(queries)
    edited.edit(edit)
    after = edited.generate(queries)
    drawing = edit.image.info["name"].removeprefix("emblem:")  # type: ignore[union-attr]
    return (
        f"{drawing.replace('/', ' ')}\n{edit.prompt}\n",
        before[0],
        edit.target,
        after[0],
        after[2] if len(after) > 2 else "–",
        f"{before[1]} → {after[1]}",
    )
