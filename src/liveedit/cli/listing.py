"""`liveedit edits`: list the edits of a store, also as they once were, and tell about one."""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from liveedit.cli.display import print_json, shown
from liveedit.cli.opening import DEFAULT, Where, open_store
from liveedit.cli.options import AsJson
from liveedit.errors import BadInput

if TYPE_CHECKING:
    from liveedit.store.browsing import Event, Listed
    from liveedit.store.edit import Edit
    from liveedit.store.store import Hit, Store

__all__ = ["edit_table", "edits"]

FIRINGS = 10
"""The newest firings that are told of an edit."""


def edits(
    id: Annotated[
        str | None,
        typer.Argument(
            help="Id of an edit, or a unique beginning: its history and when it fired.",
            show_default=False,
        ),
    ] = None,
    store: Where = DEFAULT,
    search: Annotated[
        str, typer.Option(help="List the edits whose texts or id contain this.")
    ] = "",
    everything: Annotated[bool, typer.Option("--all", help="List those taken back, too.")] = False,
    at: Annotated[
        str | None,
        typer.Option(
            help="List the edits as they were at a time, such as 2026-05-01 or 2026-05-01T12:30; "
            "local time unless it names a zone."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the edits, those superseded included, or tell what happened to one."""
    if id is None:
        _list(store, search, everything, at, as_json=as_json)
    elif search or everything or at:
        raise BadInput("an edit and --search, --all or --at were given: leave one of them out")
    else:
        _tell(open_store(store), id, as_json=as_json)


def _list(where: str, search: str, everything: bool, time: str | None, *, as_json: bool) -> None:
    """List the edits of a store."""
    from liveedit.store.browsing import page

    moment = None if time is None else _time(time)
    store = open_store(where)
    at = None if moment is None else store.version_at(moment)
    found, _ = page(store, state=None, search=search, limit=None, at=at)
    chosen = [edit for edit in reversed(found) if everything or edit.state != "taken_back"]
    if as_json:
        print_json([edit.as_json() for edit in chosen])
    else:
        _print_edits(chosen)


def _time(text: str) -> datetime:
    """The time that a text names. Raises :class:`BadInput` if it names none."""
    try:
        return datetime.fromisoformat(text.strip()).astimezone(UTC)
    except (ValueError, OverflowError):  # no time in UTC
        raise BadInput(
            f"--at takes a time such as 2026-05-01 or 2026-05-01T12:30, not {text[:40]!r}"
        ) from None


def _tell(store: "Store", id: str, *, as_json: bool) -> None:
    """Tell about one edit: its history, and when it fired."""
    from liveedit.store.browsing import listed, story

    kept = store.find(id)
    [told] = listed(store, [kept.number])
    events = story(store, kept)
    hits = store.hits(kept.number, FIRINGS)
    if as_json:
        history = [asdict(event) | {"by": event.by or None} for event in events]
        firings = [{"time": hit.time, "weight": hit.weight, "request": hit.request} for hit in hits]
        print_json(told.as_json() | {"history": history, "firings": firings})
    else:
        _print_edits([told])
        _print_history(events)
        _print_firings(told, hits)


# Printing


def edit_table(id: str, *others: str) -> Table:
    """A table whose first column, the id, is never wrapped or cut."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column(id, no_wrap=True, min_width=12)
    for heading in others:
        table.add_column(heading, overflow="fold")
    return table


def _print_edits(found: "Sequence[Listed]") -> None:
    """Print a table of edits."""
    table = edit_table("edit", "question", "answer", "image", "made")
    for told in found:
        edit = told.kept.edit
        table.add_row(
            shown(edit.id),
            shown(edit.prompt),
            shown(edit.target),
            shown(_images(edit), lines=True),
            shown(_made(told), lines=True),
            style="" if told.state == "in_force" else "dim",
        )
    Console().print(table)


def _print_history(events: "Sequence[Event]") -> None:
    """Print what happened to an edit, one event a line."""
    for event in events:
        by = f" by {event.by}" if event.by else ""
        who = f", {event.who}" if event.who else ""
        line = f"{event.time}  {event.kind.replace('_', ' ')}{by}{who}"
        Console(soft_wrap=True, highlight=False).print(shown(line))


def _print_firings(told: "Listed", hits: "Sequence[Hit]") -> None:
    """Print how often an edit fired, and when."""
    console = Console(soft_wrap=True, highlight=False)
    newest = ", the newest:" if hits else ""
    console.print(f"firings: {told.hits:,}{newest}")
    for hit in hits:
        request = f", request {hit.request}" if hit.request else ""
        console.print(shown(f"{hit.time}  weight {hit.weight:.2f}{request}"))


def _images(edit: "Edit") -> str:
    """The images of an edit: the names of their files, and the hash of their pixels."""
    names = [Path(name).name.replace("\n", "\\n") for name in edit.names]
    return "\n".join([*names, edit.image]) or "–"


def _made(told: "Listed") -> str:
    """The day of an edit, who made it, why and by which editor, and its relation to others."""
    edit = told.kept.edit
    who = " ".join(filter(None, (edit.who, edit.why and f"({edit.why})")))
    lines = [edit.time[:10], who, f"with {told.editor}"]
    if told.superseded_by:
        lines.append(f"superseded by {told.superseded_by}")
    if told.state == "taken_back":
        lines.append("taken back")
    lines += [f"overrules {id}" for id in edit.conflicts]
    return "\n".join(filter(None, lines))
