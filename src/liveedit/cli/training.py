"""`liveedit train`: train an editor's networks."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column

from liveedit.cli.display import shown, standing
from liveedit.cli.loading import (
    LAST_SEED,
    DeviceMap,
    Dtype,
    PromptForm,
    Quantize,
    load_here,
    options,
)
from liveedit.cli.paths import path
from liveedit.errors import BadInput

if TYPE_CHECKING:
    from liveedit.train import Progress as Watcher

__all__ = ["train"]


def train(
    out: Annotated[
        Path,
        typer.Argument(
            parser=path,
            help="Folder for the editor, its checkpoints and logs. Resumes if it holds them.",
        ),
    ],
    editor: Annotated[str, typer.Option(help="Name of a trainable method.")] = "pinpoint",
    model: Annotated[
        str, typer.Option(help='"emblem" (embedded), a folder, or a Hugging Face id.')
    ] = "emblem",
    data: Annotated[str, typer.Option(help="Benchmark whose training split is used.")] = "emblem",
    split: Annotated[
        str, typer.Option(help="Split of a published benchmark: clean or paper.")
    ] = "clean",
    prompts: Annotated[
        str, typer.Option(help="Prompts of a published benchmark: plain or paper.")
    ] = "plain",
    prompt_format: PromptForm = None,
    dtype: Dtype = None,
    quantize: Quantize = None,
    device_map: DeviceMap = None,
    config: Annotated[
        Path | None,
        typer.Option(
            parser=path, help="JSON: {editor: settings, training: settings, cases: seeds}."
        ),
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Number of optimiser steps.")] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            min=0, max=LAST_SEED, help="Seed of the networks, the data order and of all draws."
        ),
    ] = None,
    cache: Annotated[
        bool | None,
        typer.Option(
            help="Keep all hidden states, on disk too; without, each step computes its own."
        ),
    ] = None,
) -> None:
    """Train an editor. Stop it at any time: the same command goes on from there, after a kill from
    the last checkpoint.

    Without --config, an editor has its default settings, at a layer after two thirds of the
    model's.
    """
    form = options(dtype, quantize, device_map, prompt_format)

    from liveedit.artifacts import check_folder
    from liveedit.data import load_cases
    from liveedit.editors import EDITORS, new_editor
    from liveedit.editors.base import TrainableEditor
    from liveedit.registry import resolve
    from liveedit.settings import read_json, read_settings
    from liveedit.train import TrainConfig, TrainFile, check_config
    from liveedit.train import train as run
    from liveedit.train.ownership import IDENTITY

    method = resolve("editor", editor, EDITORS)
    if not issubclass(method, TrainableEditor):
        raise BadInput(f"{editor} has nothing to train: use it as it is")
    where = "" if config is None else f"{config}: "
    file = TrainFile() if config is None else read_settings(TrainFile, read_json(config), where)
    given = {"steps": steps, "seed": seed, "cache": cache}
    changes = {name: value for name, value in given.items() if value is not None}
    training = read_settings(TrainConfig, file.training | changes, f"{where}training.")
    check_config(training, f"{where}training.")
    method.settings(file.editor, f"{where}editor.")  # complains before the model is read
    check_folder(out, IDENTITY)

    seeds = range(file.cases)
    cases = [
        case
        for number in seeds
        for case in load_cases(data, "train", number, split=split, prompts=prompts)
    ]
    trained = new_editor(load_here(model, form), editor, file.editor, training.seed)
    assert isinstance(trained, TrainableEditor)
    console = Console()
    with (
        standing("stopped; the same command goes on from the last checkpoint"),
        _bar(console) as progress,
    ):
        run(trained, cases, training, out, progress)
    console.print(shown(f"trained editor in {out}"), soft_wrap=True)


@contextmanager
def _bar(console: Console) -> Iterator["Watcher"]:
    """A bar for each stage in turn; the losses have what room is left. Without a terminal, a line
    now and then.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=None, table_column=Column(ratio=1)),
        TextColumn("{task.completed:,}/{task.total:,}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn(
            "{task.fields[losses]}", table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")
        ),
    )
    with Progress(*columns, console=console, expand=True) as bar:
        task = bar.add_task("getting ready", total=0, losses="")

        def progress(stage: str, done: int, total: int, values: dict[str, float]) -> None:
            bar.update(task, description=stage, completed=done, total=total)
            losses = " ".join(f"{name} {value:.3f}" for name, value in values.items())
            if done % 20 == 0 or done == total:
                bar.update(task, losses=losses)
            if values and not console.is_terminal and done % 100 == 0:
                console.print(f"{done}/{total} {losses}", soft_wrap=True)

        yield progress
