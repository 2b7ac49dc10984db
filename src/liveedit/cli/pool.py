"""`liveedit edit`, `ask`, `edits`, `forget`: correct a model and use it, with the edits kept in a folder."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from liveedit.cli.loading import DeviceMap, Dtype, Quantize, options
from liveedit.errors import BadInput
from liveedit.types import Query

if TYPE_CHECKING:
    from liveedit.editable import EditableVLM

__all__ = ["ask", "edit", "edits", "forget"]

Pool = Annotated[Path, typer.Option(help="Folder that keeps the edits.")]
Model = Annotated[str, typer.Option(help='"emblem" (embedded), a folder, or a Hugging Face id.')]
EditorName = Annotated[str, typer.Option(help="Name of a method, or the folder of a trained editor.")]
Images = Annotated[
    list[Path] | None,
    typer.Option(help="A picture to show with the question; give the option again for each further one."),
]
About = Annotated[int, typer.Option(help="Which of several pictures the question is about, from 0; -1 is the last.")]
Prompt = Annotated[str, typer.Argument(help="The question.")]


def edit(
    prompt: Prompt,
    target: Annotated[str, typer.Argument(help="The answer wanted.")],
    image: Images = None,
    about: About = -1,
    pool: Pool = Path("edits"),
    model: Model = "emblem",
    editor: EditorName = "pinpoint",
    dtype: Dtype = None,
    quantize: Quantize = None,
    device_map: DeviceMap = None,
) -> None:
    """Correct one answer; show it before and after."""
    console = Console()
    edited = _open(model, editor, pool, options(dtype, quantize, device_map), must_exist=False)
    query = Query(prompt, target, image, about=about)
    before = edited.generate(query)[0]
    made = edited.edit(query)[0]
    after = edited.generate(query)[0]
    edited.save(pool)
    table = Table("edit", "before", "wanted", "after")
    table.add_row(made.id, before, target, after)
    console.print(table)


def ask(
    prompt: Prompt,
    image: Images = None,
    about: About = -1,
    pool: Pool = Path("edits"),
    model: Model = "emblem",
    editor: EditorName = "pinpoint",
    dtype: Dtype = None,
    quantize: Quantize = None,
    device_map: DeviceMap = None,
) -> None:
    """Ask the edited model; say which edits took part in the answer."""
    console = Console()
    edited = _open(model, editor, pool, options(dtype, quantize, device_map), must_exist=False)
    query = Query(prompt, image=image, about=about)
    console.print(edited.generate(query)[0], markup=False)
    for made, weight in edited.explain(query):
        console.print(
            f"  edit {made.id} (weight {weight:.2f}): {made.prompt} → {made.target}", style="dim", markup=False
        )


def edits(pool: Pool = Path("edits")) -> None:
    """List the edits in force."""
    try:
        stored = json.loads((pool / "edits.json").read_text(encoding="utf-8"))["edits"]
    except FileNotFoundError:
        raise BadInput(f"no edits in {pool}: check --pool, or make one with `liveedit edit`") from None
    except (ValueError, KeyError):
        raise BadInput(f"{pool / 'edits.json'} is damaged: restore it from a copy, or make the edits again") from None
    table = Table("edit", "question", "answer", "image", "made")
    for row in stored:
        table.add_row(row["id"], row["prompt"], row["target"], row["image"] or "–", row["time"][:19])
    Console().print(table)


def forget(
    ids: Annotated[list[str], typer.Argument(help="Ids of the edits to take back.")],
    pool: Pool = Path("edits"),
    model: Model = "emblem",
    editor: EditorName = "pinpoint",
    dtype: Dtype = None,
    quantize: Quantize = None,
    device_map: DeviceMap = None,
) -> None:
    """Take edits back."""
    edited = _open(model, editor, pool, options(dtype, quantize, device_map), must_exist=True)
    edited.forget(ids)
    edited.save(pool)
    Console().print(f"forgot {len(ids)}, {len(edited.edits)} left")


def _open(model: str, editor: str, pool: Path, form: dict[str, Any], *, must_exist: bool) -> "EditableVLM":
    """The model with the edits of ``pool``, if there are any."""
    from liveedit.editable import load

    edited = load(model, editor, **form)
    if must_exist or pool.exists():
        edited.load(pool)
    return edited
