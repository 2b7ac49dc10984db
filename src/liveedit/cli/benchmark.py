"""`liveedit eval`, `report`, `demo`: the lifelong test, its tables and pages."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Column, Table

from liveedit.cli.display import shown
from liveedit.cli.editor_specs import Entrant, entrants, load_entrants
from liveedit.cli.loading import (
    LAST_SEED,
    DeviceMap,
    Dtype,
    PromptForm,
    Quantize,
    load_here,
    options,
)
from liveedit.cli.paths import path
from liveedit.errors import BadInput, LiveEditError

if TYPE_CHECKING:
    from liveedit.editable import EditableVLM
    from liveedit.evaluate import Progress as News
    from liveedit.evaluate import Protocol
    from liveedit.evaluate.progress import Watcher
    from liveedit.types import Case

__all__ = ["demo", "evaluate", "report"]

Model = Annotated[str, typer.Option(help='"emblem" (embedded), a folder, or a Hugging Face id.')]


def evaluate(
    out: Annotated[
        Path, typer.Option(parser=path, help="Folder for the records. Resumes if it holds some.")
    ],
    editors: Annotated[
        str,
        typer.Option(
            help="Methods by NAME, FOLDERs or ids of trained editors, NAME:FOLDER, each also as LABEL=…, separated by "
            'commas; "all" for every method that is ready.'
        ),
    ] = "pinpoint,liveedit,ft-l",
    model: Model = "emblem",
    data: Annotated[str, typer.Option(help="Benchmark.")] = "emblem",
    split: Annotated[
        str, typer.Option(help="Split of a published benchmark: clean or paper.")
    ] = "clean",
    prompts: Annotated[
        str, typer.Option(help="Prompts of a published benchmark: plain or paper.")
    ] = "plain",
    prompt_format: PromptForm = None,
    dtype: Dtype = None,
    quantize: Quantize = None,
    device_map: DeviceMap = None,
    protocol: Annotated[
        str, typer.Option(help="windows, stream or gap (docs/explanation/protocol.md).")
    ] = "windows",
    edits: Annotated[
        str,
        typer.Option(help="windows, stream: numbers of edits in one pool, separated by commas."),
    ] = "1,10,100,1000",
    gaps: Annotated[
        str,
        typer.Option(help="gap: ask about a case after so many further ones, separated by commas."),
    ] = "10,20,50,100",
    max_cases: Annotated[
        int,
        typer.Option(
            min=1,
            help="windows: stop an N once so many cases have been tested; gap: test the first so many.",
        ),
    ] = 200,
    ask: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Ask about at most this many cases of a window or at a point, evenly spread.",
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, max=LAST_SEED, help="Seed of the order of the cases.")
    ] = 0,
    trained: Annotated[
        Path | None,
        typer.Option(
            parser=path,
            help="Where trained editors are, a folder each by name; default: editors beside --out.",
        ),
    ] = None,
) -> None:
    """Run the lifelong test; leave records, summary, tables, curves and a page in --out.

    For several processes: accelerate launch --multi_gpu --num_processes 2 -m liveedit eval …, on
    CPUs too.
    """
    asked, form = entrants(editors), options(dtype, quantize, device_map, prompt_format)
    chosen = _protocol(
        protocol, _numbers("--edits", edits), _numbers("--gaps", gaps), max_cases, ask
    )

    from liveedit.data import load_cases
    from liveedit.report import check_report

    check_report(out)
    cases = load_cases(data, "test", seed, split=split, prompts=prompts)
    trained = out.absolute().parent / "editors" if trained is None else trained
    _run(model, asked, cases, chosen, out, data=data, trained=trained, seed=seed, form=form)


def report(
    out: Annotated[
        Path, typer.Argument(parser=path, help="Folder with the records of `liveedit eval`.")
    ],
) -> None:
    """Make summary, tables, curves and the page from records, without the model."""
    from liveedit.data.emblem import Emblem
    from liveedit.data.images import open_image
    from liveedit.report import terminal_tables, write_report

    emblem = Emblem()
    page = write_report(out, out, images=lambda name: emblem.find(name) or open_image(name))
    console = Console()
    for title, header, rows in terminal_tables(out):
        table = Table(title=shown(title))
        for number, heading in enumerate(header):
            head = shown(heading, lines=True)
            table.add_column(
                head,
                no_wrap=number < 2,
                overflow="fold",
                justify="left" if number == 1 else "right",
            )
        for row in rows:
            table.add_row(*(shown(cell, lines=True) for cell in row))
        console.print(table)
    console.print(shown(f"page with pictures and curves: {page}"), soft_wrap=True)


def demo(
    out: Annotated[
        Path, typer.Option(parser=path, help="Folder for the records and the page.")
    ] = Path("runs/demo"),
    cases: Annotated[
        int, typer.Option(min=1, help="Cases asked about at each number of edits.")
    ] = 60,
) -> None:
    """Watch the embedded model being corrected, then the lifelong test at 1, 10, 100 and 1,000
    edits.
    """
    from liveedit.data import load_cases
    from liveedit.evaluate import Windows
    from liveedit.report import check_report

    check_report(out)
    _show_corrections(Console())
    protocol = Windows(max_cases=cases, ask=cases)
    drawn = load_cases("emblem", "test")
    _run(
        "emblem",
        entrants("pinpoint,liveedit,ft-l"),
        drawn,
        protocol,
        out,
        data="emblem",
        trained=out,
        seed=0,
    )


def _show_corrections(console: Console, number: int = 8) -> None:
    """One edit after another on one model, each with its answers before and after, through
    ``generate``.
    """
    from liveedit.data.emblem import Emblem
    from liveedit.data.emblem.cases import counterfactual_cases
    from liveedit.editable import load

    console.print("loading the embedded model …")
    edited: EditableVLM = load()
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for heading in (
        "drawing and question",
        "before",
        "edit to",
        "after",
        "other hand's drawing",
        "look-alike",
    ):
        table.add_column(heading, overflow="fold")
    for case in counterfactual_cases(Emblem(), "test")[:number]:
        probes = {probe.metric: probe.query for probe in case.probes}
        asked = [
            case.edits[0],
            probes["look_alike_image"],
            *filter(None, [probes.get("image_generality")]),
        ]
        before = edited.unedited(asked)
        edited.edit(case.edits[0])
        after = edited.generate(asked)
        drawing = case.edits[0].image.info["name"].removeprefix("emblem:")  # type: ignore[union-attr]
        other = after[2] if len(after) > 2 else "–"
        alike = f"{before[1]} → {after[1]}"
        about = f"{drawing.replace('/', ' ')}\n{case.edits[0].prompt}\n"
        row = (about, before[0], case.edits[0].target, after[0], other, alike)
        table.add_row(*(shown(cell, lines=True) for cell in row))
    console.print(table)


def _run(
    model: str, asked: list[Entrant], cases: "list[Case]", protocol: "Protocol", out: Path, *,
    data: str, trained: Path, seed: int, form: Mapping[str, Any] = MappingProxyType({}),
) -> None:  # fmt: skip
    """Evaluate the editors, with one progress bar over all, and report on them.

    Raises :class:`LiveEditError` at the end if some have failed.
    """
    from liveedit.evaluate import Evaluation, note_failure, processes
    from liveedit.report import failures

    here = processes()
    console = Console(quiet=not here.is_main_process)
    vlm = load_here(model, form)
    evaluation = Evaluation(vlm, cases, protocol, data=data, seed=seed)
    ready = load_entrants(vlm, model, asked, trained)
    for label, editor in ready.editors.items():
        evaluation.add(editor, out / label, label)
    for label, error in ready.failed.items():
        console.print(shown(note_failure(out / label, label, "loading", error)), soft_wrap=True)
    for line in ready.left_out:
        console.print(shown(line), soft_wrap=True)
    with _bar(console) as watcher:
        try:
            evaluation.run(watcher)
        except KeyboardInterrupt:
            done = f"{evaluation.done:,} of {evaluation.total:,} probes"
            raise KeyboardInterrupt(
                f"stopped at {done}; the same command goes on from here"
            ) from None
    if here.is_main_process:
        if any(out.rglob("records-*.jsonl")):
            report(out)
        for line in ready.left_out:
            console.print(shown(line), soft_wrap=True)
        if failed := [
            line for label in (*ready.editors, *ready.failed) for line in failures(out / label)
        ]:
            raise LiveEditError(
                f"{'; '.join(failed)}: the others are done, and the same command tries again"
            )


@contextmanager
def _bar(console: Console) -> Iterator["Watcher"]:
    """One bar over all editors, as long as the time that they take: what is spent, and what is left
    by estimate.
    """
    columns = (
        TextColumn(
            "{task.description}", table_column=Column(ratio=2, no_wrap=True, overflow="ellipsis")
        ),
        BarColumn(bar_width=None, table_column=Column(ratio=1)),
        TextColumn("{task.fields[shown]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, expand=True) as bar:
        task = bar.add_task("", total=None, shown="")
        start = time.monotonic()

        def watcher(news: "News") -> None:
            spent, left = time.monotonic() - start, news.seconds_left
            count = f"{news.done:,}/{news.total:,}, {'time left unknown' if left is None else _about(left)}"
            total = None if left is None else spent + left
            bar.update(
                task,
                description=f"{news.editor}: {news.stage}",
                completed=spent,
                total=total,
                shown=count,
            )
            if news.failure:
                console.print(shown(news.failure), soft_wrap=True)

        yield watcher


def _about(seconds: float) -> str:
    """A time left, no more exact than it can be known."""
    return f"about {seconds / 60:.0f} min left" if seconds >= 90 else f"about {seconds:.0f} s left"


def _protocol(
    name: str, edits: tuple[int, ...], gaps: tuple[int, ...], max_cases: int, ask: int | None
) -> "Protocol":
    from liveedit.evaluate import Gap, Stream, Windows

    match name:
        case "windows":
            return Windows(edits, max_cases, ask)
        case "stream":
            return Stream(edits, ask)
        case "gap":
            return Gap(gaps, max_cases, ask)
    raise BadInput(f"there is no protocol '{name}': choose windows, stream or gap")


def _numbers(option: str, text: str) -> tuple[int, ...]:
    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if not numbers or min(numbers) < 1:
        raise BadInput(
            f"{option} takes numbers separated by commas, such as 1,10,100: got '{text}'"
        )
    return numbers
