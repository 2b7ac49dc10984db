"""`liveedit doctor`: what this installation is made of, and whether it works."""

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from liveedit.cli.display import print_json, shown
from liveedit.cli.opening import DEFAULT, Setup, Where, find_store, open_edited
from liveedit.cli.options import AsJson, Loading, with_groups
from liveedit.errors import LiveEditError

__all__ = ["doctor"]

PACKAGES = ("liveedit", "torch", "transformers", "accelerate", "sqlalchemy", "psycopg")
UNWELL = 4
"""Exit status where the store or the model cannot be used."""


@with_groups
def doctor(
    *, store: Where = DEFAULT, setup: Setup, loading: Loading, as_json: AsJson = False
) -> None:
    """Show versions, device, store and model, and ask the model a question.

    Exit status 4: the store or the model cannot be used.
    """
    rows: dict[str, str] = {"python": platform.python_version(), "system": platform.platform()}
    rows |= {name: _version(name) for name in PACKAGES}
    rows["device"] = _device()
    problems: dict[str, str] = {}
    try:
        rows["store"] = _store(store)
        rows |= _model(store, setup, loading)
    except LiveEditError as error:
        problems["problem"] = str(error)
    if as_json:
        print_json(rows | problems)
    else:
        _print_rows(rows | problems)
    if problems:
        raise typer.Exit(UNWELL)


def _version(name: str) -> str:
    """The version of a package."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _device() -> str:
    """The devices that torch can use."""
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
        return ", ".join(names)
    return f"CPU, {torch.get_num_threads()} threads"


def _store(where: str) -> str:
    """The store, and how many edits it keeps. Raises what opening it raises."""
    kept = find_store(where)
    if kept is None:
        return f"none at {where} yet"
    return f"{kept}, {len(kept.kept()):,} edits, version {kept.version:,}"


def _model(where: str, setup: Setup, loading: Loading) -> dict[str, str]:
    """The model and the editor, with an answer of the model."""
    from liveedit.types import Query

    edited = open_edited(where, setup, loading)
    question = "What is this?"
    [answer] = edited.unedited(Query(question))
    parameters = sum(weight.numel() for weight in edited.vlm.model.parameters())
    return {
        "model": f"{edited.opens_with['model']}, {parameters / 1e6:,.0f} million parameters",
        "editor": edited.editor.name,
        "prompts": edited.vlm.prompt_format,
        question: answer,
    }


def _print_rows(rows: dict[str, Any]) -> None:
    """Print names and values as a table."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(shown(name), shown(value))
    Console().print(table)
