"""The options that name a store, a model and an editor, and what opens them.

A store also keeps the model, the editor, the type of the weights and the prompt format that its
edits were made with. Options that are not given take these values. A folder of edits, which former
versions wrote, is imported into a store at its first use; the folder itself stays as it is.
"""

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from liveedit.artifacts import resolved_path
from liveedit.cli.display import shown
from liveedit.cli.options import Loading
from liveedit.editors.former_names import SHIPPED
from liveedit.errors import BadInput
from liveedit.store.listing import FILE, Listing
from liveedit.types import expanded

if TYPE_CHECKING:
    from liveedit.editable import EditableVLM
    from liveedit.store.store import Maker, Store

__all__ = [
    "DEFAULT",
    "NOT_TAKEN",
    "UNCHANGED",
    "Setup",
    "Where",
    "find_store",
    "note",
    "open_edited",
    "open_store",
]

LOG = logging.getLogger(__name__)
DEFAULT = "edits.db"
UNCHANGED = "stopped; nothing was changed"
NOT_TAKEN = 3
"""Exit status where the model does not, or would not, answer with an edit's target."""
FORMER = Path("edits")
"""The folder that kept the edits by default in former versions."""
DIRECT = "direct"
"""The editor of models that have no trained one."""

Where = Annotated[
    str,
    typer.Option(
        "--store",
        envvar="LIVEEDIT_STORE",
        help="Store that keeps the edits: a file, or the URL of a PostgreSQL database.",
    ),
]


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


def find_store(where: str) -> "Store | None":
    """The store; ``None`` where there is none yet. Raises :class:`BadInput` for other data."""
    from liveedit.store.store import Store

    store = Store(_path(where))
    if store.exists:
        return store
    store.close()
    return None


def open_store(where: str, setup: Setup | None = None, loading: Loading | None = None) -> "Store":
    """The store, which must exist; imports a folder of a former version, with its model.

    Raises :class:`BadInput` where there is none.
    """
    from liveedit.store.store import Store

    if _former(where):
        store = open_edited(where, setup or Setup(), loading or Loading()).store
        assert store is not None
        return store
    return Store(_path(where), create=False)


def open_edited(
    where: str, setup: Setup, loading: Loading, *, create: bool = True
) -> "EditableVLM":
    """The model with the edits of a store: by the options given, else as the edits were made.

    Raises :class:`BadInput` where the edits name a folder that no longer exists, and, unless
    ``create``, where there is no store.
    """
    from liveedit.store.store import Store

    former = _former(where)
    store = Store(_path(where), create=create or former is not None)
    listing = Listing.read(former) if former else None
    kept = store.newest_maker() if setup.model else store.remembered()
    made = _made_with(listing or kept)
    edited = _load(store, made, setup, loading)
    if former:
        edited.load(former)
        note(f"imported the edits of {former} into {store}")
    elif not made and setup.editor is None and edited.editor.name == DIRECT:
        _print_untrained(edited)
    return edited


def note(text: str) -> None:
    """Print a remark on standard error."""
    Console(stderr=True, soft_wrap=True, highlight=False).print(shown(text, style="dim"))


def _path(where: str) -> str | Path:
    """The address of a store; within a folder of a former version it is a file."""
    if "://" in where:
        return where
    path = expanded(where)
    return path / DEFAULT if _is_former(path) else path


def _former(where: str) -> Path | None:
    """The folder of a former version that has not been imported yet."""
    if "://" in where:
        return None
    path = expanded(where)
    folder = FORMER if where == DEFAULT and not path.exists() else path
    return None if not _is_former(folder) or find_store(where) else folder


def _is_former(folder: Path) -> bool:
    """Whether a folder holds the edits of a former version."""
    return (resolved_path(folder) / FILE).exists()


def _made_with(made: "Listing | Maker | None") -> dict[str, str]:
    """The arguments of :func:`liveedit.load` that edits were made with, as far as known."""
    if made is None:
        return {}
    found = {"editor": made.editor, **made.opens_with}
    if made.editor_fingerprint in SHIPPED:
        found["editor"] = "pinpoint"  # opens the edits of editors that shipped before it
    return found


def _load(store: "Store", made: dict[str, str], setup: Setup, loading: Loading) -> "EditableVLM":
    """Load the model with the options given, else with those that the edits were made with."""
    loading = replace(
        loading,
        dtype=loading.dtype or made.get("dtype"),
        prompt_format=loading.prompt_format or made.get("prompt_format"),
    )
    model = _source("model", setup.model, made.get("model", "emblem"))
    from liveedit.editable import default_editor, load

    editor = _source("editor", setup.editor, made.get("editor") or default_editor(model))
    LOG.debug("the store names %s", made or "no model yet")
    LOG.info("chose the model %s and the editor %s", model, editor)
    return load(model, editor, store, **loading.arguments())


def _source(name: str, given: str | None, made: str) -> str:
    """The source that an option gives, else that of the edits, which must still exist."""
    if given is not None:
        return given
    if Path(made).is_absolute() and not Path(made).exists():
        raise BadInput(
            f"the edits were made with the {name} in {made}, which no longer exists: use --{name}"
        )
    return made


def _print_untrained(edited: "EditableVLM") -> None:
    """Say which editor is used where no trained one is given, and how to train one."""
    from liveedit.editors import training_command

    command = training_command(edited.vlm, model=edited.opens_with["model"])
    note(
        f"no trained editor given: {DIRECT} fits each edit, which takes longer than a trained "
        f"editor's single pass; to train one: {command}"
    )
