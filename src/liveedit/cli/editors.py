"""`liveedit editors`: the editing methods and their settings."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Annotated, Any, Literal, get_args, get_origin

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from liveedit.cli.options import plain
from liveedit.editors import EDITORS
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
) -> None:
    """List the editing methods, or the settings of one of them."""
    if name is None:
        table = Table("name", "paper", title="Editors")
        for method in sorted(EDITORS):
            table.add_row(method, EDITORS[method].paper)
        Console().print(table)
        return
    editor = resolve("editor", name, EDITORS)
    console = Console(highlight=False)
    console.print(f"{name}: {EDITORS[name].paper}", markup=False)
    console.print(settings_table(describe(editor.Config)))


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
