"""`liveedit train`: train an editor's networks."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from liveedit.cli.display import shown
from liveedit.cli.loading import DeviceMap, Dtype, PromptForm, Quantize, load_here, options
from liveedit.errors import BadInput

if TYPE_CHECKING:
    from liveedit.train import TrainConfig

__all__ = ["train"]


def train(
    out: Annotated[
        Path, typer.Argument(help="Folder for the editor, its checkpoints and logs. Resumes if it holds them.")
    ],
    editor: Annotated[str, typer.Option(help="Name of a trainable method.")] = "pinpoint",
    model: Annotated[str, typer.Option(help='"emblem" (embedded), a folder, or a Hugging Face id.')] = "emblem",
    data: Annotated[str, typer.Option(help="Benchmark whose training split is used.")] = "emblem",
    split: Annotated[str, typer.Option(help="Split of a published benchmark: clean or paper.")] = "clean",
    prompts: Annotated[str, typer.Option(help="Prompts of a published benchmark: plain or paper.")] = "plain",
    prompt_format: PromptForm = None,
    dtype: Dtype = None,
    quantize: Quantize = None,
    device_map: DeviceMap = None,
    config: Annotated[
        Path | None, typer.Option(help="JSON: {editor: settings, training: settings, cases: seeds}.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Number of optimiser steps.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the networks, the data order and all draws.")] = None,
    cache: Annotated[
        bool | None, typer.Option(help="Keep all hidden states, on disk too; without, each step computes its own.")
    ] = None,
) -> None:
    """Train an editor. Stop it at any time: the same command goes on from the last checkpoint."""
    settings, form = _settings(config), options(dtype, quantize, device_map, prompt_format)

    from liveedit.data import load_cases
    from liveedit.editors import new_editor
    from liveedit.editors.base import TrainableEditor
    from liveedit.train import train as run

    cases = [
        case
        for number in range(settings.get("cases", 1))
        for case in load_cases(data, "train", number, split=split, prompts=prompts)
    ]
    given = {"steps": steps, "seed": seed, "cache": cache}
    changes = {name: value for name, value in given.items() if value is not None}
    training = _training(settings.get("training", {}) | changes)
    trained = new_editor(load_here(model, form), editor, settings.get("editor", {}), training.seed)
    if not isinstance(trained, TrainableEditor):
        raise BadInput(f"{editor} has nothing to train: use it as it is")
    console = Console()
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"))
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console) as bar:
        task = bar.add_task("hidden states", total=len(cases))

        def progress(stage: str, done: int, total: int, values: dict[str, float]) -> None:
            losses = " ".join(f"{name} {value:.3f}" for name, value in values.items())
            shown = losses if values and done % 20 == 0 else None if values else stage
            bar.update(task, completed=done, total=total, description=shown)
            if values and not console.is_terminal and done % 100 == 0:
                console.print(f"{done}/{total} {losses}", soft_wrap=True)

        run(trained, cases, training, out, progress)
    console.print(shown(f"trained editor in {out}"), soft_wrap=True)


def _training(values: dict[str, Any]) -> "TrainConfig":
    from liveedit.train import TrainConfig

    try:
        return TrainConfig(**values)
    except TypeError as error:
        raise BadInput(f"the training settings are wrong: {str(error).partition(') ')[2]}") from None


def _settings(config: Path | None) -> dict[str, Any]:
    if config is None:
        return {}
    try:
        return dict(json.loads(config.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise BadInput(f"cannot read the settings in {config}: {error}") from None
