"""`liveedit data`: which benchmarks there are, where the published ones lie, what their splits give
away.
"""

import json
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from liveedit.cli.paths import path
from liveedit.data import PUBLISHED, TITLES
from liveedit.errors import BadInput

if TYPE_CHECKING:
    from liveedit.data.published.checks import Check
    from liveedit.data.published.places import Place
    from liveedit.models.texts import Reader

__all__ = ["app"]

app = typer.Typer(
    help="List the benchmarks; add, fetch and check the published ones.", no_args_is_help=False
)

Name = Annotated[str, typer.Argument(help="Published benchmark: e-vqa, e-ic or vlkeb.")]
SHOWN = 10
"""How many problems the terminal shows; a file has them all."""


@app.callback(invoke_without_command=True)
def overview(context: typer.Context) -> None:
    """List the benchmarks, and where the published ones are."""
    if context.invoked_subcommand is not None:
        return
    from liveedit.data.published.places import places

    added = places()
    table = Table("name", "what", "here", title="Benchmarks")
    for name, what in TITLES.items():
        table.add_row(
            name,
            what,
            "yes" if PUBLISHED.get(name, name) in added or name not in PUBLISHED else "no",
        )
    console = Console()
    console.print(table)
    facts = json.loads(
        (files("liveedit.data.emblem") / "assets" / "facts.json").read_text(encoding="utf-8")
    )
    drawings = sum(len(entity["hands"]) for entity in facts["entities"])
    console.print(
        f"emblem: {len(facts['entities'])} entities, {drawings} drawings; "
        "details in docs/explanation/data-card.md"
    )
    console.print(
        "`liveedit data add NAME` makes a published benchmark known, `liveedit data fetch NAME` downloads it"
    )


@app.command()
def add(
    name: Name,
    annotations: Annotated[
        list[Path],
        typer.Option(
            parser=path,
            help="An annotation file, or a folder to look through for them; may be repeated.",
        ),
    ],
    images: Annotated[
        Path,
        typer.Option(parser=path, help="The folder that the annotations' image paths start from."),
    ],
) -> None:
    """Check a published benchmark that lies on this machine, and remember where. Nothing is copied."""
    from liveedit.data.published.places import locate
    from liveedit.data.published.sources import source

    _add(name, locate(source(name), annotations, images))


@app.command()
def fetch(name: Name) -> None:
    """Download a published benchmark from the Hugging Face Hub, check it, and remember where it is."""
    from liveedit.data.published.hub import fetch as download
    from liveedit.data.published.places import home
    from liveedit.data.published.sources import source

    _add(name, download(source(name), home() / name))


@app.command()
def check(
    name: Name,
    model: Annotated[
        str | None,
        typer.Option(
            help="Have this model take every image and text, too: emblem, a folder, or a Hugging Face id."
        ),
    ] = None,
) -> None:
    """Look through every record and every image of a benchmark that was added."""
    from liveedit.data.published.places import place

    _check(name, place(name), model)
    Console().print(f"{name} is sound")


@app.command()
def leaks(name: Name) -> None:
    """Count what a published training split gives away of its test split, and what the clean one
    does.
    """
    from liveedit.data.published.leaks import clean, edited_locality_images
    from liveedit.data.published.leaks import leaks as measure
    from liveedit.data.published.places import annotations
    from liveedit.data.published.sources import source

    published = source(name)
    train, test = annotations(name, "train"), annotations(name, "test")
    cleaned = clean(train, test, published)
    table = Table(
        f"of {len(test):,} test cases",
        "paper",
        "clean",
        title=f"What {name} shares with its training",
    )
    for leak, left in zip(
        measure(train, test, published), measure(cleaned, test, published), strict=True
    ):
        table.add_row(leak.what, f"{leak.cases:,}", f"{left.cases:,}")
    table.add_section()
    table.add_row("training cases", f"{len(train):,}", f"{len(cleaned):,}")
    images = {row.id: row.m_loc for row in train}
    exchanged = sum(row.m_loc != images[row.id] for row in cleaned)
    table.add_row("of them with another image-locality probe", "0", f"{exchanged:,}")
    Console().print(table)
    Console().print(
        f"images of locality probes that the test itself edits: {edited_locality_images(test):,}"
    )


def _add(name: str, found: "Place") -> None:
    from liveedit.data.published.places import add_place

    _check(name, found)
    add_place(name, found)
    Console().print(f"{name} is here: run `liveedit eval --data {name} --out DIR`", soft_wrap=True)


def _check(name: str, found: "Place", model: str | None = None) -> None:
    """Show what a check finds on one screen. Raises :class:`BadInput` if there is something to
    mend.
    """
    from liveedit.data.images import open_image
    from liveedit.data.published.checks import check
    from liveedit.data.published.sources import source

    published, reader = source(name), _reader(model)
    look, read = (reader.look, reader.read) if reader is not None else (open_image, None)
    console = Console(soft_wrap=True)
    with Progress(console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("images", total=None)
        result = check(
            published,
            found,
            lambda done, total: bar.update(task, completed=done, total=total),
            look,
            read,
        )
    counts = [f"{file} {count:,} records" for file, count in result.records.items()]
    console.print(", ".join([*counts, f"{result.images:,} images"]), markup=False)
    for line in [*(f"note: {note}" for note in result.notes), *result.problems[:SHOWN]]:
        console.print(line, markup=False, highlight=False)
    if result.problems:
        raise BadInput(
            f"{name} has faults ({len(result.problems):,}), all listed in {_listed(name, result)}: mend them first"
        )


def _reader(model: str | None) -> "Reader | None":
    """What takes images and texts as a model does, if one is given."""
    if model is None:
        return None
    from liveedit.editable import load_vlm
    from liveedit.models.texts import Reader

    return Reader(load_vlm(model))


def _listed(name: str, result: "Check") -> Path:
    """The file with all problems. Raises :class:`BadInput` where one of its name is somebody
    else's.
    """
    from liveedit.artifacts import write_files
    from liveedit.data.published.places import NO_ROOM, home

    file, content = f"{name}-problems.txt", "".join(line + "\n" for line in result.problems)
    return (
        write_files(home(), {file: content.encode(errors="backslashreplace")}, advice=NO_ROOM)
        / file
    )
