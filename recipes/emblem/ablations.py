"""Measure each option of pinpoint on Emblem: 1,000 edits on one model, 200 cases probed, seed 0.

    python recipes/emblem/ablations.py --out runs/ablations [--only NAME …]

The variants change the shipped pinpoint, or the shipped LiveEdit for comparison, at inference, 40
seconds each on two cores; the last needs an editor of its own, trained in 13 minutes. A stopped run
continues where it was. Writes ``docs/explanation/results/ablations.md``, with the variants that
have been evaluated so far.
"""

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from liveedit.data import load_cases
from liveedit.editable import embedded, load_vlm
from liveedit.editors import EDITORS, new_editor
from liveedit.editors.liveedit.editor import LiveEdit
from liveedit.editors.pinpoint.editor import Pinpoint
from liveedit.evaluate import Windows, evaluate
from liveedit.models.vlm import VLM
from liveedit.registry import resolve
from liveedit.report import read_records, summary
from liveedit.report.scores import Summary
from liveedit.train import TrainConfig, train

HERE = Path(__file__).parent
EDITS, ASKED = 1000, 200
FIVE = ("reliability", "text_generality", "image_generality", "text_locality", "image_locality")
HARD = ("look_alike_image", "same_image_other_question", "question_alone")


TRAININGS: dict[str, dict[str, Any]] = {"targets without end": {"eos": False}}
"""Editors that are trained for this, by pinpoint's recipe, and the settings that differ from it."""


@dataclass(frozen=True)
class Variant:
    """An editor, shipped or of :data:`TRAININGS`, with some of its inference settings changed."""

    name: str
    editor: str = "pinpoint"
    changes: dict[str, Any] = field(default_factory=dict)


VARIANTS = (
    Variant("as shipped"),
    Variant("margin 0", changes={"margin": 0.0}),
    Variant("margin 2", changes={"margin": 2.0}),
    Variant("gate by vision alone", changes={"gate": "vision", "margin": 0.0}),
    Variant("gate by vision alone, margin 3", changes={"gate": "vision", "margin": 3.0}),
    Variant("top-k 1", changes={"top_k": 1}),
    Variant("text meets edits", changes={"text_only": "text_key"}),
    Variant("residual at every position", changes={"positions": "all"}),
    Variant("liveedit", "liveedit"),
    Variant("liveedit, top-k 1", "liveedit", {"top_k": 1}),
    Variant("liveedit, residual from the answer on", "liveedit", {"positions": "answer"}),
    Variant("targets without end", "targets without end"),
)


def place(out: Path, name: str) -> Path:
    """The folder of an editor or a variant."""
    return out / name.replace(" ", "-").replace(",", "")


def editor_of(variant: Variant, vlm: VLM, out: Path) -> LiveEdit:
    """The variant's editor, which is trained first if it has to be."""
    if variant.editor in TRAININGS:
        method = Pinpoint
        folder = place(out, variant.editor) / "editor"
        if not (folder / "config.json").exists():
            trained(vlm, TRAININGS[variant.editor], folder)
    else:
        method = resolve("editor", variant.editor, EDITORS)
        folder = embedded(variant.editor)
    editor = method.from_pretrained(vlm, folder, **variant.changes)
    assert isinstance(editor, LiveEdit)
    return editor


def trained(vlm: VLM, settings: dict[str, Any], folder: Path) -> None:
    """Train pinpoint with these settings, by its recipe, into ``folder``."""
    recipe = json.loads((HERE / "pinpoint.json").read_text(encoding="utf-8"))
    editor = new_editor(vlm, "pinpoint", recipe["editor"] | settings)
    assert isinstance(editor, Pinpoint)
    draws = (load_cases("emblem", "train", seed) for seed in range(recipe["cases"]))
    cases = list(chain.from_iterable(draws))
    with Progress() as bar:
        task = bar.add_task(folder.parent.name)

        def shown(stage: str, done: int, total: int, _: Mapping[str, float]) -> None:
            bar.update(task, completed=done, total=total, description=stage)

        train(editor, cases, TrainConfig(**recipe["training"]), folder, shown)


def row(name: str, numbers: Summary) -> str:
    """One line of the table."""
    value = {
        (score["metric"], score["score"]): f"{100 * score['value']:.1f}"
        for score in numbers["rows"]
    }
    cells = [value[metric, "token_accuracy"] for metric in (*FIVE, "average")]
    cells += [
        value[metric, "exact_match"] for metric in ("reliability", "image_generality", "average")
    ]
    cells += [value[metric, "token_accuracy"] for metric in HARD]
    return f"| {' | '.join([name, *cells])} |"


def main() -> None:
    """Evaluate the requested variants; write the table of all that exist."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="*", default=[variant.name for variant in VARIANTS])
    args = parser.parse_args()
    vlm = load_vlm()
    cases = load_cases("emblem", "test", 0)
    lines = []
    for variant in VARIANTS:
        folder = place(args.out, variant.name)
        if variant.name in args.only:
            Console().print(variant.name)
            editor = editor_of(variant, vlm, args.out)
            protocol = Windows((EDITS,), EDITS, ASKED)
            out = folder / "records"
            evaluate(vlm, editor, cases, protocol, data="emblem", seed=0, out=out)
        if (folder / "records").exists():
            lines.append(row(variant.name, summary(read_records(folder / "records"))))
    table = (
        "| variant | Rel | T-Gen | I-Gen | T-Loc | I-Loc | Average | Rel exact | I-Gen exact "
        "| Average exact | look-alike | other question | question alone |\n|"
        + " --- |"
        + " ---: |" * 12
        + "\n"
        + "\n".join(lines)
    )
    about = (
        f"{EDITS:,} test edits of Emblem on one model, {ASKED} cases probed, seed 0, in percent: "
        "token\naccuracy, or exact match of free generation where a heading says *exact*. Made by\n"
        "`python recipes/emblem/ablations.py --out runs/ablations`, which lists the variants.\n"
    )
    file = HERE.parents[1] / "docs" / "explanation" / "results" / "ablations.md"
    file.write_text(f"# Pinpoint's options\n\n{about}\n{table}\n", encoding="utf-8")
    Console().print(table, soft_wrap=True)


if __name__ == "__main__":
    main()
