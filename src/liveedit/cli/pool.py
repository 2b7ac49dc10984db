"""`liveedit edit`, `ask`, `edits`, `forget`: correct a model and use it, with the edits kept in a
folder.

The folder remembers the model, the editor, the type of the weights and the form of prompts that it
was made with; where the options leave them out, they are taken from there.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from liveedit.cli.display import Unshown, shown, standing
from liveedit.cli.loading import DeviceMap, Dtype, PromptForm, Quantize, options
from liveedit.cli.paths import path
from liveedit.editors.former_names import SHIPPED
from liveedit.errors import BadInput
from liveedit.store.listing import FILE, Edit, Listing
from liveedit.types import Query, visible

if TYPE_CHECKING:
    from liveedit.editable import EditableVLM

__all__ = ["ask", "edit", "edits", "forget"]

DEFAULT = Path("edits")
UNCHANGED = "stopped; nothing was changed"
UNTAKEN = 3
"""The exit status of an edit that the model does not answer with."""

Pool = Annotated[Path, typer.Option(parser=path, help="Folder that keeps the edits.")]
Model = Annotated[
    str | None,
    typer.Option(
        help='"emblem" (embedded), a folder, or a Hugging Face id; default: the pool\'s, else emblem.'
    ),
]
EditorName = Annotated[
    str | None,
    typer.Option(
        help="Name of a method, or the folder of a trained editor; default: the pool's, else pinpoint."
    ),
]
Images = Annotated[
    list[Path] | None,
    typer.Option(
        help="A picture to show with the question; give the option again for each further one."
    ),
]
About = Annotated[
    int,
    typer.Option(help="Which of several pictures the question is about, from 0; -1 is the last."),
]
Prompt = Annotated[str, typer.Argument(help="The question.")]
Tokens = Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")]


def edit(
    prompt: Prompt,
    target: Annotated[str, typer.Argument(help="The answer wanted.")],
    image: Images = None,
    about: About = -1,
    pool: Pool = DEFAULT,
    model: Model = None,
    editor: EditorName = None,
    prompt_format: PromptForm = None,
    dtype: Dtype = None,
    quantize: Quantize = None,
    device_map: DeviceMap = None,
    max_new_tokens: Tokens = 64,
) -> None:
    """Correct one answer; show it before and after. Exit status 3 says that the edit did not take."""
    query = Query(prompt, target, image, about=about)
    with standing(f"{UNCHANGED} in {pool}"):
        edited = _model(
            Listing.find(pool), model, editor, prompt_format, dtype, quantize, device_map
        )
        with _changing(pool):
            if Listing.find(pool):
                edited.load(pool)
            [before] = edited.generate(query, max_new_tokens=max_new_tokens)
            [made] = edited.edit(query)
            [after] = edited.generate(query, max_new_tokens=max_new_tokens)
            edited.save(pool)
    table = _table("edit", "before", "wanted", "after")
    table.add_row(shown(made.id), shown(before), shown(target), shown(after))
    with _showing(pool):
        Console().print(table)
        _notes(made, edited.history)
    if not made.took:
        raise typer.Exit(UNTAKEN)


def ask(
    prompt: Prompt,
    image: Images = None,
    about: About = -1,
    pool: Annotated[
        Path | None,
        typer.Option(parser=path, help=f"Folder that keeps the edits.  [default: {DEFAULT}]"),
    ] = None,
    model: Model = None,
    editor: EditorName = None,
    prompt_format: PromptForm = None,
    dtype: Dtype = None,
    quantize: Quantize = None,
    device_map: DeviceMap = None,
    max_new_tokens: Tokens = 64,
) -> None:
    """Ask the edited model; say which edits took part in the answer."""
    if not visible(prompt):
        raise BadInput("the question is empty: ask something")
    query = Query(prompt, image=image, about=about)
    with standing(UNCHANGED):
        held = Listing.read(pool or DEFAULT) if pool or (DEFAULT / FILE).exists() else None
        edited = _model(held, model, editor, prompt_format, dtype, quantize, device_map)
        if held is not None:
            edited.load(pool or DEFAULT)
        console = Console(soft_wrap=True, highlight=False)
        console.print(shown(edited.generate(query, max_new_tokens=max_new_tokens)[0], lines=True))
        if held is None:
            Console(stderr=True).print(
                f"no edits in ./{DEFAULT}: this is the unedited answer", style="dim"
            )
        for made, weight in edited.explain(query):
            told = f"  edit {made.id} (weight {weight:.2f}): {made.prompt} → {made.target}"
            console.print(shown(told, style="dim"))


def edits(pool: Pool = DEFAULT) -> None:
    """List the edits in force, and those superseded with what they were superseded by."""
    table = _table("edit", "question", "answer", "picture", "made")
    for row in Listing.read(pool).history:
        made = [row.time[:10], f"superseded by {row.superseded_by}" if row.superseded_by else ""]
        made += [f"overrules {id}" for id in row.conflicts]
        table.add_row(
            *map(shown, (row.id, row.prompt, row.target)),
            shown(_pictures(row), lines=True),
            shown("\n".join(filter(None, made)), lines=True),
            style="dim" if row.superseded_by else "",
        )
    Console().print(table)


def forget(
    ids: Annotated[
        list[str], typer.Argument(help="Ids of the edits to take back, or their beginnings.")
    ],
    pool: Pool = DEFAULT,
    model: Model = None,
    editor: EditorName = None,
    prompt_format: PromptForm = None,
    dtype: Dtype = None,
    quantize: Quantize = None,
    device_map: DeviceMap = None,
) -> None:
    """Take edits back."""
    with standing(f"{UNCHANGED} in {pool}"):
        edited = _model(
            Listing.read(pool), model, editor, prompt_format, dtype, quantize, device_map
        )
        with _changing(pool):
            edited.load(pool)
            taken = edited.forget(ids)
            edited.save(pool)
    with _showing(pool):
        Console().print(f"forgot {len(taken)}, {len(edited.edits)} left")


def _model(
    held: Listing | None,
    model: str | None,
    editor: str | None,
    prompt_format: str | None,
    dtype: str | None,
    quantize: str | None,
    device_map: str | None,
) -> "EditableVLM":
    """The model, without edits yet, as the options ask for it, and where they do not, as the edits
    in ``held`` do.
    """
    made = {"model": "emblem", "editor": "pinpoint"}
    if held is not None:
        made |= {"editor": held.editor, **held.opens_with}
    if held is not None and held.editor_fingerprint in SHIPPED:
        made["editor"] = "pinpoint"  # which opens the edits of the editors that shipped before it
    given = {"model": model, "editor": editor, "dtype": dtype, "prompt_format": prompt_format}
    made |= {name: value for name, value in given.items() if value is not None}
    form = options(made.get("dtype"), quantize, device_map, made.get("prompt_format"))
    for name, chosen in (("model", model), ("editor", editor)):
        if chosen is None and Path(made[name]).is_absolute() and not Path(made[name]).exists():
            raise BadInput(
                f"the edits were made with the {name} in {made[name]}, which is gone: give it by --{name}"
            )

    from liveedit.editable import load

    return load(made["model"], made["editor"], **form)


@contextmanager
def _changing(pool: Path) -> Iterator[None]:
    """Keep others from changing ``pool``; of an interrupt say whether the change was made."""
    from liveedit.artifacts import locked

    with locked(pool):
        before = Listing.find(pool)
        try:
            yield
        except KeyboardInterrupt:
            saved = Listing.find(pool) != before
            raise KeyboardInterrupt(
                f"stopped; the change is saved in {pool}" if saved else ""
            ) from None


@contextmanager
def _showing(pool: Path) -> Iterator[None]:
    """Of a change that cannot be shown say that it is made."""
    try:
        yield
    except Unshown as error:
        raise Unshown(f"the change is saved in {pool}; {error}") from None


def _table(id: str, *others: str) -> Table:
    """A table whose first column, the id, is whole on any screen."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column(id, no_wrap=True, min_width=8)
    for heading in others:
        table.add_column(heading, overflow="fold")
    return table


def _notes(made: Edit, history: tuple[Edit, ...]) -> None:
    """Say what a new edit did to earlier ones, and on standard error if it did not take."""
    told = Console(soft_wrap=True, highlight=False)
    for other in history:
        if other.superseded_by == made.id:
            told.print(shown(f"it supersedes {other.id}, the answer {other.target}"))
    for id in made.conflicts:
        told.print(
            f"it is in conflict with {id}, about another picture: where both act, this one holds"
        )
    if not made.took:
        Console(stderr=True, soft_wrap=True, highlight=False).print(
            f"the edit did not take: try another method (`liveedit editors`), or `liveedit forget {made.id}`"
        )


def _pictures(edit: Edit) -> str:
    """The pictures of an edit: the names of their files, and the hash over them."""
    return (
        "\n".join([*(Path(name).name.replace("\n", "\\n") for name in edit.names), edit.image])
        or "–"
    )
