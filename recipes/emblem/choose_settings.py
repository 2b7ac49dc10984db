"""Choose the settings of a method without networks on val.

    python recipes/emblem/choose_settings.py direct runs/choice-direct        # prints the table

The settings are chosen one after the other, each with those chosen before it. The rule is the
largest mean of the exact match on all probes of :data:`JUDGED`, with all edits of val in one pool;
of settings alike to a half percent the first wins. What is chosen is then measured after 1, 10 and
all edits, averaged over the five metrics. Those of direct are its defaults, the others are in
``src/liveedit/assets``. The rates of false firing that direct states are not chosen: they are
promises.

Time: about a minute per candidate on one core. An interrupted run continues.
"""

import argparse
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from liveedit.data import load_cases
from liveedit.editable import load_vlm
from liveedit.editors import new_editor
from liveedit.editors.scr import ANSWER
from liveedit.evaluate import Windows, evaluate
from liveedit.models.vlm import VLM
from liveedit.report import read_records, summary
from liveedit.report.scores import ScoreRow

FACT_FIRST = "New Fact: {fact}\nPrompt: {question}"
"""The form of facts in the prompt that the embedded model was trained to read."""
CANDIDATES: dict[str, dict[str, tuple[Any, ...]]] = {
    "direct": {
        "variants": (4, 2, 8),
        "noise": (0.1, 0.0, 0.3),
        "rank": (8, 4),
        "steps": (25, 15, 40),
    },
    "horen": {
        "eos": (True,),
        "layer": (6, 5, 4),
        "lr": (1.0, 0.3, 0.1),
        "threshold": (0.85, 0.75, 0.7, 0.65),
        "tokens": ("question", "all"),
    },
    "locft-bf": {
        "batch": (100, 10),
        "lr": (5e-4, 1e-3, 2e-3),
        "layer": (5, 6, 4),
    },
    "scr": {
        "answer_prompt": (ANSWER, FACT_FIRST),
        "select": (False, True),
        "threshold": (0.3, 0.5, 0.7, 0.8),
        "image_threshold": (0.8, 0.7, 0.6),
    },
    "ultraedit": {
        "eos": (True,),
        "lr": (1e-6, 1e-3, 3e-3, 1e-2),
        "matrices": ("up", "down"),
        "layers": (2, 1),
    },
}
"""By editor and setting the candidates; the first one is published or costs less."""
JUDGED = (
    "reliability", "text_generality", "image_generality", "image_generality_unseen",
    "image_locality", "same_image_other_question", "look_alike_image",
)  # fmt: skip
ALIKE = 0.005
EDITS = 90
"""Edits of val."""


def measured(
    vlm: VLM, editor: str, settings: dict[str, Any], sizes: tuple[int, ...], out: Path
) -> list[ScoreRow]:
    """The scores on val after ``sizes`` edits; they are measured first, unless that was done."""
    places = {name: CANDIDATES[editor][name].index(value) for name, value in settings.items()}
    folder = out / "-".join(f"{name}={place}" for name, place in places.items())
    cases = load_cases("emblem", "val", 0)
    made = new_editor(vlm, editor, settings)
    protocol = Windows(sizes, len(cases), len(cases))
    evaluate(vlm, made, cases, protocol, data="emblem", seed=0, out=folder)
    return summary(read_records(folder))["rows"]


def judged(vlm: VLM, editor: str, settings: dict[str, Any], out: Path) -> dict[str, float]:
    """The exact match by metric with all edits of val."""
    return {
        row["metric"]: row["value"]
        for row in measured(vlm, editor, settings, (EDITS,), out)
        if row["score"] == "exact_match" and row["metric"] in JUDGED
    }


def mean(scores: dict[str, float]) -> float:
    """The value that decides."""
    return sum(scores.values()) / len(scores)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("editor", choices=CANDIDATES)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    vlm = load_vlm()
    candidates = CANDIDATES[args.editor]
    chosen: dict[str, Any] = {name: values[0] for name, values in candidates.items()}
    table = Table("setting", "value", *JUDGED, "mean")
    for name, values in candidates.items():
        found = {
            value: judged(vlm, args.editor, chosen | {name: value}, args.out) for value in values
        }
        for value, scores in found.items():
            cells = [f"{100 * scores[metric]:.1f}" for metric in JUDGED]
            table.add_row(name, repr(value), *cells, f"{100 * mean(scores):.1f}")
        best = max(map(mean, found.values()))
        chosen[name] = next(value for value in values if mean(found[value]) >= best - ALIKE)
        Console().print(f"{name}: {chosen[name]!r}")
    Console(width=180).print(table)
    for row in measured(vlm, args.editor, chosen, (1, 10, EDITS), args.out / "chosen"):
        if row["metric"] == "average":
            Console().print(f"{row['edits']} edits, {row['score']}: {100 * row['value']:.1f}")


if __name__ == "__main__":
    main()
