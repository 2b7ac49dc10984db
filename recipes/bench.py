"""Measure pinpoint's speed on this machine, on the embedded model.

    make bench

Prints edits, probes and training samples per second, and what a query costs with 0, 1,000, 10,000
and 100,000 experts, relative to the unedited model. Absolute times depend on the machine and
its load. The ratios are medians of many queries, unedited and edited in turn.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from liveedit.data import load_cases
from liveedit.editable import embedded, load_vlm
from liveedit.editors import load_editor
from liveedit.editors.liveedit.experts import ExpertEditor, ExpertPatch
from liveedit.models.patch import Patch
from liveedit.models.vlm import VLM
from liveedit.types import Case, Query

SIZES = (0, 1_000, 10_000, 100_000)


def timed(action: Callable[[], object]) -> float:
    """Measure the seconds that ``action`` takes."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def grown(editor: ExpertEditor, patch: ExpertPatch, size: int) -> ExpertPatch:
    """A bank of ``size`` experts: real ones, then vision keys of one with text keys of another."""
    if size <= len(patch):
        return patch.select(slice(size))
    generator = torch.Generator().manual_seed(0)
    bank = patch.bank
    rows = bank.tensors()
    while len(bank) < size:
        others = torch.randperm(len(patch), generator=generator)
        pairs = rows | {"text_keys": rows["text_keys"][others]}
        bank = bank.append({name: tensor[: size - len(bank)] for name, tensor in pairs.items()})
    return ExpertPatch(editor, bank)


def query_ratio(vlm: VLM, patch: Patch, queries: list[Query], repeats: int) -> tuple[float, float]:
    """Median seconds of an unedited query, and the median ratio of edited to unedited seconds."""
    plain, ratios = [], []
    for query in queries * repeats:
        ask = partial(vlm.generate, [query])
        unedited = timed(ask)
        with vlm.patched(patch):
            edited = timed(ask)
        plain.append(unedited)
        ratios.append(edited / unedited)
    return statistics.median(plain), statistics.median(ratios)


def training_speed(
    editor: ExpertEditor, cases: list[Case], steps: int = 8, batch: int = 24
) -> float:
    """Training samples per second, without the preparation of hidden states."""
    examples = editor.prepare(cases[: 2 * batch])
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(editor.networks().parameters(), lr=0.0)

    def step() -> None:
        order = torch.randperm(len(examples), generator=generator)[:batch].tolist()
        loss, _ = editor.loss([examples[i] for i in order], generator)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()

    step()
    return batch / statistics.median(timed(step) for _ in range(steps))


def main() -> None:
    """Measure and print; with ``--out`` also write the numbers."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    vlm = load_vlm()
    editor = load_editor(vlm, embedded("pinpoint"))
    assert isinstance(editor, ExpertEditor)
    cases = load_cases("emblem", "test")
    edits = [case.edits[0] for case in cases[:1000]]
    editor.edit(edits[:8])
    found: dict[str, float] = {"edits_per_second": len(edits) / timed(lambda: editor.edit(edits))}
    patch = editor.edit(edits)
    assert isinstance(patch, ExpertPatch)
    probes: list[Query] = []
    for case in cases[:24]:
        probes += [probe.query for probe in case.probes]
    with vlm.patched(patch):
        found["probes_per_second"] = len(probes) / timed(lambda: vlm.generate(probes))
    found["training_samples_per_second"] = training_speed(editor, load_cases("emblem", "val"))
    queries = edits[:20]
    vlm.generate(queries)
    for size in SIZES:
        seconds, ratio = query_ratio(vlm, grown(editor, patch, size), queries, args.repeats)
        found[f"query_ratio_{size}"] = ratio
        found["unedited_query_seconds"] = seconds
    table = Table(
        "measured", "value", title=f"{torch.get_num_threads()} threads, torch {torch.__version__}"
    )
    for name, value in found.items():
        table.add_row(name.replace("_", " "), f"{value:.3g}")
    Console().print(table)
    if args.out:
        args.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
