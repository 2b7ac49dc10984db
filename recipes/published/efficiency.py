"""Measure the efficiency that ``estimate.py`` uses: the share of a large matrix product's speed.

    python recipes/published/estimate.py --measure

Measured on the embedded model: a training step and an edit of each method, and a forward pass.
FLOPs are counted while they run and divided by the processor time, on which other work on the
machine has less influence. The reference is a product of float32 matrices of 1024 × 1024. The
papers' backbones have larger products, which are more efficient, so the estimates are too long
rather than too short.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch.utils.flop_counter import FlopCounterMode

from liveedit.data import load_cases
from liveedit.editable import load_vlm
from liveedit.editors import new_editor
from liveedit.editors.base import TrainableEditor
from liveedit.errors import LiveEditError
from liveedit.models.vlm import VLM
from liveedit.types import Case

__all__ = ["measure"]

CASES = 8
"""Cases per batch."""
REPEATS = 2
"""Repetitions of a measurement."""
SMALLER: dict[str, dict[str, Any]] = {
    "liveedit": {"layer": 5, "module_dim": 256},
    "serac": {"layer": 5, "module_dim": 128, "width": 192, "depth": 2},
    "recipe": {"layer": 5, "tokens": 12, "key_dim": 192},
}
"""Settings for the embedded model, where the published ones do not fit it."""
TRAINED = ("liveedit", "mend", "ke", "serac", "recipe", "lte")
OTHERS = ("ft-l", "ft-m", "grace", "lemoe", "lora", "t-patcher", "wise")
SIDE = 1024


def speed(action: Callable[[], object], repeats: int) -> tuple[float, float]:
    """FLOPs of ``action``, and its mean processor time in seconds over ``repeats``."""
    with FlopCounterMode(display=False) as counter:
        action()
    start = time.process_time()
    for _ in range(repeats):
        action()
    return float(counter.get_total_flops()), (time.process_time() - start) / repeats


def step(editor: TrainableEditor, cases: list[Case]) -> Callable[[], object]:
    """A training step without the optimiser's."""
    examples = editor.prepare(cases)

    def action() -> None:
        loss, _ = editor.loss(examples, torch.Generator().manual_seed(0))
        torch.autograd.backward(loss)

    return action


def measured(
    vlm: VLM, cases: list[Case], console: Console
) -> dict[str, dict[str, tuple[float, float]]]:
    """(FLOPs, seconds) by kind of work and method."""
    found: dict[str, dict[str, tuple[float, float]]] = {"step": {}, "edit": {}, "query": {}}
    queries = [case.edits[0] for case in cases]
    for name in (*TRAINED, *OTHERS):
        try:
            editor = new_editor(vlm, name, SMALLER.get(name))
            if isinstance(editor, TrainableEditor):
                found["step"][name] = speed(step(editor, cases), REPEATS)
            found["edit"][name] = speed(lambda editor=editor: editor.edit(queries), 1)  # type: ignore[misc]
        except LiveEditError as error:  # such as a missing sentence encoder
            console.print(f"{name} is left out: {error}", markup=False)
    batch = vlm.encode([probe.query for probe in cases[0].probes])
    with torch.no_grad():
        found["query"]["forward"] = speed(lambda: vlm.logits(batch), REPEATS)
    return found


def measure(out: Path, console: Console) -> None:
    """Measure and print; write the shares to ``out``, by kind of work."""
    square = torch.randn(SIDE, SIDE)
    flops, seconds = speed(lambda: square @ square, 10)
    reference = flops / seconds
    console.print(f"large product: {reference / 1e9:.1f} GFLOP/s of the processor's time")
    found = measured(load_vlm(), load_cases("emblem", "train")[:CASES], console)
    shares: dict[str, Any] = {}
    for kind, by in found.items():
        total_flops = sum(flops for flops, _ in by.values())
        shares[kind] = total_flops / sum(seconds for _, seconds in by.values()) / reference
        for name, (flops, seconds) in by.items():
            share = flops / seconds / reference
            console.print(
                f"{kind} {name}: {flops / 1e9:.2f} GFLOP, {seconds:.3f} s, share {share:.2f}"
            )
    shares["how"] = (
        f"measured on the embedded model, {CASES} cases a batch, "
        f"torch {torch.__version__} on the CPU"
    )
    out.write_text(json.dumps(shares, indent=1) + "\n", encoding="utf-8")
