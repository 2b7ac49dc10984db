"""Choose direct's settings on val; they are its defaults.

    python recipes/emblem/choose_direct.py runs/choice-direct        # prints the table

The settings are chosen one after the other, each with those chosen before it. The rule is the
largest mean of the exact match on all probes of :data:`JUDGED`, with all edits of val in one pool;
of settings alike to a half percent the first wins. The stated rates of false firing are not chosen:
they are promises.

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
from liveedit.evaluate import Windows, evaluate
from liveedit.models.vlm import VLM
from liveedit.report import read_records, summary

CANDIDATES: dict[str, tuple[Any, ...]] = {
    "variants": (4, 2, 8),
    "noise": (0.1, 0.0, 0.3),
    "rank": (8, 4),
    "steps": (25, 15, 40),
}
"""For each setting the candidates, the default first."""
JUDGED = (
    "reliability", "text_generality", "image_generality", "image_generality_unseen",
    "image_locality", "same_image_other_question", "look_alike_image",
)  # fmt: skip
ALIKE = 0.005


def judged(vlm: VLM, settings: dict[str, Any], out: Path) -> dict[str, float]:
    """The exact match on val by metric; it is measured first, unless that was done."""
    folder = out / "-".join(f"{name}={value:g}" for name, value in settings.items())
    cases = load_cases("emblem", "val", 0)
    editor = new_editor(vlm, "direct", settings)
    everything = Windows((len(cases),), len(cases), len(cases))
    evaluate(vlm, editor, cases, everything, data="emblem", seed=0, out=folder)
    return {
        row["metric"]: row["value"]
        for row in summary(read_records(folder))["rows"]
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
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    vlm = load_vlm()
    chosen: dict[str, Any] = {name: values[0] for name, values in CANDIDATES.items()}
    table = Table("setting", "value", *JUDGED, "mean")
    for name, values in CANDIDATES.items():
        found = {value: judged(vlm, chosen | {name: value}, args.out) for value in values}
        for value, scores in found.items():
            cells = [f"{100 * scores[metric]:.1f}" for metric in JUDGED]
            table.add_row(name, f"{value:g}", *cells, f"{100 * mean(scores):.1f}")
        best = max(map(mean, found.values()))
        chosen[name] = next(value for value in values if mean(found[value]) >= best - ALIKE)
        Console().print(f"{name}: {chosen[name]:g}")
    Console(width=160).print(table)


if __name__ == "__main__":
    main()
