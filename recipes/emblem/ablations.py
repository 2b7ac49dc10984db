"""What each option of LiveEdit is worth on Emblem: 1,000 edits in one pool, 200 cases asked about, seed 0.

    python recipes/emblem/ablations.py --out runs/ablations [--only NAME …]

The first variants change the shipped editor at query time, 40 seconds each on two cores. The others are trained anew by
the recipe named, with the settings named changed: 13 to 40 minutes each. A stopped run goes on where it was. Writes
``docs/results/ablations.md``, with the variants that have been evaluated so far.
"""

import argparse
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from liveedit.data import load_cases
from liveedit.editable import embedded, load_vlm
from liveedit.editors import new_editor
from liveedit.editors.liveedit import LiveEdit
from liveedit.evaluate import evaluate
from liveedit.models.vlm import VLM
from liveedit.report import read_records, summary
from liveedit.report.scores import Summary
from liveedit.train import TrainConfig, train

HERE = Path(__file__).parent
EDITS, ASKED = 1000, 200
FIVE = ("reliability", "text_generality", "image_generality", "text_locality", "image_locality")
HARD = ("look_alike_image", "same_image_other_question", "question_alone")


@dataclass(frozen=True)
class Variant:
    """Settings that differ from the shipped editor's or, where there is a recipe to train it by, from the recipe's."""

    name: str
    changes: dict[str, Any] = field(default_factory=dict)
    recipe: str = ""


VARIANTS = (
    Variant("as shipped"),
    Variant("margin 0", {"margin": 0.0}),
    Variant("margin 2", {"margin": 2.0}),
    Variant("gate by vision alone", {"gate": "vision", "margin": 0.0}),
    Variant("gate by vision alone, margin 3", {"gate": "vision", "margin": 3.0}),
    Variant("top-k 1", {"top_k": 1}),
    Variant("text meets edits", {"text_only": "text_key"}),
    Variant("residual at every position", {"positions": "all"}),
    Variant("the released form", recipe="liveedit-released.json"),
    Variant("released extractors", {"features": "released"}, "liveedit.json"),
    Variant("targets without end", {"eos": False}, "liveedit.json"),
    Variant("no token dropped", {"drop": 0.0}, "liveedit.json"),
)


def editor_of(variant: Variant, vlm: VLM, folder: Path) -> LiveEdit:
    """The variant's editor, trained in ``folder`` if it has to be."""
    if not variant.recipe:
        return LiveEdit.from_pretrained(vlm, embedded("liveedit"), **variant.changes)
    recipe = json.loads((HERE / variant.recipe).read_text(encoding="utf-8"))
    editor = new_editor(vlm, "liveedit", recipe["editor"] | variant.changes)
    assert isinstance(editor, LiveEdit)
    if not (folder / "config.json").exists():
        cases = [case for seed in range(recipe["cases"]) for case in load_cases("emblem", "train", seed)]
        with Progress() as bar:
            task = bar.add_task(variant.name)
            train(
                editor, cases, TrainConfig(**recipe["training"]), folder,
                lambda stage, done, total, _: bar.update(task, completed=done, total=total, description=stage),
            )  # fmt: skip
    return LiveEdit.from_pretrained(vlm, folder)


def row(name: str, numbers: Summary) -> str:
    """One line of the table."""
    value = {(score["metric"], score["score"]): f"{100 * score['value']:.1f}" for score in numbers["rows"]}
    cells = [value[metric, "token_accuracy"] for metric in (*FIVE, "average")]
    cells += [value[metric, "exact_match"] for metric in ("reliability", "image_generality", "average")]
    cells += [value[metric, "token_accuracy"] for metric in HARD]
    return f"| {' | '.join([name, *cells])} |"


def main() -> None:
    """Evaluate what is asked for; write the table of all that is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="*", default=[variant.name for variant in VARIANTS])
    args = parser.parse_args()
    vlm, cases, lines = load_vlm(), load_cases("emblem", "test", 0), []
    for variant in VARIANTS:
        folder = args.out / variant.name.replace(" ", "-").replace(",", "")
        if variant.name in args.only:
            Console().print(variant.name)
            editor = editor_of(variant, vlm, folder / "editor")
            evaluate(
                vlm, editor, cases,
                edits=(EDITS,), data="emblem", seed=0, out=folder / "records", max_cases=EDITS, ask=ASKED,
            )  # fmt: skip
        if (folder / "records").exists():
            lines.append(row(variant.name, summary(read_records(folder / "records").records)))
    table = (
        "| variant | Rel | T-Gen | I-Gen | T-Loc | I-Loc | Average | Rel exact | I-Gen exact | Average exact "
        "| look-alike | other question | question alone |\n|" + " --- |" + " ---: |" * 12 + "\n" + "\n".join(lines)
    )
    about = f"{EDITS:,} test edits of Emblem in one pool, {ASKED} cases asked about, seed 0, percent; token accuracy,\n"
    about += "where *exact* does not say that it is the exact match of free generation.\n"
    command = "Made by `python recipes/emblem/ablations.py --out runs/ablations`, which says what the variants are.\n"
    file = HERE.parents[1] / "docs" / "results" / "ablations.md"
    file.write_text(f"# What LiveEdit's options are worth\n\n{about}{command}\n{table}\n", encoding="utf-8")
    Console().print(table, soft_wrap=True)


if __name__ == "__main__":
    main()
