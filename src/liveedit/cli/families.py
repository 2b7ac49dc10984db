"""`liveedit models`: which models can be edited, the contract over a checkpoint, checkpoints of
authors' files.
"""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from liveedit.cli.display import shown, standing
from liveedit.cli.loading import DeviceMap, Dtype, PromptForm, Quantize, load_here, options
from liveedit.cli.paths import path
from liveedit.errors import UnsupportedModel
from liveedit.models import CONVERTERS, FAMILIES, checked
from liveedit.registry import resolve

__all__ = ["app"]

app = typer.Typer(
    help="Which models can be edited; check one, or convert one from its authors' files."
)


@app.callback(invoke_without_command=True)
def models(context: typer.Context) -> None:
    """List the model types that can be edited, and what was checked of each."""
    if context.invoked_subcommand is not None:
        return
    table = Table(
        "model_type", "family", "checked", title="Any Hugging Face checkpoint of such a model_type"
    )
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
def check(
    path: Annotated[str, typer.Argument(help="Folder of a checkpoint, or its Hugging Face id.")],
    dtype: Dtype = None,
    quantize: Quantize = None,
    device_map: DeviceMap = None,
    prompt_format: PromptForm = None,
) -> None:
    """Run the whole family contract over a checkpoint and print what holds. Exit status 1 if
    something does not.
    """
    vlm = load_here(path, options(dtype, quantize, device_map, prompt_format))

    from liveedit.models.conformance.contract import examine

    console = Console(soft_wrap=True)
    name = Path(path).name
    layers = f"layers at {vlm.decoder_path}.layers, {vlm.num_layers} of them"
    console.print(shown(f"{name}: {type(vlm).__name__}, {layers}"))
    console.print(f"vision tower: {vlm.tower_path or 'not apart'}; prompts: {vlm.prompt_format}")
    failed = 0
    for finding in examine(vlm):
        failed += finding.reason is not None
        mark, reason = (
            ("[green]holds[/]", "")
            if finding.reason is None
            else ("[red]fails[/]", f": {finding.reason}")
        )
        console.print(f"{mark}  {finding.name}", highlight=False, end="")
        console.print(reason or f": {finding.proves}", markup=False, highlight=False)
    if failed:
        raise UnsupportedModel(
            f"{failed} checks fail for {name}: editing it may not do what it should"
        )
    console.print("every check holds")


@app.command()
def convert(
    name: Annotated[str, typer.Argument(help=f"{', '.join(CONVERTERS)}.")],
    weights: Annotated[
        Path,
        typer.Argument(
            parser=path, help="Folder with the authors' files (docs/how-to/convert.md says which)."
        ),
    ],
    out: Annotated[Path, typer.Argument(parser=path, help="Folder for the checkpoint: a new one.")],
) -> None:
    """Write a checkpoint from the files that the authors of a model publish, wholly or not at all."""
    with standing("stopped; nothing was written"):
        resolve("converter", name, CONVERTERS)(weights, out)
    Console().print(
        shown(f"the checkpoint is in {out}: `liveedit models check {out}` examines it"),
        soft_wrap=True,
    )
