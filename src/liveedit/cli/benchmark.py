"""`liveedit eval`, `report`, `demo`: the lifelong test, its tables and pages."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from liveedit.errors import BadInput

if TYPE_CHECKING:
    from liveedit.editable import EditableVLM

__all__ = ["demo", "evaluate", "report"]

Model = Annotated[str, typer.Option(help='"emblem" (embedded), a folder, or a Hugging Face id.')]


def evaluate(
    out: Annotated[Path, typer.Option(help="Folder for the records. Resumes if it holds some.")],
    editors: Annotated[
        str, typer.Option(help="Methods by name, or folders of trained editors, separated by commas.")
    ] = "liveedit,ft-l",
    model: Model = "emblem",
    data: Annotated[str, typer.Option(help="Benchmark.")] = "emblem",
    split: Annotated[str, typer.Option(help="Split of a published benchmark: clean or paper.")] = "clean",
    prompts: Annotated[str, typer.Option(help="Prompts of a published benchmark: plain or paper.")] = "plain",
    edits: Annotated[str, typer.Option(help="Numbers of edits in one pool, separated by commas.")] = "1,10,100,1000",
    max_cases: Annotated[int, typer.Option(help="Stop an N when windows with this many cases have been tested.")] = 200,
    ask: Annotated[
        int | None, typer.Option(help="Ask about at most this many cases of a window, evenly spread.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the order of the cases.")] = 0,
) -> None:
    """Run the lifelong test; leave records, summary, tables, curves and a page in --out."""
    console = Console()
    counts = _counts(edits)
    for name in editors.split(","):
        _run(
            console, model, name.strip(), data, counts, out, max_cases=max_cases, ask=ask, seed=seed, split=split,
            prompts=prompts,
        )  # fmt: skip
    report(out)


def report(out: Annotated[Path, typer.Argument(help="Folder with the records of `liveedit eval`.")]) -> None:
    """Make summary, tables, curves and the page from records, without the model."""
    from liveedit.data.emblem import Emblem
    from liveedit.data.images import open_image
    from liveedit.report import terminal_tables, write_report

    emblem = Emblem()
    page = write_report(out, out, images=lambda name: emblem.find(name) or open_image(name))
    console = Console()
    for title, header, rows in terminal_tables(out):
        table = Table(title=title)
        for number, heading in enumerate(header):
            table.add_column(heading, no_wrap=number < 2, overflow="fold", justify="left" if number == 1 else "right")
        for row in rows:
            table.add_row(*row)
        console.print(table)
    console.print(f"page with pictures and curves: {page}")


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the records and the page.")] = Path("runs/demo"),
    cases: Annotated[int, typer.Option(help="Cases asked about at each number of edits.")] = 60,
) -> None:
    """Watch the embedded model being corrected, then the lifelong test at 1, 10, 100 and 1,000 edits."""
    console = Console()
    _show_corrections(console)
    for name in ("liveedit", "ft-l"):
        _run(console, "emblem", name, "emblem", (1, 10, 100, 1000), out, max_cases=cases, ask=cases, seed=0)
    report(out)


def _show_corrections(console: Console, number: int = 8) -> None:
    """One edit after another on one model, each with its answers before and after, through ``generate``."""
    from liveedit.data.emblem import Emblem
    from liveedit.data.emblem_cases import counterfactual_cases
    from liveedit.editable import load

    console.print("loading the embedded model …")
    edited: EditableVLM = load()
    table = Table()
    for heading in ("drawing", "question", "before", "edit to", "after", "another hand's drawing", "a look-alike"):
        table.add_column(heading, overflow="fold")
    for case in counterfactual_cases(Emblem(), "test")[:number]:
        probes = {probe.metric: probe.query for probe in case.probes}
        asked = [case.edits[0], probes["look_alike_image"], *filter(None, [probes.get("image_generality")])]
        before = edited.unedited(asked)
        edited.edit(case.edits[0])
        after = edited.generate(asked)
        drawing = case.edits[0].image.info["name"].removeprefix("emblem:")  # type: ignore[union-attr]
        other = after[2] if len(after) > 2 else "–"
        alike = f"{before[1]} → {after[1]}"
        table.add_row(drawing, case.edits[0].prompt, before[0], case.edits[0].target, after[0], other, alike)
    console.print(table)


def _run(
    console: Console, model: str, editor: str, data: str, counts: tuple[int, ...], out: Path, *,
    max_cases: int, ask: int | None, seed: int, split: str = "clean", prompts: str = "plain",
) -> None:  # fmt: skip
    """Evaluate one editor, with a progress bar."""
    from liveedit.data import load_cases
    from liveedit.editable import load
    from liveedit.evaluate import evaluate as run

    cases = load_cases(data, "test", seed, split=split, prompts=prompts)
    edited = load(model, editor)
    with _bar(console, edited.editor.name) as progress:
        run(
            edited.vlm, edited.editor, cases, edits=counts, data=data, seed=seed,
            out=out / edited.editor.name, max_cases=max_cases, ask=ask, progress=progress,
        )  # fmt: skip


@contextmanager
def _bar(console: Console, name: str) -> Iterator[Callable[[int, int, str], None]]:
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total} probes"))
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console) as bar:
        task = bar.add_task(name, total=None)
        yield lambda done, total, label: bar.update(task, completed=done, total=total, description=f"{name} {label}")


def _counts(text: str) -> tuple[int, ...]:
    try:
        counts = tuple(int(part) for part in text.split(","))
    except ValueError:
        counts = ()
    if not counts or min(counts) < 1:
        raise BadInput(f"--edits takes numbers separated by commas, such as 1,10,100: got '{text}'")
    return counts
