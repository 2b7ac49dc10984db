"""`liveedit data`: list the benchmarks; add published ones and your own; check and remove them."""

import json
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from liveedit.cli.display import shown
from liveedit.cli.options import LAST_SEED, AsJson, path
from liveedit.data import BENCHMARKS
from liveedit.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from liveedit.data.corrections import Corrections
    from liveedit.data.published.locations import Location
    from liveedit.models.input_checks import Reader

__all__ = ["app"]

app = typer.Typer(
    help="List the benchmarks; add published ones and your own; check and remove them.",
    no_args_is_help=False,
)

Name = Annotated[str, typer.Argument(help="Published benchmark, such as vlkeb.")]
AnyName = Annotated[
    str, typer.Argument(help="Published benchmark, such as vlkeb, or a name of your own.")
]
OwnName = Annotated[str, typer.Argument(help="Benchmark of your own.")]
SHOWN = 10
"""Number of problems that the terminal shows; a file lists all of them."""


@dataclass(frozen=True, slots=True)
class Row:
    """A benchmark in the list, and whether it is on this machine."""

    name: str
    contents: str
    here: bool


@app.callback(invoke_without_command=True)
def overview(context: typer.Context, as_json: AsJson = False) -> None:
    """List the benchmarks, and whether the published ones are on this machine."""
    if context.invoked_subcommand is not None:
        return
    rows = _rows()
    if as_json:
        print(json.dumps([asdict(row) for row in rows], ensure_ascii=False))
        return
    table = Table("name", "contents", "here", title="Benchmarks")
    for row in rows:
        table.add_row(row.name, shown(row.contents), "yes" if row.here else "no")
    console = Console()
    console.print(table)
    console.print(f"emblem: {_emblem_size()}; details in docs/explanation/data-card.md")
    console.print(
        "`liveedit data add NAME` registers files of a published benchmark, "
        "`liveedit data fetch NAME` downloads them, "
        "`liveedit data add NAME --cases FILE` makes one of your corrections"
    )


def _rows() -> list[Row]:
    """The benchmarks of the package, then one's own."""
    from liveedit.data.own.benchmarks import names, read
    from liveedit.data.published.locations import locations

    added = locations()
    rows = [
        Row(name, benchmark.title, benchmark.files is None or benchmark.files in added)
        for name, benchmark in BENCHMARKS.items()
    ]
    return rows + [Row(name, read(name).title, here=True) for name in names()]


def _emblem_size() -> str:
    """The numbers of entities and drawings of the embedded benchmark."""
    file = files("liveedit.data.emblem") / "assets" / "facts.json"
    entities = json.loads(file.read_text(encoding="utf-8"))["entities"]
    drawings = sum(len(entity["hands"]) for entity in entities)
    return f"{len(entities)} entities, {drawings} drawings"


@app.command()
def add(
    name: AnyName,
    annotations: Annotated[
        list[Path] | None,
        typer.Option(
            parser=path,
            help="Annotation file of a published benchmark, or a folder to search for them; "
            "repeat the option for several.",
        ),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(parser=path, help="Folder that image paths in the annotations start from."),
    ] = None,
    cases: Annotated[
        Path | None,
        typer.Option(
            parser=path,
            help="File of your corrections, JSON lines or CSV, for a benchmark of your own.",
        ),
    ] = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave out rows of --cases with a fault.")
    ] = False,
    seed: Annotated[
        int, typer.Option(min=0, max=LAST_SEED, help="Seed of the parts of your own benchmark.")
    ] = 0,
) -> None:
    """Add a published benchmark, or one made of your own corrections.

    Files of a published benchmark are checked, and remembered where they are. --cases makes a
    benchmark of your own, with parts for training, validation and test; photos stay where they are.
    """
    if cases is not None:
        _add_own(name, cases, skip_bad, seed)
        return
    from liveedit.data.published.locations import locate
    from liveedit.data.published.sources import SOURCES, source

    if name not in BENCHMARKS and name not in SOURCES:
        raise BadInput(f"{name} is no published benchmark: give --cases FILE to make one of yours")
    if annotations is None or images is None:
        raise BadInput(f"{name} is added from its files: give --annotations DIR and --images DIR")
    _add(name, locate(source(name), annotations, images))


def _add_own(name: str, file: Path, skip_bad: bool, seed: int) -> None:
    """Make a benchmark of the corrections in a file."""
    from liveedit.data.corrections import read_corrections
    from liveedit.data.own.benchmarks import add, check_name

    check_name(name, BENCHMARKS)
    corrections = read_corrections(file)
    console = Console(soft_wrap=True)
    for row in corrections.bad[:SHOWN]:
        console.print(shown(f"left out, {row}" if skip_bad else str(row)))
    if not skip_bad:
        _refuse(corrections)
    with _images_bar(console) as progress:
        own = add(name, corrections, seed, progress)
    console.print(shown(own.title))
    if earlier := len(corrections.rows) - len(own.items):
        console.print(f"{earlier:,} were corrected again further down: the last answer counts")
    console.print(
        f"{name} is here: run `liveedit train editors/{name} --data {name}`, then "
        f"`liveedit eval --data {name} --editors pinpoint:editors/{name} --out DIR`",
        markup=False,
        highlight=False,
    )


def _refuse(corrections: "Corrections") -> None:
    """Raise :class:`BadInput` if rows are bad, with what to do about them."""
    if corrections.bad:
        raise BadInput(
            f"{corrections.title} has bad rows ({len(corrections.bad):,}) and nothing was added: "
            "repair them, or give --skip-bad"
        )


@contextmanager
def _images_bar(console: Console) -> "Iterator[Callable[[int, int], None]]":
    """A progress bar over images."""
    with Progress(console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("images", total=None)

        def progress(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        yield progress


@app.command()
def remove(name: OwnName) -> None:
    """Remove a benchmark of your own; the corrections and photos that it was made of stay."""
    from liveedit.data.own.benchmarks import remove as discard

    discard(name)
    Console().print(shown(f"removed {name}"), soft_wrap=True)


@app.command()
def fetch(name: Name) -> None:
    """Download a published benchmark from the Hugging Face Hub, and check it."""
    from liveedit.data.home import home
    from liveedit.data.published.hub import fetch as download
    from liveedit.data.published.sources import source

    _add(name, download(source(name), home() / name))


@app.command()
def check(
    name: AnyName,
    model: Annotated[
        str | None,
        typer.Option(
            help="Check also that this model can encode every image and text: emblem, a folder, "
            "or a Hugging Face id."
        ),
    ] = None,
) -> None:
    """Check every record and every image of a benchmark that was added."""
    from liveedit.data.own.benchmarks import names

    if name in names():
        _check_own(name, model)
    else:
        from liveedit.data.published.locations import location

        _check(name, location(name), model)
    Console().print(f"{name} is sound")


def _check_own(name: str, model: str | None) -> None:
    """Check a benchmark of one's own. Raises :class:`BadInput` if there are problems."""
    from liveedit.data.images import open_image
    from liveedit.data.own.benchmarks import problems, read

    own = read(name)
    reader = _reader(model)
    look, ask = (open_image, None) if reader is None else (reader.look, reader.read)
    console = Console(soft_wrap=True)
    with _images_bar(console) as progress:
        found = problems(own, look, ask, progress)
    console.print(shown(own.title))
    _refuse_faults(console, name, found)


@app.command()
def leaks(name: Name) -> None:
    """Count the test cases that leak into the training split, as published and after cleaning."""
    from liveedit.data.published.leaks import clean, edited_locality_images
    from liveedit.data.published.leaks import leaks as measure
    from liveedit.data.published.locations import annotations
    from liveedit.data.published.sources import source

    published = source(name)
    train = annotations(name, "train")
    test = annotations(name, "test")
    cleaned = clean(train, test, published)
    title = f"Test cases of {name} that leak into its training split"
    table = Table(f"of {len(test):,} test cases", "paper", "clean", title=title)
    found = measure(train, test, published)
    remaining = measure(cleaned, test, published)
    for leak, left in zip(found, remaining, strict=True):
        table.add_row(leak.what, f"{leak.cases:,}", f"{left.cases:,}")
    table.add_section()
    table.add_row("training cases", f"{len(train):,}", f"{len(cleaned):,}")
    images = {row.id: row.m_loc for row in train}
    replaced = sum(row.m_loc != images[row.id] for row in cleaned)
    table.add_row("of them with another image-locality probe", "0", f"{replaced:,}")
    console = Console()
    console.print(table)
    edited = edited_locality_images(test)
    console.print(f"images of locality probes that the test itself edits: {edited:,}")


def _add(name: str, found: "Location") -> None:
    """Check a benchmark, and remember where it is."""
    from liveedit.data.published.locations import add_location

    _check(name, found)
    add_location(name, found)
    Console().print(f"{name} is here: run `liveedit eval --data {name} --out DIR`", soft_wrap=True)


def _check(name: str, found: "Location", model: str | None = None) -> None:
    """Print the findings of a check. Raises :class:`BadInput` if there are problems."""
    from liveedit.data.images import open_image
    from liveedit.data.published.checks import check
    from liveedit.data.published.sources import source

    published = source(name)
    reader = _reader(model)
    look, read = (open_image, None) if reader is None else (reader.look, reader.read)
    console = Console(soft_wrap=True)
    with _images_bar(console) as progress:
        result = check(published, found, progress, look, read)
    counts = [f"{file} {count:,} records" for file, count in result.records.items()]
    console.print(", ".join([*counts, f"{result.images:,} images"]), markup=False)
    for note in result.notes:
        console.print(f"note: {note}", markup=False, highlight=False)
    _refuse_faults(console, name, result.problems)


def _refuse_faults(console: Console, name: str, problems: "Sequence[str]") -> None:
    """Print the first problems, write all to a file, and raise :class:`BadInput` if any."""
    for line in problems[:SHOWN]:
        console.print(line, markup=False, highlight=False)
    if problems:
        file = _write_problems(name, problems)
        raise BadInput(
            f"{name} has faults ({len(problems):,}), all listed in {file}: fix them first"
        )


def _reader(model: str | None) -> "Reader | None":
    """The model that encodes all images and texts for the check, if one is given."""
    if model is None:
        return None
    from liveedit.editable import load_vlm
    from liveedit.models.input_checks import Reader

    return Reader(load_vlm(model))


def _write_problems(name: str, problems: "Sequence[str]") -> Path:
    """Write all problems to a file, which is returned.

    Raises :class:`BadInput` if a file of this name exists that LiveEdit did not write.
    """
    from liveedit.artifacts import write_files
    from liveedit.data.home import NO_ROOM, home

    file = f"{name}-problems.txt"
    lines = "".join(f"{line}\n" for line in problems)
    content = lines.encode(errors="backslashreplace")
    return write_files(home(), {file: content}, advice=NO_ROOM) / file
