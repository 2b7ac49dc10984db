"""Reproduce the published tables: E-VQA, E-IC and VLKEB on the papers' five backbones.

    liveedit data add vlkeb --annotations DIR --images DIR        # once; e-vqa and e-ic likewise
    python recipes/published/run.py llava-1.5-7b vlkeb --out runs/llava-vlkeb --plan
    python recipes/published/run.py llava-1.5-7b vlkeb --out runs/llava-vlkeb
    python recipes/published/run.py qwen-vl-7b vlkeb --out runs/qwen-vlkeb --model qwen-vl

``--plan`` prints the commands and their estimated times and runs nothing. In the last line
``--model`` is a converted folder (docs/how-to/convert.md).

Trains the trainable methods, tests all methods by LiveEdit's protocol and, on VLKEB, by VLKEB's,
and writes the papers' tables to ``--out/tables``. Every step is a `liveedit` command that continues
where it was interrupted, and so does this script; it stops at a step that fails. Data and prompts
are the papers' own; the model computes in bfloat16. ``--processes N`` uses N GPUs. Memory and hours
are computed (``estimate.py``); a method that does not fit into ``--memory`` is left out.
docs/explanation/published.md has the settings, their sources and the papers' figures.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from backbones import BACKBONES, Backbone
from estimate import (
    BENCHMARKS,
    COSTS,
    Device,
    device_options,
    eval_hours,
    load,
    train_bytes,
    train_hours,
    windows,
)
from methods import LABELS, VLKEB_ONLY, Method, method
from rich.console import Console

from liveedit.data.published.locations import location
from liveedit.data.published.sources import source
from liveedit.errors import LiveEditError

__all__ = ["Step", "plan"]

NO_TEXT = ("liveedit", "ft-m", "ft-vis")
"""Methods that, as published, cannot edit a fact without an image."""
FINISHED = "config.json"
"""The last file that a finished training writes."""


@dataclass(frozen=True)
class Step:
    """A command, its title, and its estimated hours."""

    what: str
    command: list[str]
    hours: float = 0.0


@dataclass(frozen=True)
class Table:
    """A table to make.

    Arguments:
        backbone: Name of the backbone.
        data: Name of the benchmark.
        out: Folder of everything that is written.
        model: Folder or Hugging Face id of the weights.
        processes: Number of GPUs.
    """

    backbone: str
    data: str
    out: Path
    model: str
    processes: int

    @property
    def editors(self) -> Path:
        """The folder of trained editors."""
        return self.out / "editors"

    @property
    def shape(self) -> Backbone:
        """Shapes of the backbone."""
        return BACKBONES[self.backbone]

    def command(self, verb: str, *options: str, most: int | None = None) -> list[str]:
        """A command of `liveedit` on this model, in at most ``most`` processes."""
        count = min(self.processes, most or self.processes)
        start = ["liveedit"]
        if count > 1:
            start = ["accelerate", "launch", "--num_processes", str(count), "-m", *start]
        published = ["--split", "paper", "--prompts", "paper", "--prompt-format", "raw"]
        return [*start, verb, *options, "--model", self.model, "--dtype", "bfloat16", *published]

    def methods(self, labels: Sequence[str]) -> list[Method]:
        """The methods of some labels, with their settings for this table."""
        cases = source(self.data).counts["train"]
        return [method(label, self.backbone, self.data, cases) for label in labels]

    def training(self, chosen: Method) -> list[str]:
        """The command that trains a method."""
        options = ["--config", str(chosen.file), "--steps", str(chosen.steps), "--data", self.data]
        options += [] if self.shape.cached else ["--no-cache"]
        folder = str(self.editors / chosen.label)
        return self.command("train", folder, "--editor", chosen.name, *options, most=chosen.batch)

    def evaluation(
        self, data: str, folder: str, labels: Sequence[str], *protocol: str
    ) -> list[str]:
        """The command that tests methods by one protocol."""
        named = ",".join(f"{label}={self.editors / label}" for label in labels)
        options = ["--out", str(self.out / folder), "--data", data, "--editors", named]
        return self.command("eval", *options, *protocol)


def plan(table: Table, labels: Sequence[str], device: Device) -> list[Step]:
    """All steps of a table. Raises :class:`BadInput` if the benchmark was not added."""
    at = load(table.shape, table.data)
    files = location(table.data).files
    costs = {label: COSTS[label](at) for label in labels}
    steps = []
    for chosen in table.methods(labels):
        if chosen.training:
            hours = train_hours(at, costs[chosen.label], device, chosen.steps, chosen.batch)
            shared = min(table.processes, chosen.batch)
            steps.append(Step(f"train {chosen.label}", table.training(chosen), hours / shared))

    def test(
        what: str, data: str, edits: int, asks: int, some: Sequence[str], *protocol: str
    ) -> Step:
        hours = sum(eval_hours(at, costs[label], device, edits, asks) for label in some)
        command = table.evaluation(data, what, some, *protocol)
        return Step(f"test {what}", command, hours / table.processes)

    def single(data: str, cases: int, some: Sequence[str], edits: int = 1) -> Step:
        protocol = ("--protocol", "windows", "--edits", str(edits), "--max-cases", str(cases))
        return test(data, data, edits * cases, cases, some, *protocol)

    both = [label for label in labels if label not in VLKEB_ONLY]
    counts = windows(at, (1, 10, 100, 1000))
    numbers = ("--edits", "1,10,100,1000", "--max-cases", str(at.test_cases))
    steps.append(test("windows", table.data, *counts, both, "--protocol", "windows", *numbers))
    if table.data == "vlkeb":
        stream = "vlkeb-multihop" if "multihop" in files else "vlkeb"
        gap = ("--protocol", "gap", "--gaps", "10,20,50,100", "--max-cases", "200")
        steps.append(test("gap", stream, 300, 800, labels, *gap))
        if "onehop" in files:
            able = [label for label in labels if label not in NO_TEXT]
            cases = source("vlkeb").counts["onehop"]
            steps.append(single("vlkeb-onehop", cases, labels))
            steps.append(single("vlkeb-onehop-edited", cases, able, edits=2))
        if "multihop" in files:
            steps.append(single("vlkeb-multihop", at.test_cases, labels))
    return [*steps, Step("report", ["liveedit", "report", str(table.out)])]


def fitting(table: Table, labels: Sequence[str], device: Device, console: Console) -> list[str]:
    """The methods whose training fits into the device's memory; the others are printed."""
    at = load(table.shape, table.data)
    chosen = []
    for one in table.methods(labels):
        held = train_bytes(at, COSTS[one.label](at), one.batch) / 1e9 if one.training else 0.0
        if held <= device.memory:
            chosen.append(one.label)
        else:
            console.print(
                f"{one.label} is left out: its training takes {held:.0f} GB (computed), "
                "--memory says less"
            )
    return chosen


def untrained(table: Table, labels: Sequence[str]) -> None:
    """Write the settings of methods without training to the folders that `liveedit eval` reads."""
    for chosen in table.methods(labels):
        if not chosen.training:
            folder = table.editors / chosen.label
            folder.mkdir(parents=True, exist_ok=True)
            about = json.dumps({"editor": chosen.name, "config": chosen.editor}, indent=1)
            (folder / "config.json").write_text(about + "\n", encoding="utf-8")


def done(step: Step) -> bool:
    """Whether a step is a finished training."""
    words = step.command
    return "train" in words and (Path(words[words.index("train") + 1]) / FINISHED).is_file()


def run(steps: Sequence[Step], console: Console) -> int:
    """Run the steps in order; return the exit status of the first that fails, else 0."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    for step in steps:
        if done(step):
            console.print(f"{step.what}: done already", markup=False)
            continue
        console.rule(step.what)
        environment = os.environ | {"PATH": path}
        status = subprocess.run(step.command, env=environment, check=False).returncode
        if status:
            console.print(
                f"stopped at '{step.what}'; once it is repaired, run the same command to continue, "
                "or alone:"
            )
            console.print(shlex.join(step.command), soft_wrap=True, markup=False, highlight=False)
            return status
    return 0


def options() -> argparse.ArgumentParser:
    """The parser of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("backbone", choices=sorted(BACKBONES))
    parser.add_argument("data", choices=BENCHMARKS)
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for editors, records and tables"
    )
    parser.add_argument(
        "--model",
        help="folder or Hugging Face id of the weights; default: the published id, if any",
    )
    parser.add_argument(
        "--editors", default=",".join(LABELS), help="some of the methods, separated by commas"
    )
    parser.add_argument("--processes", type=int, default=1, help="GPUs")
    parser.add_argument(
        "--plan",
        action="store_true",
        help="print the commands with their estimates, and run nothing",
    )
    device_options(parser)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the plan and, unless ``--plan`` is given, run it."""
    parser = options()
    args = parser.parse_args(arguments)
    labels = [label for label in LABELS if label in args.editors.split(",")]
    if unknown := sorted({*args.editors.split(",")} - {*LABELS}):
        parser.error(f"there is no method {', '.join(unknown)}: choose from {', '.join(LABELS)}")
    model = args.model or BACKBONES[args.backbone].source
    if model is None:
        parser.error(
            f"{args.backbone} is made from its authors' files (docs/how-to/convert.md): "
            "give the folder, --model FOLDER"
        )
    console = Console()
    table = Table(args.backbone, args.data, args.out, model, args.processes)
    try:
        device = Device.read(args.tflops, args.memory, args.bandwidth)
        labels = fitting(table, labels, device, console)
        steps = plan(table, labels, device)
    except LiveEditError as error:
        Console(stderr=True).print(f"error: {error}", markup=False, soft_wrap=True)
        return 1
    for step in steps:
        console.print(f"{step.what}, computed {step.hours:.1f} h", markup=False, highlight=False)
        console.print(
            f"  {shlex.join(step.command)}", soft_wrap=True, markup=False, highlight=False
        )
    total = sum(step.hours for step in steps)
    console.print(
        f"in all {total:.0f} hours on {args.processes} x {args.tflops:g} TFLOP/s; "
        "computed, not measured"
    )
    if args.plan:
        return 0
    untrained(table, labels)
    return run(steps, console)


if __name__ == "__main__":
    sys.exit(main())
