"""Measure on a GPU what ``compute.py`` computes: random weights at full size, in bfloat16.

    python recipes/sizes/measure.py BACKBONE      # llava-1.5-7b, minigpt4-vicuna-7b …

Prints memory and time of one edit, of 32 edits at once, of one query without experts, with 1,000
and 100,000 in memory and with 1,000,000 in a store, and of one training step, beside the targets of
``targets.py``; stores them in docs/explanation/results/sizes.json and writes sizes.md beside it.
Nothing is downloaded: weights, experts and images are random.

Everything is measured twice, with the products of LiveEdit's own networks in float32, as they are
by default, and in TF32 (``torch.set_float32_matmul_precision("high")``). Then the embedded model is
edited and asked in both, all its products included, to count the answers that stay the same.

Each time is the median of ``REPEATS`` runs after a warm-up; memory is the largest amount that
torch held in any of them. A query with experts and one without are measured in turn, ``ROUNDS``
times; their ratio is the median of the rounds'. Every run reads and scales its images on the CPU,
and a training step moves its hidden states from there. The first query reads the keys near it from
the store; that is the warm-up. Not tried on a GPU since the edits at once, the store and TF32 were
added.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch
from compute import (
    ANSWER,
    BACKBONES,
    BATCH,
    DECODED,
    EDITS,
    POOLS,
    PRECISIONS,
    STORED,
    TEXT,
    WORK,
)
from crowd import Crowd
from full import full
from page import MEASURED, write
from PIL import Image
from targets import TARGETS

from liveedit.data import load_cases
from liveedit.editable import embedded, load_vlm
from liveedit.editors import load_editor
from liveedit.editors.liveedit.editor import LiveEdit, LiveEditConfig
from liveedit.editors.liveedit.experts import ExpertPatch
from liveedit.models.vlm import VLM
from liveedit.types import Case, Probe, Query

__all__ = ["Taken", "answers_alike", "keep", "main", "measure", "sized", "taken"]

REPEATS = 5
ROUNDS = 15
DEVICE = torch.device("cuda:0")
CASES = 100
"""Cases of Emblem that the embedded model is asked."""

Taken = dict[str, float]
"""``ms`` and ``GB``; the memory is 0 on a CPU, where it is not measured. Of a query with experts
also ``ratio``, its time by that of an unedited one.
"""


def seconds(action: Callable[[], object], device: torch.device) -> float:
    """The seconds that an action takes, with the device's part."""
    start = time.perf_counter()
    action()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def taken(
    action: Callable[[], object], device: torch.device, plain: Callable[[], object] | None = None
) -> Taken | None:
    """Measure ``action``, in turn with ``plain`` if it is to be compared with that.

    ``None`` if it does not fit into the device's memory.
    """
    cuda = device.type == "cuda"
    try:
        if cuda:
            torch.cuda.reset_peak_memory_stats(device)
        seconds(action, device)
        if plain is None:
            times = [seconds(action, device) for _ in range(REPEATS)]
            compared = {}
        else:
            rounds = [(seconds(plain, device), seconds(action, device)) for _ in range(ROUNDS)]
            times = [own for _, own in rounds]
            compared = {"ratio": statistics.median(own / other for other, own in rounds)}
    except torch.cuda.OutOfMemoryError:
        torch.cuda.empty_cache()
        return None
    held = torch.cuda.max_memory_allocated(device) if cuda else 0
    return {"ms": 1e3 * statistics.median(times), "GB": held / 1e9, **compared}


def noise() -> Image.Image:
    """A random image."""
    return Image.effect_noise((480, 360), 60).convert("RGB")


def sized(vlm: VLM, text: int = TEXT) -> Query:
    """An edit whose row has ``text`` text tokens, ``ANSWER`` of them its answer's.

    A digit is a token, and so is the blank before the answer.
    """
    query = Query("1", "1" * (ANSWER - 1), noise())
    row = vlm.encode([query])
    first, last = row.spans[0].image
    return replace(query, prompt="1" * (1 + text - (row.labels.shape[1] - (last - first))))


def case(number: int, edit: Query) -> Case:
    """A training case of LiveEdit: the edit and three probes, all with an image."""
    kinds = ("text_generality", "image_generality", "image_locality")
    return Case(str(number), (edit,), tuple(Probe(kind, edit) for kind in kinds))


def measure(
    vlm: VLM, config: LiveEditConfig, pools: Sequence[int] = POOLS, stored: int = STORED
) -> dict[str, Taken | None]:
    """Measure all work, by the keys of ``compute.WORK``, with banks of so many experts."""
    editor = LiveEdit(vlm, config)
    edit = sized(vlm)
    device = editor.device
    many = [replace(edit, image=noise()) for _ in range(EDITS)]
    crowd = Crowd(editor, edit)
    asked = replace(edit, target="")
    plain = partial(vlm.generate, [asked], max_new_tokens=DECODED)

    def ask(make: Callable[[int], ExpertPatch], experts: int) -> Taken | None:
        if not experts:
            return taken(plain, device)
        try:
            patch = make(experts)
        except torch.cuda.OutOfMemoryError:
            torch.cuda.empty_cache()
            return None

        def edited() -> None:
            with vlm.patched(patch):
                plain()

        return taken(edited, device, plain)

    found = {
        "edit": taken(lambda: editor.edit([edit]), device),
        "edits": taken(lambda: editor.edit(many), device),
    }
    found |= {f"query {experts}": ask(crowd.resident, experts) for experts in pools}
    found[f"query {stored}"] = ask(crowd.stored, stored)
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


def answers_alike(device: torch.device) -> tuple[int, int]:
    """How many answers of the embedded model are alike in all precisions, of how many.

    It is edited by LiveEdit with the edits of cases of Emblem, and asked these and their probes.
    """
    vlm = load_vlm(device_map={"": device})
    editor = load_editor(vlm, embedded("liveedit"))
    cases = load_cases("emblem", "test")[:CASES]
    asked: list[Query] = []
    for one in cases:
        asked += [*one.edits, *(probe.query for probe in one.probes)]
    found = []
    for precision in PRECISIONS.values():
        torch.set_float32_matmul_precision(precision)
        with vlm.patched(editor.edit([one.edits[0] for one in cases])):
            found.append(vlm.generate(asked))
    return sum(len(set(answers)) == 1 for answers in zip(*found, strict=True)), len(asked)


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
    vlm = full(args.backbone, DEVICE)
    found: dict[str, object] = {"device": f"{here}, torch {torch.__version__}"}
    for name, precision in PRECISIONS.items():
        torch.manual_seed(0)
        torch.set_float32_matmul_precision(precision)
        measured = measure(vlm, LiveEditConfig())
        found[name] = measured
        keep(args.backbone, found)
        for work, numbers in measured.items():
            print(line(work, name, numbers), flush=True)
    alike, asked = answers_alike(DEVICE)
    found |= {"alike": alike, "asked": asked}
    keep(args.backbone, found)
    print(f"answers of the embedded model that are alike in both: {alike} of {asked}")
    return 0


def line(work: str, precision: str, found: Taken | None) -> str:
    """The measurement of a piece of work, beside its target."""
    told = "does not fit" if found is None else f"{found['ms']:.1f} ms, {found['GB']:.1f} GB"
    target = f"; {TARGETS[work].told(found)}" if work in TARGETS else ""
    return f"{WORK[work]}, {precision}: {told}{target}"


def keep(name: str, found: dict[str, object]) -> None:
    """Add the measurements of a backbone to the others, and write the page."""
    stored = json.loads(MEASURED.read_text(encoding="utf-8")) if MEASURED.exists() else {}
    stored[name] = found
    MEASURED.write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")
    write(stored)


if __name__ == "__main__":
    sys.exit(main())
