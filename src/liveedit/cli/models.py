"""`liveedit models`: the supported model types; check a checkpoint, convert the authors' files."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from liveedit.cli.display import interrupt_message, shown
from liveedit.cli.options import AsJson, Loading, path, with_groups
from liveedit.errors import UnsupportedModel
from liveedit.models import CONVERTERS, FAMILIES, checked
from liveedit.registry import resolve

if TYPE_CHECKING:
    from liveedit.models.conformance.contract import Finding

__all__ = ["app"]

app = typer.Typer(help="List the supported models; check a checkpoint, or convert one.")


@app.callback(invoke_without_command=True)
def models(context: typer.Context, *, as_json: AsJson = False) -> None:
    """List the model types that can be edited, and how many checks each has passed."""
    if context.invoked_subcommand is not None:
        return
    if as_json:
        print(json.dumps(_rows(), ensure_ascii=False))
        return
    title = "Any Hugging Face checkpoint of these types"
    table = Table("model_type", "family", "checked", title=title)
    for row in _rows():
        if row["reason"]:
            table.add_row(row["model_type"], "[dim]none[/]", shown(row["reason"], style="dim"))
        else:
            passed = f"{row['checks']} checks passed" if row["checks"] else "not yet"
            table.add_row(row["model_type"], row["family"], passed)
    Console().print(table)


def _rows() -> list[dict[str, Any]]:
    """The known model types: the family of each, how many checks it has passed, or the reason why
    it has no family.
    """
    rows = []
    found = checked()
    for model_type in sorted({*FAMILIES, *found}):
        record = found.get(model_type)
        reason = record.reason if record else None
        family = FAMILIES.get(model_type, ":Generic").partition(":")[2]
        rows.append(
            {
                "model_type": model_type,
                "family": None if reason else family,
                "checks": record.checks if record and not reason else 0,
                "reason": reason,
            }
        )
    return rows


@app.command()
@with_groups
def check(
    *,
    path: Annotated[str, typer.Argument(help="Folder of a checkpoint, or its Hugging Face id.")],
    loading: Loading,
) -> None:
    """Check everything that editing needs of a checkpoint. Exit status 1: a check fails."""
    vlm = loading.load(path)

    from liveedit.models.conformance.contract import examine

    console = Console(soft_wrap=True)
    name = Path(path).name
    layers = f"layers at {vlm.decoder_path}.layers, {vlm.num_layers} of them"
    console.print(shown(f"{name}: {type(vlm).__name__}, {layers}"))
    console.print(f"vision tower: {vlm.tower_path or 'none'}; prompts: {vlm.prompt_format}")
    failed = 0
    for finding in examine(vlm):
        failed += finding.reason is not None
        _print_finding(console, finding)
    if failed:
        raise UnsupportedModel(
            f"{failed} checks fail for {name}: editing it may not do what it should"
        )
    console.print("every check holds")


def _print_finding(console: Console, finding: "Finding") -> None:
    """Print the result of one check: what holds, or why it fails."""
    mark = "[green]holds[/]" if finding.reason is None else "[red]fails[/]"
    console.print(f"{mark}  {finding.name}", highlight=False, end="")
    console.print(f": {finding.reason or finding.proves}", markup=False, highlight=False)


@app.command()
def convert(
    name: Annotated[str, typer.Argument(help=f"Model: {', '.join(CONVERTERS)}.")],
    weights: Annotated[
        Path,
        typer.Argument(
            parser=path, help="Folder with the authors' files (docs/how-to/convert.md)."
        ),
    ],
    out: Annotated[Path, typer.Argument(parser=path, help="New folder for the checkpoint.")],
) -> None:
    """Convert the files that a model's authors publish to a Hugging Face checkpoint."""
    with interrupt_message("stopped; nothing was written"):
        resolve("converter", name, CONVERTERS)(weights, out)
    note = f"the checkpoint is in {out}: `liveedit models check {out}` examines it"
    Console().print(shown(note), soft_wrap=True)
