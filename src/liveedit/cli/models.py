"""`liveedit models`: the supported model types; check a checkpoint, convert the authors' files."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from liveedit.cli.display import interrupt_message, shown
from liveedit.cli.options import Loading, path, with_groups
from liveedit.errors import UnsupportedModel
from liveedit.models import CONVERTERS, FAMILIES, checked
from liveedit.registry import resolve

if TYPE_CHECKING:
    from liveedit.models.conformance.contract import Finding

__all__ = ["app"]

app = typer.Typer(help="List the supported models; check a checkpoint, or convert one.")


@app.callback(invoke_without_command=True)
def models(context: typer.Context) -> None:
    """List the model types that can be edited, and how many checks each has passed."""
    if context.invoked_subcommand is not None:
        return
    title = "Any Hugging Face checkpoint of these types"
    table = Table("model_type", "family", "checked", title=title)
    found = checked()
    for model_type in sorted({*FAMILIES, *found}):
        record = found.get(model_type)
        family = FAMILIES.get(model_type, ":Generic").partition(":")[2]
        if record is None:
            table.add_row(model_type, family, "not yet")
        elif record.reason is None:
            table.add_row(model_type, family, f"{record.checks} checks passed")
        else:
            table.add_row(model_type, "[dim]none[/]", shown(record.reason, style="dim"))
    Console().print(table)


@app.command()
@with_groups
def check(
    *,
    path: Annotated[str, typer.Argument(help="Folder of a checkpoint, or its Hugging Face id.")],
    loading: Loading,
) -> None:
    """Check all that editing needs of a checkpoint. Exit status 1: some of it fails."""
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
