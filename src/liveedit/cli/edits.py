"""`liveedit edit`, `ask`, `edits`, `forget`: edit a model and query it; a folder keeps the edits.

The folder also keeps the model, the editor, the type of the weights and the prompt format that the
edits were made with. Options that are not given take these values.
"""

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from liveedit.cli.display import Unshown, interrupt_message, shown
from liveedit.cli.options import Loading, Question, path, with_groups
from liveedit.editors.former_names import SHIPPED
from liveedit.errors import BadInput
from liveedit.store.edit import Edit
from liveedit.store.listing import FILE, Listing
from liveedit.types import visible

if TYPE_CHECKING:
    from liveedit.editable import EditableVLM

__all__ = ["ask", "edit", "edits", "forget"]

DEFAULT = Path("edits")
UNCHANGED = "stopped; nothing was changed"
DIRECT = "direct"
"""The editor of models that have no trained one."""
NOT_TAKEN = 3
"""Exit status of an edit after which the model does not answer with the target."""

Pool = Annotated[Path, typer.Option(parser=path, help="Folder that keeps the edits.")]
MaxTokens = Annotated[int, typer.Option(min=1, help="Largest number of tokens of an answer.")]


@dataclass(frozen=True)
class Setup:
    """The model and the editor of the edits."""

    model: Annotated[
        str | None,
        typer.Option(
            help='Model: "emblem" (embedded), a folder, or a Hugging Face id. '
            "Default: that of the edits, else emblem."
        ),
    ] = None
    editor: Annotated[
        str | None,
        typer.Option(
            help="Name of a method, or folder of a trained editor. "
            "Default: that of the edits, else pinpoint for the embedded model, direct for others."
        ),
    ] = None


@with_groups
def edit(
    *,
    question: Question,
    target: Annotated[str, typer.Argument(help="The answer to give from now on.")],
    pool: Pool = DEFAULT,
    setup: Setup,
    loading: Loading,
    max_new_tokens: MaxTokens = 64,
) -> None:
    """Correct one answer, and show it before and after.

    Exit status 3: the edit is saved, but the model still does not give the answer.
    """
    query = question.query(target)
    with interrupt_message(f"{UNCHANGED} in {pool}"):
        listing = Listing.find(pool)
        edited = _load(listing, setup, loading)
        if listing is None and setup.editor is None and edited.editor.name == DIRECT:
            _print_untrained(edited)
        with _changing(pool):
            if Listing.find(pool):
                edited.load(pool)
            [before] = edited.generate(query, max_new_tokens=max_new_tokens)
            [made] = edited.edit(query)
            [after] = edited.generate(query, max_new_tokens=max_new_tokens)
            edited.save(pool)
    table = _table("edit", "before", "wanted", "after")
    table.add_row(shown(made.id), shown(before), shown(target), shown(after))
    with _showing_change(pool):
        Console().print(table)
        _print_notes(made, edited.history)
    if not made.took:
        raise typer.Exit(NOT_TAKEN)


@with_groups
def ask(
    *,
    question: Question,
    pool: Annotated[
        Path | None,
        typer.Option(parser=path, help=f"Folder that keeps the edits.  [default: {DEFAULT}]"),
    ] = None,
    setup: Setup,
    loading: Loading,
    max_new_tokens: MaxTokens = 64,
) -> None:
    """Ask the edited model, and show which edits fired."""
    if not visible(question.prompt):
        raise BadInput("the question is empty: ask something")
    query = question.query()
    with interrupt_message(UNCHANGED):
        folder = pool or DEFAULT
        listing = Listing.read(folder) if pool or (DEFAULT / FILE).exists() else None
        edited = _load(listing, setup, loading)
        if listing is not None:
            edited.load(folder)
        [answer] = edited.generate(query, max_new_tokens=max_new_tokens)
        console = Console(soft_wrap=True, highlight=False)
        console.print(shown(answer, lines=True))
        if listing is None:
            note = f"no edits in ./{DEFAULT}: this is the unedited answer"
            Console(stderr=True).print(note, style="dim")
        for firing in edited.explain(query, max_new_tokens=1).fired:
            made = firing.edit
            line = f"  edit {made.id} (weight {firing.weight:.2f}): {made.prompt} → {made.target}"
            console.print(shown(line, style="dim"))


def edits(pool: Pool = DEFAULT) -> None:
    """List the edits, those superseded included."""
    table = _table("edit", "question", "answer", "image", "made")
    for row in Listing.read(pool).history:
        table.add_row(
            shown(row.id),
            shown(row.prompt),
            shown(row.target),
            shown(_images(row), lines=True),
            shown(_state(row), lines=True),
            style="dim" if row.superseded_by else "",
        )
    Console().print(table)


@with_groups
def forget(
    *,
    ids: Annotated[
        list[str], typer.Argument(help="Ids of the edits to take back, or unique beginnings.")
    ],
    pool: Pool = DEFAULT,
    setup: Setup,
    loading: Loading,
) -> None:
    """Take edits back."""
    with interrupt_message(f"{UNCHANGED} in {pool}"):
        edited = _load(Listing.read(pool), setup, loading)
        with _changing(pool):
            edited.load(pool)
            taken = edited.forget(ids)
            edited.save(pool)
    with _showing_change(pool):
        Console().print(f"forgot {len(taken)}, {len(edited.edits)} left")


def _load(listing: Listing | None, setup: Setup, loading: Loading) -> "EditableVLM":
    """Load the model without edits: with the options given, else with those of the edits.

    Raises :class:`BadInput` where the edits name a folder that no longer exists.
    """
    made = {"model": "emblem"}
    if listing is not None:
        made |= {"editor": listing.editor, **listing.opens_with}
        if listing.editor_fingerprint in SHIPPED:
            made["editor"] = "pinpoint"  # opens the edits of editors that shipped before it
    loading = replace(
        loading,
        dtype=made.get("dtype") if loading.dtype is None else loading.dtype,
        prompt_format=(
            made.get("prompt_format") if loading.prompt_format is None else loading.prompt_format
        ),
    )
    model = _source("model", setup.model, made["model"])
    from liveedit.editable import default_editor, load

    editor = _source("editor", setup.editor, made.get("editor") or default_editor(model))
    return load(model, editor, **loading.arguments())


def _source(name: str, given: str | None, made: str) -> str:
    """The source that an option gives, else that of the edits, which must still exist."""
    if given is not None:
        return given
    if Path(made).is_absolute() and not Path(made).exists():
        raise BadInput(
            f"the edits were made with the {name} in {made}, which no longer exists: use --{name}"
        )
    return made


@contextmanager
def _changing(pool: Path) -> Iterator[None]:
    """Lock ``pool`` against others; Ctrl-C says whether the change was saved."""
    from liveedit.artifacts import locked

    with locked(pool):
        before = Listing.find(pool)
        try:
            yield
        except KeyboardInterrupt:
            saved = Listing.find(pool) != before
            message = f"stopped; the change is saved in {pool}" if saved else ""
            raise KeyboardInterrupt(message) from None


@contextmanager
def _showing_change(pool: Path) -> Iterator[None]:
    """If a change is saved but cannot be printed, report that it is saved."""
    try:
        yield
    except Unshown as error:
        raise Unshown(f"the change is saved in {pool}; {error}") from None


def _table(id: str, *others: str) -> Table:
    """A table whose first column, the id, is never wrapped or cut."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column(id, no_wrap=True, min_width=8)
    for heading in others:
        table.add_column(heading, overflow="fold")
    return table


def _print_notes(made: Edit, history: tuple[Edit, ...]) -> None:
    """Print an edit's effect on earlier ones; if it did not take, say so on standard error."""
    console = Console(soft_wrap=True, highlight=False)
    for other in history:
        if other.superseded_by == made.id:
            console.print(shown(f"supersedes {other.id}, with the answer {other.target}"))
    for id in made.conflicts:
        console.print(f"overrules {id}, about another image, where both fire")
    if not made.took:
        advice = f"try another method (`liveedit editors`), or `liveedit forget {made.id}`"
        Console(stderr=True, soft_wrap=True, highlight=False).print(
            f"the edit did not take: {advice}"
        )


def _print_untrained(edited: "EditableVLM") -> None:
    """Say which editor is used where no trained one is given, and how to train one."""
    model = shlex.quote(edited.opens_with["model"])
    Console(stderr=True, soft_wrap=True, highlight=False).print(
        f"no trained editor given: {DIRECT} fits each edit, which takes longer than a trained "
        f"editor's single pass; to train one: liveedit train OUT --model {model}"
    )


def _images(edit: Edit) -> str:
    """The images of an edit: the names of their files, and the hash of their pixels."""
    names = [Path(name).name.replace("\n", "\\n") for name in edit.names]
    return "\n".join([*names, edit.image]) or "–"


def _state(edit: Edit) -> str:
    """The day of an edit, the edit that superseded it, and those that it overrules."""
    lines = [edit.time[:10]]
    if edit.superseded_by:
        lines.append(f"superseded by {edit.superseded_by}")
    lines += [f"overrules {id}" for id in edit.conflicts]
    return "\n".join(filter(None, lines))
