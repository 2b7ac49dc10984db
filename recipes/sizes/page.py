"""Write the page of sizes: costs that ``compute.py`` computes and ``measure.py`` measured.

python recipes/sizes/page.py
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import astuple
from pathlib import Path
from typing import Any

from compute import (
    ANSWER,
    BACKBONES,
    BATCH,
    CARDS,
    DECODED,
    EDITS,
    MATRICES,
    POOLS,
    PRECISIONS,
    READING,
    STARTING,
    STORED,
    TEXT,
    WORK,
    Card,
    Work,
    expert,
    filtering,
    in_memory,
    works,
)
from crowd import EACH
from targets import BACKBONE, CARD, TARGETS

from liveedit.editors.liveedit.experts import TOGETHER

__all__ = ["DOC", "MEASURED", "Measurements", "page", "write"]

DOC = Path(__file__).parents[2] / "docs" / "explanation" / "results" / "sizes.md"
MEASURED = DOC.with_suffix(".json")

Measurements = Mapping[str, Mapping[str, Any]]
"""By backbone what ``measure.py`` stores: the ``device``, by ``PRECISIONS`` and work ``ms``, ``GB``
and ``ratio`` (``None`` where it was too large), and how many answers ``asked`` are ``alike``.
"""
NOT_YET = "not measured yet"


def time(work: Work, card: Card) -> str:
    """A cell with lower bound and expectation."""
    if work.memory > 1e9 * card.memory:
        return "too large"
    floor, expected = work.milliseconds(card)
    if expected < 1000:
        return f"{floor:,.3g} / {expected:,.3g}"
    return f"{floor:,.0f} / {expected:,.0f}"


def measured(
    measurements: Measurements, name: str, work: str, precision: str, told: Callable[[Any], str]
) -> str:
    """A cell with what is told of a measurement."""
    found = measurements.get(name, {}).get(precision)
    if found is None:
        return NOT_YET
    return "too large" if found[work] is None else told(found[work])


def times(measurements: Measurements, name: str, work: str) -> list[str]:
    """Three cells with measured memory and times."""
    cells = [
        measured(measurements, name, work, precision, lambda found: f"{found['ms']:,.1f}")
        for precision in PRECISIONS
    ]
    held = measured(measurements, name, work, "float32", lambda found: f"{found['GB']:.1f}")
    return [held, *cells]


def targets(measurements: Measurements) -> list[str]:
    """A table of targets, with what is computed and what was measured."""
    at = works(BACKBONE)
    plain = at["query 0"].milliseconds(CARDS[CARD])
    rows = []
    for key, target in TARGETS.items():
        own = at[key].milliseconds(CARDS[CARD])
        figures = [
            f"{target.value({'ms': ms, 'ratio': ms / other}):.3g}"
            for ms, other in zip(own, plain, strict=True)
        ]
        cells = [
            measured(measurements, BACKBONE, key, precision, target.told)
            for precision in PRECISIONS
        ]
        rows.append([WORK[key], str(target), " / ".join(figures), *cells])
    return grid(["", "target", "computed", "measured", "measured in TF32"], rows)


def table(name: str, measurements: Measurements) -> list[str]:
    """The rows of a backbone."""
    heads = [
        "",
        "TFLOP in bf16",
        "TFLOP in float32",
        "GB moved",
        "GB held",
        *(f"{card}, ms" for card in CARDS),
    ]
    heads += ["measured: GB held", "measured: ms", "measured: ms in TF32"]
    rows = []
    for key, work in works(name).items():
        flops = [f"{work.total(what) / 1e12:.3g}" for what in ("flops", "float32")]
        cells = [*flops, f"{work.total('moved') / 1e9:.1f}", f"{work.memory / 1e9:.1f}"]
        cells += [time(work, card) for card in CARDS.values()] + times(measurements, name, key)
        rows.append([WORK[key], *cells])
    return grid(heads, rows)


def pools() -> list[str]:
    """Memory and time of the largest bank on each backbone: two sentences and a table."""
    count = POOLS[-1]
    whole = f"query {count}"
    small, large = BACKBONES["blip2-opt-2.7b"], BACKBONES["llava-1.5-7b"]
    beside = [count * sum(expert(b)) / 1e9 for b in (small, large)]
    keys = count * expert(large)[0] / 1e9
    floors = []
    fits = []
    for name, card in CARDS.items():
        floors.append(f"{1e3 * filtering(large, count).floor(card):.1f} ms on the {name}")
        models = [model for model in BACKBONES if works(model)[whole].memory <= 1e9 * card.memory]
        listed = ", ".join(models) or "none"
        fits.append(f"on the {name} for {'all five' if len(models) == len(BACKBONES) else listed}")
    heads = ["", "an expert, kB", "keys, GB", "bank, GB", "with the model, GB"]
    heads += [f"filtering: {card}, ms" for card in CARDS]
    rows = []
    for name, b in BACKBONES.items():
        read, factors = expert(b)
        filtered = Work((filtering(b, count),), memory=0)
        sizes = [
            count * read / 1e9,
            count * (read + factors) / 1e9,
            works(name)[whole].memory / 1e9,
        ]
        cells = [f"{(read + factors) / 1e3:.0f}", *(f"{size:.1f}" for size in sizes)]
        rows.append([name, *cells, *(time(filtered, card) for card in CARDS.values())])
    return [
        f"A bank of {count:,} weighs {beside[0]:.1f} GB beside BLIP2-OPT-2.7B and "
        f"{beside[1]:.1f} GB beside a decoder of 7B, and a query that filters\n"
        f"it reads its keys, {keys:.1f} GB, once for a whole answer: "
        f"at least {', '.join(floors)}.\n"
        f"Beside the model it fits {', '.join(fits)}.",
        "",
        *grid(heads, rows),
        "",
        "A bank that grew edit by edit reserves room for up to as many again, and holds both while "
        "it grows.",
    ]


def grid(heads: list[str], rows: list[list[str]]) -> list[str]:
    """A table whose first column is names, the others numbers."""
    lines = [f"| {' | '.join(row)} |" for row in (heads, *rows)]
    return [lines[0], f"| --- |{' ---: |' * (len(heads) - 1)}", *lines[1:]]


INTRODUCTION = """\
# LiveEdit at the papers' sizes

In the table of a backbone, all columns except the last three are **computed** from shapes by
`python recipes/sizes/page.py` (`recipes/sizes/compute.py` says what is counted); parameters and
FLOPs are compared with the real classes on the meta device. The last three are **measured** by
`python recipes/sizes/measure.py BACKBONE`, on random weights of full size, if a GPU is at hand.

The model is in bfloat16; LiveEdit's networks and experts are in float32. A row has the
backbone's image tokens and {text} others, {answer} of them the answer. A query has no answer and
generates {decoded} tokens; one expert fires, the others are filtered out. Of {edits} edits at once
each has an image of its own; {together} go through the model together, while the images of the next
are prepared. A training step takes {batch} cases of four rows; their hidden states are computed
once per case if they are kept, otherwise at each step.

Up to {most:,} experts are in memory with all their tensors, and every key is counted as
compared. Of {stored:,} in a store, sketches of the keys are in memory ({sketches:.1f} GB), and room
for the vision keys ({keys:.1f} GB, both with a quarter to spare; on a GPU room counts in full).
Compared are all sketches, and the keys of one in {each}, as many as
[trained keys](../store.md#a-million-keys) leave; `recipes/sizes/crowd.py` says how they are made.
A query that comes near other edits than those before it also reads their keys from the store, once:
that is not counted.

Times are *floor / expected* in milliseconds. The floor is the larger of two times, added up phase
by phase: the arithmetic at the card's peak, and the memory traffic at its full bandwidth.
Expected times follow from these **assumptions**:
{shares}, and {starting:g} ms or more for each layer that Python starts.
*Too large* is more than the card holds. Not counted are opening and scaling of images, transfers
of hidden states to the CPU and back, and memory that CUDA reserves; the measurements contain the
first two.

**TF32.** The products of LiveEdit's own networks are in float32 unless
`torch.set_float32_matmul_precision("high")` was called, which torch then computes in TF32 on a GPU
that has it, with ten bits after the binary point. The last column is measured so.
{alike}
"""


def alike(measurements: Measurements) -> str:
    """A sentence about answers in TF32."""
    asked = "The answers of the embedded model, edited and asked in both precisions,"
    counts = [found for found in measurements.values() if "alike" in found]
    if not counts:
        return f"{asked} have not been compared yet."
    newest = counts[-1]
    return f"{asked} were alike for {newest['alike']} of {newest['asked']} questions."


def page(measurements: Measurements) -> str:
    """The text of ``docs/explanation/results/sizes.md``."""
    large = BACKBONES[BACKBONE]
    keys = 1.25 * STORED * expert(large)[0] / 2 / 1e9
    sheets = [[name, *(f"{value:g}" for value in astuple(card))] for name, card in CARDS.items()]
    shares = f"{100 * MATRICES:.0f} % of the peak, {100 * READING:.0f} % of the bandwidth"
    parts = [
        INTRODUCTION.format(
            text=TEXT,
            answer=ANSWER,
            decoded=DECODED,
            batch=BATCH,
            edits=EDITS,
            together=TOGETHER,
            most=POOLS[-1],
            stored=STORED,
            keys=keys,
            sketches=in_memory(large, STORED) / 1e9 - keys,
            each=EACH,
            shares=shares,
            starting=1e3 * STARTING,
            alike=alike(measurements),
        ),
        *grid(["", "GB", "TB/s", "TFLOP/s in bf16", "TFLOP/s in float32"], sheets),
        "\n## Targets\n",
        f"On an {CARD} beside {BACKBONE}; computed is *floor / expected* in float32.\n",
        *targets(measurements),
        f"\n## {POOLS[-1]:,} experts\n",
        *pools(),
    ]
    for name, b in BACKBONES.items():
        where = f" Measured on {measurements[name]['device']}." if name in measurements else ""
        parts += [
            f"\n## {name}\n",
            f"{b.described}; {b.image_tokens} image tokens.{where}\n",
            *table(name, measurements),
        ]
    return "\n".join(parts) + "\n"


def write(stored: Measurements) -> None:
    """Write the page."""
    DOC.write_text(page(stored), encoding="utf-8")


if __name__ == "__main__":
    write(json.loads(MEASURED.read_text(encoding="utf-8")) if MEASURED.exists() else {})
