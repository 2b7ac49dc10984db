"""`liveedit edit`, `ask`, `replace`, `forget`, `export`: edit a model and query it.

A store keeps the edits (:mod:`liveedit.cli.opening`).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace as with_fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from liveedit.cli.bulk import Reporter, edit_all
from liveedit.cli.display import Unshown, interrupt_message, print_json, shown
from liveedit.cli.listing import edit_table
from liveedit.cli.opening import (
    DEFAULT,
    NOT_TAKEN,
    UNCHANGED,
    Setup,
    Where,
    note,
    open_edited,
    open_store,
)
from liveedit.cli.options import (
    AsJson,
    Correction,
    Loading,
    MaxTokens,
    Question,
    Quiet,
    Who,
    path,
    with_groups,
)
from liveedit.errors import BadInput, StorageError
from liveedit.types import Query, visible

if TYPE_CHECKING:
    from liveedit.editable import EditableVLM
    from liveedit.steering.explaining import Answered, Firing
    from liveedit.store.edit import Edit
    from liveedit.store.store import Store

__all__ = ["ask", "edit", "export", "forget", "replace"]

Why = Annotated[str, typer.Option(help="The reason for the edit.")]


@with_groups
def edit(
    *,
    question: Correction,
    target: Annotated[
        str, typer.Argument(help="The answer to give from now on.", show_default=False)
    ] = "",
    corrections: Annotated[
        Path | None,
        typer.Option(
            "--from",
            parser=path,
            help="File of corrections to make, instead of one: JSON lines, JSON or CSV; - reads "
            "standard input.",
        ),
    ] = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Skip bad rows of the file; else none is made.")
    ] = False,
    who: Who = "",
    why: Why = "",
    store: Where = DEFAULT,
    setup: Setup,
    loading: Loading,
    max_new_tokens: MaxTokens = 64,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Correct one answer, or all those of a file, and show them before and after.

    Exit status 3: the edit is saved, but the model still does not give the answer.
    """
    if corrections is not None:
        _check_alone(question, target)
        with interrupt_message(f"stopped; the same command goes on from here, in {store}"):
            took = edit_all(
                corrections,
                lambda: open_edited(store, setup, loading),
                Reporter(as_json, quiet),
                origin=(who, why),
                skip_bad=skip_bad,
                max_new_tokens=max_new_tokens,
            )
    else:
        query = question.query(target)
        if not visible(query.prompt) or not visible(target):
            raise BadInput(
                "an edit needs a question and a target: give both as text that is not empty, or "
                "--from FILE"
            )
        with interrupt_message(f"{UNCHANGED} in {store}"):
            edited = open_edited(store, setup, loading)
            took = _edit(edited, query, who, why, max_new_tokens, as_json=as_json, quiet=quiet)
    if not took:
        raise typer.Exit(NOT_TAKEN)


@with_groups
def replace(
    *,
    id: Annotated[str, typer.Argument(help="Id of an edit, or a unique beginning of it.")],
    target: Annotated[str, typer.Argument(help="The answer to give instead.")],
    who: Who = "",
    why: Why = "",
    store: Where = DEFAULT,
    setup: Setup,
    loading: Loading,
    max_new_tokens: MaxTokens = 64,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Give another answer to the question of an edit, about the same images."""
    from liveedit.store.durable import kept_query

    with interrupt_message(f"{UNCHANGED} in {store}"):
        edited = open_edited(store, setup, loading, create=False)
        assert edited.store is not None
        earlier = kept_query(edited.store, edited.store.find(id))
        query = with_fields(earlier, target=target)
        took = _edit(edited, query, who, why, max_new_tokens, as_json=as_json, quiet=quiet)
    if not took:
        raise typer.Exit(NOT_TAKEN)


@with_groups
def ask(
    *,
    question: Question,
    store: Annotated[
        str | None,
        typer.Option(
            envvar="LIVEEDIT_STORE", help=f"Store that keeps the edits.  [default: {DEFAULT}]"
        ),
    ] = None,
    setup: Setup,
    loading: Loading,
    max_new_tokens: MaxTokens = 64,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Ask the edited model, and show which edits fired."""
    query = question.query()
    if not visible(query.prompt):
        raise BadInput("the question is empty: ask something")
    with interrupt_message(UNCHANGED):
        from liveedit.steering.explaining import answered  # which imports torch

        edited = open_edited(store or DEFAULT, setup, loading, create=store is None)
        found = answered(edited.pool, query, max_new_tokens)
        _record_hits(edited, found.fired)
        if as_json:
            print_json(_reply(query, found))
            return
        Console(soft_wrap=True, highlight=False).print(shown(found.answer, lines=True))
        if quiet:
            return
        if not edited.store or not edited.store.exists:
            note(f"no edits in {store or DEFAULT}: this is the unedited answer")
        for firing in found.fired:
            made = firing.edit
            line = f"  edit {made.id} (weight {firing.weight:.2f}): {made.prompt} → {made.target}"
            Console(soft_wrap=True, highlight=False).print(shown(line, style="dim"))


@with_groups
def forget(
    *,
    ids: Annotated[
        list[str] | None,
        typer.Argument(
            help="Ids of the edits to take back, or unique beginnings.", show_default=False
        ),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Take all edits back.")] = False,
    who: Who = "",
    store: Where = DEFAULT,
    setup: Setup,
    loading: Loading,
    quiet: Quiet = False,
) -> None:
    """Take edits back; the model is loaded only where that makes the others again."""
    if bool(ids) == everything:
        raise BadInput("name the edits to take back, or give --all to take all of them back")
    from liveedit.store.browsing import in_force
    from liveedit.store.upkeep import stand_alone, take_back

    with interrupt_message(f"{UNCHANGED} in {store}"):
        kept = open_store(store, setup, loading)
        with _changing(kept):
            if stand_alone(kept) and setup == Setup() and not loading.arguments():
                taken = take_back(kept, None if everything else ids, who)
            else:
                edited = open_edited(store, setup, loading, create=False)
                wanted = [edit.id for edit in edited.history] if everything else ids or []
                taken = len(edited.forget(wanted, who=who))
    if not quiet:
        with _showing_change(kept):
            Console().print(f"forgot {taken}, {in_force(kept)} left")


@with_groups
def export(
    *,
    out: Annotated[Path, typer.Argument(parser=path, help="Folder to write, a new one.")],
    store: Where = DEFAULT,
    setup: Setup,
    loading: Loading,
    quiet: Quiet = False,
) -> None:
    """Write the edited model as a checkpoint, for methods that change its weights."""
    with interrupt_message("stopped; nothing was written"):
        edited = open_edited(store, setup, loading, create=False)
        edited.save_merged(out)
    if not quiet:
        print(f"wrote the model with {len(edited.edits):,} edits to {out}")


def _check_alone(question: Correction, target: str) -> None:
    """Raise :class:`BadInput` for what a file of corrections says of each row."""
    if question.prompt or target:
        raise BadInput("a question and --from FILE were given: give one of them")
    if question.image or question.about != Correction.about:
        raise BadInput("--image and --about say nothing of a file: its rows name their images")


def _edit(
    edited: "EditableVLM",
    query: Query,
    who: str,
    why: str,
    max_new_tokens: int,
    *,
    as_json: bool,
    quiet: bool,
) -> bool:
    """Make an edit, and show the answer before and after; return whether it took."""
    kept = edited.store
    assert kept is not None
    with _changing(kept):
        [before] = edited.generate(query, max_new_tokens=max_new_tokens)
        [made] = edited.edit(query, who=who, why=why)
        [after] = edited.generate(query, max_new_tokens=max_new_tokens)
    superseded = [other for other in edited.history if other.superseded_by == made.id]
    with _showing_change(kept):
        if as_json:
            print_json(_change(kept, made, before, after, superseded))
        elif not quiet:
            table = edit_table("edit", "before", "wanted", "after")
            table.add_row(shown(made.id), shown(before), shown(query.target), shown(after))
            Console().print(table)
            _print_notes(made, superseded)
        if not made.took and not as_json:
            advice = f"try another method (`liveedit editors`), or `liveedit forget {made.id}`"
            Console(stderr=True, soft_wrap=True, highlight=False).print(
                f"the edit did not take: {advice}"
            )
    return bool(made.took)


def _record_hits(edited: "EditableVLM", fired: "Sequence[Firing]") -> None:
    """Count the edits that fired; a store that cannot be written still answers."""
    from liveedit.store.store import Hit, now

    store = edited.store
    if store is not None and store.exists:
        with suppress(StorageError):
            store.record_hits(
                [Hit(store.find(one.edit.id).number, one.weight, now()) for one in fired]
            )


@contextmanager
def _changing(store: "Store") -> Iterator[None]:
    """Let Ctrl-C say whether a change was saved."""
    before = store.version
    try:
        yield
    except KeyboardInterrupt:
        saved = store.version != before
        message = f"stopped; the change is saved in {store}" if saved else ""
        raise KeyboardInterrupt(message) from None


@contextmanager
def _showing_change(store: "Store") -> Iterator[None]:
    """If a change is saved but cannot be printed, report that it is saved."""
    try:
        yield
    except Unshown as error:
        raise Unshown(f"the change is saved in {store}; {error}") from None


# Printing


def _change(
    store: "Store", made: "Edit", before: str, after: str, superseded: "list[Edit]"
) -> dict[str, Any]:
    """A new edit with the answers before and after."""
    from liveedit.store.browsing import listed

    [told] = listed(store, [store.find(made.id).number])
    return told.as_json() | {
        "before": before,
        "after": after,
        "supersedes": [other.id for other in superseded],
    }


def _reply(query: Query, found: "Answered") -> dict[str, Any]:
    """An answer with the edits that fired."""
    return {
        "question": query.prompt,
        "answer": found.answer,
        "fired": [
            {
                "id": firing.edit.id,
                "question": firing.edit.prompt,
                "answer": firing.edit.target,
                "weight": firing.weight,
            }
            for firing in found.fired
        ],
    }


def _print_notes(made: "Edit", superseded: "list[Edit]") -> None:
    """Print an edit's effect on earlier ones."""
    console = Console(soft_wrap=True, highlight=False)
    for other in superseded:
        console.print(shown(f"supersedes {other.id}, with the answer {other.target}"))
    for id in made.conflicts:
        console.print(f"overrules {id}, about another image, where both fire")
