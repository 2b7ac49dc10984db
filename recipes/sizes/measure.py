"""Measure on a GPU what ``compute.py`` computes: random weights at full size, in bfloat16.

    python recipes/sizes/measure.py BACKBONE      # llava-1.5-7b, minigpt4-vicuna-7b …

Prints memory and time of one edit, of one query with 0, 1,000 and 100,000 experts, and of one
training step, stores them in docs/explanation/results/sizes.json and writes sizes.md beside it.
Nothing is downloaded: weights, experts and images are random.

Each number is the median of ``REPEATS`` runs after a warm-up; memory is the largest amount that
torch held in any of them. Every run reads and scales its image on the CPU, and a training step
moves its hidden states from there.
"""

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch
from compute import ANSWER, BACKBONES, BATCH, DECODED, POOLS, TEXT, WORK
from full import full
from page import MEASURED, write
from PIL import Image
from rich.console import Console
from torch import Tensor

from liveedit.editors.common.bank import Bank
from liveedit.editors.liveedit.editor import LiveEdit, LiveEditConfig
from liveedit.editors.liveedit.experts import ExpertPatch
from liveedit.models.vlm import VLM
from liveedit.types import Case, Probe, Query

__all__ = ["Taken", "crowd", "keep", "main", "measure", "sized", "taken"]

REPEATS = 5

Taken = dict[str, float]
"""``ms`` and ``GB``; the memory is 0 on a CPU, where it is not measured."""


def taken(action: Callable[[], object], device: torch.device) -> Taken | None:
    """Measure ``action``; ``None`` if it does not fit into the device's memory."""
    cuda = device.type == "cuda"

    def once() -> float:
        start = time.perf_counter()
        action()
        if cuda:
            torch.cuda.synchronize(device)
        return time.perf_counter() - start

    try:
        if cuda:
            torch.cuda.reset_peak_memory_stats(device)
        once()
        seconds = statistics.median(once() for _ in range(REPEATS))
    except torch.cuda.OutOfMemoryError:
        torch.cuda.empty_cache()
        return None
    held = torch.cuda.max_memory_allocated(device) if cuda else 0
    return {"ms": 1e3 * seconds, "GB": held / 1e9}


def sized(vlm: VLM, text: int = TEXT) -> Query:
    """An edit whose row has ``text`` text tokens, ``ANSWER`` of them its answer's.

    A digit is a token, and so is the blank before the answer.
    """
    noise = Image.effect_noise((480, 360), 60).convert("RGB")
    query = Query("1", "1" * (ANSWER - 1), noise)
    row = vlm.encode([query])
    first, last = row.spans[0].image
    return replace(query, prompt="1" * (1 + text - (row.labels.shape[1] - (last - first))))


def crowd(patch: ExpertPatch, experts: int) -> ExpertPatch:
    """The one edit of ``patch`` in a bank of ``experts``; the others fire for no image."""
    rows: dict[str, Tensor] = {}
    for name, own in patch.bank.tensors().items():
        value = math.nan if name == "vision_keys" else 0.0
        rows[name] = own.new_full((experts, *own.shape[1:]), value)
        rows[name][:1] = own[: min(1, experts)]
    return ExpertPatch(patch.editor, Bank(rows))


def case(number: int, edit: Query) -> Case:
    """A training case of LiveEdit: the edit and three probes, all with an image."""
    kinds = ("text_generality", "image_generality", "image_locality")
    return Case(str(number), (edit,), tuple(Probe(kind, edit) for kind in kinds))


def measure(
    vlm: VLM, config: LiveEditConfig, pools: Sequence[int] = POOLS
) -> dict[str, Taken | None]:
    """Measure all work, by the keys of ``compute.WORK``.

    With the margin at −∞ every query about the image finds the one edit.
    """
    editor = LiveEdit(vlm, replace(config, margin=-1e9))
    edit = sized(vlm)
    device = editor.device
    asked = [Query(edit.prompt, image=edit.image)]
    found = {"edit": taken(lambda: editor.edit([edit]), device)}
    own = editor.edit([edit])
    assert isinstance(own, ExpertPatch)

    def ask(experts: int) -> Taken | None:
        try:
            patch = crowd(own, experts)
        except torch.cuda.OutOfMemoryError:
            return None
        with vlm.patched(patch):
            return taken(partial(vlm.generate, asked, max_new_tokens=DECODED), device)

    found |= {f"query {experts}": ask(experts) for experts in pools}
    cases = [case(number, edit) for number in range(BATCH)]
    found["prepare"] = taken(lambda: editor.prepare(cases), device)
    return found | {
        "step": taken(training_step(editor, cases), device) if found["prepare"] else None
    }


def training_step(editor: LiveEdit, cases: Sequence[Case]) -> Callable[[], None]:
    """A step of ``liveedit train`` with cached hidden states."""
    examples = editor.prepare(cases)
    optimizer = torch.optim.Adam(editor.networks().parameters(), lr=1e-4, fused=True)
    generator = torch.Generator().manual_seed(0)

    def step() -> None:
        loss, _ = editor.loss(examples, generator)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()

    return step


def gpu() -> str | None:
    """Name of the GPU, if there is one."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else None


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure one backbone; print and store the result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("backbone", choices=sorted(BACKBONES))
    args = parser.parse_args(arguments)
    here = gpu()
    if here is None:
        print("error: there is no GPU here: run this on a machine with one", file=sys.stderr)
        return 1
    torch.manual_seed(0)
    name = args.backbone
    found = measure(full(name, torch.device("cuda:0")), LiveEditConfig())
    keep(name, {"device": f"{here}, torch {torch.__version__}", **found})
    console = Console()
    for work, numbers in found.items():
        result = "does not fit"
        if numbers is not None:
            result = f"{numbers['ms']:.1f} ms, {numbers['GB']:.1f} GB"
        console.print(f"{WORK[work]}: {result}", highlight=False)
    return 0


def keep(name: str, found: dict[str, object]) -> None:
    """Add the measurements of a backbone to the others, and write the page."""
    stored = json.loads(MEASURED.read_text(encoding="utf-8")) if MEASURED.exists() else {}
    stored[name] = found
    MEASURED.write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")
    write(stored)


if __name__ == "__main__":
    sys.exit(main())
