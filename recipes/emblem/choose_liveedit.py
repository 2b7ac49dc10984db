"""Choose layer and scale of the published LiveEdit on val, and write the recipe of its training.

    python recipes/emblem/choose_liveedit.py runs/choice          # prints the table; then
    liveedit train runs/liveedit --editor liveedit --config recipes/emblem/liveedit.json

The rule is the smallest loss on val: the published objective (Eq. 12) with all its terms, over
batches of eight, with the same random draws for all candidates and edits that training never uses.
First the layer is chosen at the released scale, then the scale at that layer. Each candidate is
trained on 6,000 samples of 600 cases, otherwise by the recipe. The released rule for the layer is
two thirds of the depth, here 5 of 0 to 7.

Time: about four minutes per candidate on one core. An interrupted run continues.
"""

import argparse
import json
from dataclasses import replace
from itertools import product
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
CASES = 600
STEPS = 750
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
"""250,000 samples; ``eos``, learning rate and schedule are those of the other methods' recipes."""


@torch.no_grad()
def loss_on_val(editor: TrainableEditor, batch: int) -> float:
    """Mean loss over full batches of the val cases, with five random draws each."""
    examples = editor.prepare(load_cases("emblem", "val", 0))
    batches = [
        examples[first : first + batch] for first in range(0, len(examples) - batch + 1, batch)
    ]
    losses = []
    for seed, some in product(range(5), batches):
        loss, _ = editor.loss(some, torch.Generator().manual_seed(seed))
        losses.append(float(loss))
    return sum(losses) / len(losses)


def trainable(editor: Editor) -> TrainableEditor:
    """The editor as a trainable one."""
    assert isinstance(editor, TrainableEditor)
    return editor


def judged(vlm: VLM, layer: int, scale: float, out: Path) -> float:
    """Loss of a candidate on val; it is trained first, unless that was done."""
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
