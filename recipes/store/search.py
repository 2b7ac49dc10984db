"""Measure how long it takes to find the edits that an image does not rule out, among very many.

    python recipes/store/search.py 10000 100000 1000000    # the last one takes 10 GB of memory

The keys have the width of LiveEdit's beside LLaVA-1.5-7B, 4 vectors of 1024 numbers, in half
precision. They are made from those of the embedded model's LiveEdit for 1,000 edits of Emblem: to
each a half of the difference of two others is added, and an isometry takes all to the full width,
so that lengths, scores and sentinels are those of a trained editor. The queries are probes about
other images. The sketch's search, with the exact comparison of what it leaves, and the comparison
with all keys are timed in turn. The figures are in docs/explanation/store.md.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from liveedit.data import load_cases
from liveedit.editable import embedded, load_vlm
from liveedit.editors import load_editor
from liveedit.editors.common.bank import Bank
from liveedit.editors.liveedit.experts import ExpertEditor, above
from liveedit.editors.liveedit.routing import Asked

WIDTH = 4096
EDITS = 1000
QUERIES = 20
SLAB = 4096


def real() -> tuple[Tensor, Asked]:
    """Keys φ̂ (E, d) of edits, and probes about other images."""
    vlm = load_vlm()
    editor = load_editor(vlm, embedded("liveedit"))
    assert isinstance(editor, ExpertEditor)
    cases = load_cases("emblem", "train")[: EDITS + QUERIES]
    patch = editor.edit([case.edits[0] for case in cases[:EDITS]])
    batch = vlm.encode([case.edits[0] for case in cases[EDITS:]])
    hidden = vlm.hidden(batch, editor.layer)
    return patch.bank["vision_keys"].flatten(1).float(), patch.asked(hidden.hidden, hidden.spans)


def many(keys: Tensor, isometry: Tensor, count: int) -> Bank:
    """A bank of ``count`` keys like the given ones."""
    chance = torch.Generator().manual_seed(0)
    made = torch.empty(count, WIDTH, dtype=torch.float16)
    for start in range(0, count, SLAB):
        size = min(SLAB, count - start)
        one, other, own = torch.randint(len(keys), (3, size), generator=chance)
        made[start : start + size] = (keys[own] + (keys[one] - keys[other]) / 2) @ isometry
    return Bank({"vision_keys": made})


def timed(action: Callable[[], object]) -> float:
    """The milliseconds of an action."""
    begun = time.perf_counter()
    action()
    return 1000 * (time.perf_counter() - begun)


def every(bank: Bank, query: Tensor, least: Tensor) -> Tensor:
    """The edits above a threshold, by comparison with all keys."""
    found = []
    for start in range(0, len(bank), SLAB):
        scores = query @ bank["vision_keys"][start : start + SLAB].float().T
        found.append((scores > least[:, None]).any(0).nonzero()[:, 0] + start)
    return torch.cat(found)


@torch.no_grad()
def main() -> None:
    """Measure at each size, and print a line for it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sizes", type=int, nargs="+")
    keys, asked = real()
    chance = torch.Generator().manual_seed(1)
    isometry = torch.linalg.qr(torch.randn(WIDTH, keys.shape[1], generator=chance))[0].T
    queries = asked.image @ isometry
    for count in parser.parse_args().sizes:
        measure(many(keys, isometry, count), queries, asked.sentinel)


def measure(bank: Bank, queries: Tensor, sentinels: Tensor) -> None:
    """Print the times on a bank; the first search makes the sketch."""
    name = "vision_keys"
    building = timed(partial(bank.near, name, queries[:1], sentinels[:1]))
    left, quick, slow = [], [], []
    for row in range(len(queries)):
        query, least = queries[row : row + 1], sentinels[row : row + 1]
        assert torch.equal(above(bank, name, query, least), every(bank, query, least))
        left.append(len(bank.near(name, query, least)))
        quick.append(timed(partial(above, bank, name, query, least)))
        slow.append(timed(partial(every, bank, query, least)))
    print(
        f"{len(bank):10,} keys: sketched in {building / 1000:.1f} s; of a query the sketch leaves "
        f"{statistics.median(left):,.0f}, found in {statistics.median(quick):.2f} ms; all compared "
        f"in {statistics.median(slow):.1f} ms",
        flush=True,
    )


if __name__ == "__main__":
    main()
