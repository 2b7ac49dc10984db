"""`liveedit train`: train an editor's networks."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column

from liveedit.cli.display import interrupt_message, shown
from liveedit.cli.options import (
    LAST_SEED,
    Benchmark,
    Loading,
    Model,
    Quiet,
    path,
    setting_help,
    with_groups,
)
from liveedit.errors import BadInput
from liveedit.train.config import Progress as Reporter
from liveedit.train.config import TrainConfig, TrainFile, check_config, fitted

if TYPE_CHECKING:
    from liveedit.editors.base import TrainableEditor
    from liveedit.models.vlm import VLM
    from liveedit.types import Case

__all__ = ["train"]

LOSSES_EVERY = 20
"""Steps between two updates of the losses in the bar, so that they can be read."""
LINE_EVERY = 100
"""Steps between two lines if the output is not a terminal."""


@with_groups
def train(
    *,
    out: Annotated[
        Path,
        typer.Argument(
            parser=path,
            help="Folder for the editor, its checkpoints and logs; training resumes from it.",
        ),
    ],
    editor: Annotated[str, typer.Option(help="Name of a trainable method.")] = "pinpoint",
    model: Model = "emblem",
    benchmark: Benchmark,
    loading: Loading,
    config: Annotated[
        Path | None,
        typer.Option(
            parser=path,
            help='JSON file of settings: {"editor": {…}, "training": {…}, "cases": SEEDS}.',
        ),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help=setting_help(TrainConfig, "steps"))
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, max=LAST_SEED, help=setting_help(TrainConfig, "seed"))
    ] = None,
    cache: Annotated[bool | None, typer.Option(help=setting_help(TrainConfig, "cache"))] = None,
    quiet: Quiet = False,
) -> None:
    """Train an editor. After an interrupt or a kill, the same command resumes the training.

    Without --config, sizes and steps are fitted to the model and the cases, and printed: a start
    for a file of settings. `liveedit editors NAME` lists the settings of an editor. --steps, --seed
    and --cache override the file.
    """
    from liveedit.artifacts import check_folder
    from liveedit.settings import read_settings
    from liveedit.train import train as run
    from liveedit.train.ownership import IDENTITY

    method = _trainable(editor)
    given = {"steps": steps, "seed": seed, "cache": cache}
    overrides = {name: value for name, value in given.items() if value is not None}
    file = _read(config, method, overrides)  # complains before the model is read
    check_folder(out, IDENTITY)

    console = Console(quiet=quiet)
    cases = _cases(console, benchmark, file.cases, method)
    vlm = loading.load(model)
    if config is None:
        file = _fitted(console, vlm, method, cases, overrides)
    training = read_settings(TrainConfig, file.training | overrides, "training.")
    networks = _new_editor(vlm, editor, file, training.seed)
    stopped = "stopped; the same command continues from the last checkpoint"
    with interrupt_message(stopped), _bar(console) as report:
        run(networks, cases, training, out, report)
    console.print(shown(f"trained editor in {out}"), soft_wrap=True)


def _read(
    config: Path | None, method: "type[TrainableEditor]", overrides: dict[str, Any]
) -> TrainFile:
    """The file of settings, checked with the options that override it; empty where none is given.

    Raises :class:`BadInput` for a setting that does not exist or is out of range.
    """
    from liveedit.settings import read_json, read_settings

    where = "" if config is None else f"{config}: "
    file = TrainFile() if config is None else read_settings(TrainFile, read_json(config), where)
    training = read_settings(TrainConfig, file.training | overrides, f"{where}training.")
    check_config(training, f"{where}training.")
    method.settings(file.editor, f"{where}editor.")
    return file


def _fitted(
    console: Console,
    vlm: "VLM",
    method: "type[TrainableEditor]",
    cases: "list[Case]",
    overrides: dict[str, Any],
) -> TrainFile:
    """Settings that suit the model and the cases, which are printed."""
    editor = {"layer": 2 * vlm.num_layers // 3} if hasattr(method.Config, "layer") else {}
    file = TrainFile(
        editor | method.fitted(vlm, cases), fitted(vlm.state_size, len(cases)) | overrides
    )
    size = f"{vlm.num_layers} layers of width {vlm.state_size:,}"
    console.print(f"chosen for {size} and {len(cases):,} cases; --config FILE sets others:")
    text = json.dumps({"editor": file.editor, "training": file.training})
    console.print(text, markup=False, highlight=False, soft_wrap=True)
    return file


def _trainable(name: str) -> "type[TrainableEditor]":
    """The class of a method. Raises :class:`BadInput` for a method without training."""
    from liveedit.editors import editor_class
    from liveedit.editors.base import TrainableEditor

    method = editor_class(name)
    if not issubclass(method, TrainableEditor):
        raise BadInput(f"{name} has nothing to train: use it as it is")
    return method


def _cases(
    console: Console, benchmark: Benchmark, seeds: int, method: "type[TrainableEditor]"
) -> "list[Case]":
    """The training cases that the method learns from, drawn once with each of ``seeds`` seeds.

    Raises :class:`BadInput` if there are none.
    """
    drawn: list[Case] = []
    for seed in range(seeds):
        drawn += benchmark.cases("train", seed)
    cases = [case for case in drawn if method.learns_from(case)]
    if not cases:
        raise BadInput(
            f"{method.name} learns from none of the {len(drawn):,} cases, as from edits without an "
            "image: train mend, which does"
        )
    if left := len(drawn) - len(cases):
        console.print(f"left out: {left:,} cases that {method.name} cannot learn from")
    return cases


def _new_editor(vlm: "VLM", name: str, file: TrainFile, seed: int) -> "TrainableEditor":
    """An untrained editor on the model."""
    from liveedit.editors import new_editor
    from liveedit.editors.base import TrainableEditor

    editor = new_editor(vlm, name, file.editor, seed)
    assert isinstance(editor, TrainableEditor)
    return editor


@contextmanager
def _bar(console: Console) -> Iterator[Reporter]:
    """A progress bar for each stage, with the losses; without a terminal, one line at intervals."""
    last = Column(ratio=1, no_wrap=True, overflow="ellipsis")
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=None, table_column=Column(ratio=1)),
        TextColumn("{task.completed:,}/{task.total:,}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[losses]}", table_column=last),
    )
    with Progress(*columns, console=console, expand=True) as bar:
        task = bar.add_task("getting ready", total=0, losses="")

        def report(stage: str, done: int, total: int, losses: dict[str, float]) -> None:
            bar.update(task, description=stage, completed=done, total=total)
            text = " ".join(f"{name} {value:.3f}" for name, value in losses.items())
            if done % LOSSES_EVERY == 0 or done == total:
                bar.update(task, losses=text)
            if losses and not console.is_terminal and done % LINE_EVERY == 0:
                console.print(f"{done}/{total} {text}", soft_wrap=True)

        yield report
