"""`liveedit demo`: corrections of the embedded model before and after, then the lifelong test."""

import shlex
import sys
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

EDITORS = "pinpoint,liveedit,mend"
CORRECTIONS = 8
HEADINGS = ("before", "after", "redrawn", "look-alike")
LEGEND = (
    "after: the answer once it is corrected; redrawn: the answer about another artist's drawing "
    "of the same thing; look-alike: the answer about a similar drawing, which should not change"
)


def demo(
    out: Annotated[
        Path, typer.Option(parser=path, help="Folder for the records and the page.")
    ] = Path("runs/demo"),
    cases: Annotated[
        int, typer.Option(min=1, help="Cases to evaluate at each number of edits.")
    ] = 30,
) -> None:
    """Correct the embedded model, then run the lifelong test with up to 1,000 edits."""
    from liveedit.data import load_cases
    from liveedit.report import check_report

    check_report(out)
    _show_corrections(Console())
    protocol = Windows(max_cases=cases, ask=cases)
    drawn = load_cases("emblem", "test")
    run_evaluation("emblem", parse_specs(EDITORS), drawn, protocol, out, data="emblem", trained=out)
    command = shlex.quote(sys.argv[0])
    Console(soft_wrap=True, highlight=False).print(
        f"correct it yourself in a page: {command} serve"
    )


def _show_corrections(console: Console) -> None:
    """Make one edit after another, and show the answers before and after."""
    from liveedit.data.emblem import Emblem
    from liveedit.data.emblem.cases import counterfactual_cases
    from liveedit.editable import load

    console.print("loading the embedded model …")
    edited = load()
    table = Table(box=SIMPLE_HEAD, pad_edge=False, caption=LEGEND, caption_justify="left")
    table.add_column("question about a drawing", overflow="fold", ratio=1)
    for heading in HEADINGS:
        table.add_column(heading, overflow="fold", min_width=len(heading))
    for case in counterfactual_cases(Emblem(), "test")[:CORRECTIONS]:
        table.add_row(*(shown(cell) for cell in _correction(edited, case)))
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
    return (
        edit.prompt,
        before[0],
        after[0],
        after[2] if len(after) > 2 else "–",
        after[1] if after[1] == before[1] else f"{before[1]} → {after[1]}",
    )
