"""Choose the layer and the scale of the published LiveEdit on the val split, and write the recipe
of its training.

    python recipes/emblem/choose_liveedit.py runs/choice          # the table; then
    liveedit train runs/liveedit --editor liveedit --config recipes/emblem/liveedit.json

The rule: the least loss on val, which is the published objective (Eq. 12) with all its terms, its
edits and their probes never trained on, over batches of eight and the same draws for all. First the
layer, at the released scale; then the scale, at that layer. Each candidate is trained on 6,000
samples of 600 cases, all else as in the recipe; about four minutes each on one core. The released
rule for the layer is two thirds of the depth, here 5 of 0 to 7. A stopped run goes on where it was.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from liveedit.data import load_cases
from liveedit.editable import load_vlm
from liveedit.editors import load_editor, new_editor
from liveedit.editors.base import Editor, TrainableEditor
from liveedit.models.vlm import VLM
from liveedit.train import TrainConfig, train

LAYERS = (3, 4, 5, 6)
SCALES = (0.2, 0.5, 1.0, 2.0, 5.0)
RELEASED_SCALE = 5.0
CASES, STEPS = 600, 750
RECIPE: dict[str, Any] = {
    "editor": {"module_dim": 256, "eos": True},
    "training": {
        "steps": 31_250,
        "batch_size": 8,
        "lr": 5e-4,
        "schedule": "cosine",
        "warmup": 100,
        "clip": 1.0,
        "checkpoint_every": 250,
    },
    "cases": 3,
}
"""250,000 samples; ``eos``, rate and schedule are those of the other methods' recipes."""


@torch.no_grad()
def loss_on_val(editor: TrainableEditor, batch: int) -> float:
    """The mean loss over whole batches of the val cases, five draws each."""
    examples = editor.prepare(load_cases("emblem", "val", 0))
    batches = [
        examples[first : first + batch] for first in range(0, len(examples) - batch + 1, batch)
    ]
    draws = [(some, torch.Generator().manual_seed(seed)) for seed in range(5) for some in batches]
    return sum(float(editor.loss(some, generator)[0]) for some, generator in draws) / len(draws)


def trainable(editor: Editor) -> TrainableEditor:
    """The editor, which has networks."""
    assert isinstance(editor, TrainableEditor)
    return editor


def judged(vlm: VLM, layer: int, scale: float, out: Path) -> float:
    """The loss on val of a candidate, which is trained first if it has to be."""
    folder = out / f"layer-{layer}-scale-{scale:g}"
    if (folder / "val.json").exists():
        return float(json.loads((folder / "val.json").read_text(encoding="utf-8")))
    plan = replace(TrainConfig(**RECIPE["training"]), steps=STEPS)
    if not (folder / "config.json").exists():
        editor = new_editor(vlm, "liveedit", RECIPE["editor"] | {"layer": layer, "scale": scale})
        train(trainable(editor), load_cases("emblem", "train", 0)[:CASES], plan, folder)
    loss = loss_on_val(trainable(load_editor(vlm, folder)), plan.batch_size)
    (folder / "val.json").write_text(f"{loss}\n", encoding="utf-8")
    return loss


def main() -> None:
    """Print the table and write the recipe."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--recipe", type=Path, default=Path(__file__).with_name("liveedit.json"))
    args = parser.parse_args()
    vlm = load_vlm()
    losses = {
        (layer, RELEASED_SCALE): judged(vlm, layer, RELEASED_SCALE, args.out) for layer in LAYERS
    }
    layer, _ = min(losses, key=lambda candidate: losses[candidate])
    losses |= {(layer, scale): judged(vlm, layer, scale, args.out) for scale in SCALES}
    layer, scale = min(losses, key=lambda candidate: losses[candidate])
    table = Table("layer", "scale", "loss on val")
    for candidate, loss in losses.items():
        table.add_row(str(candidate[0]), f"{candidate[1]:g}", f"{loss:.3f}")
    Console().print(table)
    chosen = RECIPE | {"editor": RECIPE["editor"] | {"layer": layer, "scale": scale}}
    args.recipe.write_text(json.dumps(chosen, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
