"""`liveedit data`: list the benchmarks; add, fetch and check the published ones; count leaks."""

import json
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from liveedit.cli.options import path
from liveedit.data import BENCHMARKS
from liveedit.errors import BadInput

if TYPE_CHECKING:
    from liveedit.data.published.checks import Check
    from liveedit.data.published.locations import Location
    from liveedit.models.input_checks import Reader

__all__ = ["app"]

app = typer.Typer(
    help="List the benchmarks; add, fetch and check the published ones.", no_args_is_help=False
)

Name = Annotated[str, typer.Argument(help="Published benchmark: e-vqa, e-ic or vlkeb.")]
SHOWN = 10
"""Number of problems that the terminal shows; a file lists all of them."""


@app.callback(invoke_without_command=True)
def overview(context: typer.Context) -> None:
    """List the benchmarks, and whether the published ones are on this machine."""
    if context.invoked_subcommand is not None:
        return
    from liveedit.data.published.locations import locations

    added = locations()
    table = Table("name", "contents", "here", title="Benchmarks")
    for name, benchmark in BENCHMARKS.items():
        here = benchmark.files is None or benchmark.files in added
        table.add_row(name, benchmark.title, "yes" if here else "no")
    console = Console()
    console.print(table)
    console.print(f"emblem: {_emblem_size()}; details in docs/explanation/data-card.md")
    console.print(
        "`liveedit data add NAME` registers files of a published benchmark, "
        "`liveedit data fetch NAME` downloads them"
    )


def _emblem_size() -> str:
    """The numbers of entities and drawings of the embedded benchmark."""
    file = files("liveedit.data.emblem") / "assets" / "facts.json"
    entities = json.loads(file.read_text(encoding="utf-8"))["entities"]
    drawings = sum(len(entity["hands"]) for entity in entities)
    return f"{len(entities)} entities, {drawings} drawings"


@app.command()
def add(
    name: Name,
    annotations: Annotated[
        list[Path],
        typer.Option(
            parser=path,
            help="Annotation file, or a folder to search for them; repeat the option for several.",
        ),
    ],
    images: Annotated[
        Path,
        typer.Option(parser=path, help="Folder that image paths in the annotations start from."),
    ],
) -> None:
    """Check the files of a published benchmark, and remember where they are.

    Nothing is copied.
    """
    from liveedit.data.published.locations import locate
    from liveedit.data.published.sources import source

    _add(name, locate(source(name), annotations, images))


@app.command()
def fetch(name: Name) -> None:
    """Download a published benchmark from the Hugging Face Hub, and check it."""
    from liveedit.data.published.hub import fetch as download
    from liveedit.data.published.locations import home
    from liveedit.data.published.sources import source

    _add(name, download(source(name), home() / name))


@app.command()
def check(
    name: Name,
    model: Annotated[
        str | None,
        typer.Option(
            help="Check also that this model can encode every image and text: emblem, a folder, "
            "or a Hugging Face id."
        ),
    ] = None,
) -> None:
    """Check every record and every image of a benchmark that was added."""
    from liveedit.data.published.locations import location

    _check(name, location(name), model)
    Console().print(f"{name} is sound")


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
    with Progress(console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("images", total=None)

        def progress(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        result = check(published, found, progress, look, read)
    _print_check(console, result)
    if result.problems:
        file = _write_problems(name, result)
        raise BadInput(
            f"{name} has faults ({len(result.problems):,}), all listed in {file}: fix them first"
        )


def _print_check(console: Console, result: "Check") -> None:
    """Print the numbers of records and images, the notes and the first problems."""
    counts = [f"{file} {count:,} records" for file, count in result.records.items()]
    console.print(", ".join([*counts, f"{result.images:,} images"]), markup=False)
    notes = [f"note: {note}" for note in result.notes]
    for line in [*notes, *result.problems[:SHOWN]]:
        console.print(line, markup=False, highlight=False)


def _reader(model: str | None) -> "Reader | None":
    """The model that encodes all images and texts for the check, if one is given."""
    if model is None:
        return None
    from liveedit.editable import load_vlm
    from liveedit.models.input_checks import Reader

    return Reader(load_vlm(model))


def _write_problems(name: str, result: "Check") -> Path:
    """Write all problems to a file, which is returned.

    Raises :class:`BadInput` if a file of this name exists that LiveEdit did not write.
    """
    from liveedit.artifacts import write_files
    from liveedit.data.published.locations import NO_ROOM, home

    file = f"{name}-problems.txt"
    lines = "".join(f"{line}\n" for line in result.problems)
    content = lines.encode(errors="backslashreplace")
    return write_files(home(), {file: content}, advice=NO_ROOM) / file
