"""`liveedit editors`: the editing methods and their settings."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from liveedit.cli.display import shown
from liveedit.cli.options import AsJson, path, plain
from liveedit.editors import EDITORS
from liveedit.errors import BadInput
from liveedit.registry import resolve
from liveedit.settings import Setting, describe

__all__ = ["editors"]

SYMBOLS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
CONSTANTS = {"None": "null", "True": "true", "False": "false"}
LARGE = 10**6
"""Bounds of this size and above are technical limits, which the table omits."""


def editors(
    name: Annotated[
        str | None, typer.Argument(help="Method whose settings to list.", show_default=False)
    ] = None,
    trained: Annotated[
        Path, typer.Option(parser=path, help="Folder with one subfolder per trained editor.")
    ] = Path("editors"),
    as_json: AsJson = False,
) -> None:
    """List the editing methods and what each is ready for, or the settings of one of them."""
    if name is None:
        _list(trained, as_json)
        return
    editor = resolve("editor", name, EDITORS)
    console = Console(highlight=False)
    console.print(f"{name}: {EDITORS[name].paper}", markup=False)
    console.print(settings_table(describe(editor.Config)))


@dataclass(frozen=True, slots=True)
class Row:
    """A method in the list: what it needs, and what it is ready for."""

    name: str
    needs_training: bool
    ready_for: list[str]
    paper: str


def _list(trained: Path, as_json: bool) -> None:
    """List the methods, as a table or as JSON."""
    rows = [
        Row(name, EDITORS[name].trained, ready_for(name, trained), EDITORS[name].paper)
        for name in sorted(EDITORS)
    ]
    if as_json:
        print(json.dumps([asdict(row) for row in rows], ensure_ascii=False))
        return
    table = Table("name", "training", "ready for", "paper", title="Editors")
    for row in rows:
        ready = shown("\n".join(row.ready_for), lines=True)
        table.add_row(row.name, "once" if row.needs_training else "none", ready, row.paper)
    console = Console()
    console.print(table)
    console.print(
        "training once: `liveedit train OUT --editor NAME --model MODEL` makes an editor for a "
        "model; the others edit any model at once"
    )


def ready_for(name: str, trained: Path) -> list[str]:
    """The models that a method can edit now: any, the embedded one, or that of a trained folder."""
    if not EDITORS[name].trained:
        return ["any model"]
    from liveedit.editable import embedded
    from liveedit.editors.editor_files import WEIGHTS, read_info

    ready = ["emblem"] if (embedded(name) / WEIGHTS).is_file() else []
    for file in sorted(trained.glob(f"*/{WEIGHTS}")):
        try:
            method = read_info(file.parent)["editor"]
        except BadInput:
            continue  # a training that has not ended, or something else
        if method == name:
            ready.append(f"the model of {file.parent}")
    return ready


def settings_table(settings: tuple[Setting, ...]) -> Table:
    """A table of settings: name, type, default and description."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("setting", no_wrap=True)
    table.add_column("type", overflow="fold", max_width=16)
    table.add_column("default", overflow="fold", max_width=14)
    table.add_column("description")
    for setting in settings:
        default = json.dumps(setting.default, ensure_ascii=False)
        table.add_row(setting.name, type_name(setting.type), default, _description(setting))
    return table


def _description(setting: Setting) -> str:
    """The description of a setting; constants are written as in JSON, where settings are given."""
    text = setting.description
    for name, value in CONSTANTS.items():
        text = text.replace(f"``{name}``", value)
    return plain(text)


def type_name(kind: Any) -> str:
    """A type of a setting in words, with its bounds: "int ≥ 0 or null", '"step" or "cosine"'."""
    origin = get_origin(kind)
    if origin is Annotated:
        base, *constraints = get_args(kind)
        return " ".join([type_name(base), ", ".join(bounds(constraints))]).strip()
    if origin is Literal:
        return " or ".join(json.dumps(value) for value in get_args(kind))
    if origin is tuple:
        return f"list of {type_name(get_args(kind)[0])}"
    if origin is not None:  # a union
        return " or ".join(map(type_name, get_args(kind)))
    return "null" if kind is type(None) else str(kind.__name__)


def bounds(constraints: Iterable[Any]) -> Iterator[str]:
    """The bounds that constraints set, such as "≥ 0"."""
    for constraint in constraints:
        for name, value in asdict(constraint).items():
            if value is not None and value < LARGE:
                yield f"{SYMBOLS[name]} {value}"
