"""`liveedit eval` and `report`: the lifelong test, its tables and its page."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Column, Table

from liveedit.cli.display import shown
from liveedit.cli.editor_specs import EditorSpec, load_editors, parse_specs
from liveedit.cli.options import (
    LAST_SEED,
    Benchmark,
    Loading,
    Model,
    Quiet,
    path,
    setting_help,
    with_groups,
)
from liveedit.errors import BadInput, LiveEditError
from liveedit.measures.protocols import PROTOCOL_NAMES, PROTOCOLS, Protocol, new_protocol

if TYPE_CHECKING:
    from liveedit.evaluate import Evaluation
    from liveedit.evaluate import Progress as State
    from liveedit.evaluate.progress import Watcher
    from liveedit.types import Case

__all__ = ["evaluate", "report", "run_evaluation"]

HIGHLIGHTED = ("liveedit", "pinpoint")
"""Editors that a report lists after all others; in figures the last one is drawn on top."""


@with_groups
def evaluate(
    *,
    out: Annotated[
        Path,
        typer.Option(
            parser=path, help="Folder for the records; probes on record are not repeated."
        ),
    ],
    editors: Annotated[
        str,
        typer.Option(
            help="Editors, separated by commas. Each is the name of a method, a folder or Hugging "
            "Face id of a trained editor, or NAME:FOLDER; LABEL= before it sets the name in the "
            "tables. all: every method that is ready."
        ),
    ] = "pinpoint,liveedit,ft-l",
    model: Model = "emblem",
    benchmark: Benchmark,
    loading: Loading,
    protocol: Annotated[
        str,
        typer.Option(help=f"Order of edits and evaluations: {PROTOCOL_NAMES}."),
    ] = "windows",
    edits: Annotated[
        str, typer.Option(help=setting_help(PROTOCOLS, "edits") + " Separated by commas.")
    ] = "1,10,100,1000",
    gaps: Annotated[
        str, typer.Option(help=setting_help(PROTOCOLS, "gaps") + " Separated by commas.")
    ] = "10,20,50,100",
    max_cases: Annotated[int, typer.Option(min=1, help=setting_help(PROTOCOLS, "max_cases"))] = 200,
    ask: Annotated[int | None, typer.Option(min=1, help=setting_help(PROTOCOLS, "ask"))] = None,
    seed: Annotated[
        int,
        typer.Option(
            min=0,
            max=LAST_SEED,
            help="Seed of the cases: of their order and of all random choices.",
        ),
    ] = 0,
    trained: Annotated[
        Path | None,
        typer.Option(
            parser=path,
            help="Folder with one subfolder per trained editor, named after the method. "
            "Default: editors, beside --out.",
        ),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Run the lifelong test; write records, tables, curves and a page to --out.

    In several processes: accelerate launch --num_processes 2 -m liveedit eval …
    """
    specs = parse_specs(editors)
    options = {
        "edits": _numbers("--edits", edits),
        "gaps": _numbers("--gaps", gaps),
        "max_cases": max_cases,
        "ask": ask,
    }
    chosen = new_protocol(protocol, options)

    from liveedit.report import check_report

    check_report(out)
    cases = benchmark.cases("test", seed)
    trained = out.absolute().parent / "editors" if trained is None else trained
    run_evaluation(
        model, specs, cases, chosen, out,
        data=benchmark.data, trained=trained, seed=seed, loading=loading, quiet=quiet,
    )  # fmt: skip


def report(
    out: Annotated[
        Path, typer.Argument(parser=path, help="Folder with the records of `liveedit eval`.")
    ],
) -> None:
    """Write the tables, curves and page of existing records again, without the model."""
    _report(out, Console())


def _report(out: Path, console: Console) -> None:
    """Write the report on the records in a folder, and print its tables."""
    from liveedit.data.emblem import Emblem
    from liveedit.data.images import open_image
    from liveedit.report import terminal_tables, write_report

    emblem = Emblem()
    page = write_report(
        out,
        out,
        images=lambda name: emblem.find(name) or open_image(name),
        highlighted=HIGHLIGHTED,
    )
    for title, header, rows in terminal_tables(out):
        console.print(_terminal_table(title, header, rows))
    console.print(shown(f"page with images and curves: {page}"), soft_wrap=True)


def _terminal_table(title: str, header: list[str], rows: list[list[str]]) -> Table:
    """A table whose first two columns (the number of edits and the editor) are never wrapped."""
    table = Table(title=shown(title))
    for number, heading in enumerate(header):
        table.add_column(
            shown(heading, lines=True),
            no_wrap=number < 2,
            overflow="fold",
            justify="left" if number == 1 else "right",
        )
    for row in rows:
        table.add_row(*(shown(cell, lines=True) for cell in row))
    return table


def run_evaluation(
    model: str,
    specs: list[EditorSpec],
    cases: "list[Case]",
    protocol: Protocol,
    out: Path,
    *,
    data: str,
    trained: Path,
    seed: int = 0,
    loading: Loading | None = None,
    quiet: bool = False,
) -> None:
    """Evaluate the editors, with one progress bar over all, and report on them.

    Raises :class:`LiveEditError` at the end if some have failed.
    """
    from liveedit.evaluate import Evaluation, note_failure, processes
    from liveedit.report import failures

    is_main = processes().is_main_process
    console = Console(quiet=quiet or not is_main)
    vlm = (loading or Loading()).load(model)
    evaluation = Evaluation(vlm, cases, protocol, data=data, seed=seed)
    loaded = load_editors(vlm, model, specs, trained)
    for label, editor in loaded.editors.items():
        evaluation.add(editor, out / label, label)
    for label, error in loaded.failed.items():
        console.print(shown(note_failure(out / label, label, "loading", error)), soft_wrap=True)
    for line in loaded.left_out:
        console.print(shown(line), soft_wrap=True)
    _run(evaluation, console)
    if not is_main:
        return
    if any(out.rglob("records-*.jsonl")):
        _report(out, console)
    for line in loaded.left_out:  # once more, where it is seen after hours
        console.print(shown(line), soft_wrap=True)
    failed: list[str] = []
    for label in (*loaded.editors, *loaded.failed):
        failed += failures(out / label)
    if failed:
        raise LiveEditError(
            f"{'; '.join(failed)}: the others are done; run the same command to try again"
        )


def _run(evaluation: "Evaluation", console: Console) -> None:
    """Run an evaluation with a progress bar; Ctrl-C says how much is done."""
    with _bar(console) as watcher:
        try:
            evaluation.run(watcher)
        except KeyboardInterrupt:
            done = f"{evaluation.done:,} of {evaluation.total:,} probes"
            message = f"stopped at {done}; run the same command to continue"
            raise KeyboardInterrupt(message) from None


@contextmanager
def _bar(console: Console) -> Iterator["Watcher"]:
    """One progress bar over all editors. It shows the time spent and the estimated time left."""
    first = Column(ratio=2, no_wrap=True, overflow="ellipsis")
    columns = (
        TextColumn("{task.description}", table_column=first),
        BarColumn(bar_width=None, table_column=Column(ratio=1)),
        TextColumn("{task.fields[count]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, expand=True) as bar:
        task = bar.add_task("", total=None, count="")
        start = time.monotonic()

        def watcher(state: "State") -> None:
            spent = time.monotonic() - start
            left = state.seconds_left
            bar.update(
                task,
                description=f"{state.editor}: {state.stage}",
                completed=spent,
                total=None if left is None else spent + left,
                count=f"{state.done:,}/{state.total:,}, {_time_left(left)}",
            )
            if state.failure:
                console.print(shown(state.failure), soft_wrap=True)

        yield watcher


def _time_left(seconds: float | None) -> str:
    """An estimate of the time left, rounded."""
    if seconds is None:
        return "time left unknown"
    if seconds >= 90:
        return f"about {seconds / 60:.0f} min left"
    return f"about {seconds:.0f} s left"


def _numbers(option: str, text: str) -> tuple[int, ...]:
    """The numbers of an option. Raises :class:`BadInput` for anything but numbers of at least 1."""
    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if not numbers or min(numbers) < 1:
        raise BadInput(
            f"{option} takes numbers separated by commas, such as 1,10,100: got '{text}'"
        )
    return numbers
