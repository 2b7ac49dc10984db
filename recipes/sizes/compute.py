"""What LiveEdit takes on the papers' five backbones at full size: memory, and time against the
arithmetic floor.

    python recipes/sizes/page.py                 # writes it to docs/explanation/results/sizes.md
    python recipes/sizes/measure.py BACKBONE     # measures the same on the GPU that is here, and writes the page anew

The model is in bfloat16, LiveEdit's networks and experts are float32. Shapes, FLOPs and the memory
of training are those of ``recipes/published`` (``backbones.py``, ``estimate.py``). Work is cut into
phases that follow one another, and

    floor of a phase  =  max(FLOPs in bf16 / peak + FLOPs in float32 / peak,  bytes moved / bandwidth)

with peaks and bandwidth from the card's data sheet. Moved are weights, keys of experts and the
decoder's cache, each once a phase, and activations only where gradients wait for them. What is
expected allows for a share of the peaks (``MATRICES``) and of the bandwidth (``READING``), and
``STARTING`` seconds for each layer that Python starts: all three are assumptions. Memory is
weights, networks, pool, cache and what the widest layer works on, not what CUDA itself takes.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "published"))

from backbones import BACKBONES, Backbone
from estimate import DECODED, LAYER, STARTING, Load, liveedit, networks, train_bytes

__all__ = [
    "ANSWER", "BACKBONES", "BATCH", "CARDS", "DECODED", "MATRICES", "POOLS", "READING", "STARTING", "TEXT", "WORK", "Card",
    "Phase", "Work", "expert", "filtering", "works",
]  # fmt: skip

TEXT, ANSWER = 24, 4
"""Tokens of a row that are no image, and of these its answer's: about the means of the published
benchmarks.
"""
BATCH = 8
"""Cases a training step takes, four rows each, as published."""
POOLS = (0, 1_000, 100_000)
MATRICES, READING = 0.4, 0.8
"""Share of the peak that products of matrices reach, and of the bandwidth that reading weights
does.
"""
ATTENTIONS = 5
"""Of LiveEdit's networks in one edit or one query; a step has about four times as many, each
forwards and backwards.
"""


@dataclass(frozen=True)
class Card:
    """A GPU by its data sheet: memory (GB), bandwidth (TB/s), and dense peaks in bf16 and float32
    (TFLOP/s).
    """

    memory: float
    bandwidth: float
    bf16: float
    float32: float


CARDS = {
    "H200": Card(141, 4.8, 989, 67),
    "A100-80": Card(80, 2.039, 312, 19.5),
    "RTX 4090": Card(24, 1.008, 165.2, 82.6),
}
"""H200 and A100 in their SXM form; bf16 sums in float32 and without sparsity."""


@dataclass(frozen=True)
class Phase:
    """FLOPs in bf16 and in float32, bytes moved, and the layers that Python starts one after
    another; ``times`` over.
    """

    flops: float = 0.0
    float32: float = 0.0
    moved: float = 0.0
    layers: int = 0
    times: int = 1

    def floor(self, card: Card) -> float:
        """Seconds that it cannot do without."""
        arithmetic = self.flops / card.bf16 + self.float32 / card.float32
        return self.times * max(arithmetic, self.moved / card.bandwidth) / 1e12

    def expected(self, card: Card) -> float:
        """Seconds with the shares assumed."""
        arithmetic = (self.flops / card.bf16 + self.float32 / card.float32) / MATRICES
        each = max(
            arithmetic / 1e12, self.moved / card.bandwidth / READING / 1e12, self.layers * STARTING
        )
        return self.times * each


@dataclass(frozen=True)
class Work:
    """One thing that is done, in its phases, and the bytes of memory that it takes."""

    phases: tuple[Phase, ...]
    memory: float

    def total(self, what: str) -> float:
        """FLOPs or bytes of all phases, by the name of the field."""
        return float(sum(phase.times * getattr(phase, what) for phase in self.phases))

    def milliseconds(self, card: Card) -> tuple[float, float]:
        """Its floor, and what is expected."""
        floors, expected = (
            [getattr(phase, kind)(card) for phase in self.phases] for kind in ("floor", "expected")
        )
        return 1e3 * sum(floors), 1e3 * sum(expected)


def expert(b: Backbone) -> tuple[int, int]:
    """Bytes of an expert: of its keys, which every query reads, and of its factors U and V; 4
    queries of 1024, rank 4.
    """
    return 4 * 2 * 4 * 1024, 4 * 2 * 4 * b.width


def filtering(b: Backbone, experts: int) -> Phase:
    """A query against the keys of all experts: two FLOPs for each number of 4 bytes."""
    keys = experts * expert(b)[0]
    return Phase(float32=keys / 2, moved=keys)


def working(b: Backbone, tokens: float) -> float:
    """Bytes that a layer of the decoder works on: its states and what goes through its feed-forward
    network.
    """
    return 2 * tokens * (4 * b.width + b.matrices * b.inner)


def tower(b: Backbone, images: int = 1) -> Phase:
    """Images through the vision tower and what connects it."""
    return Phase(images * b.vision.flops, moved=2 * b.vision.parameters, layers=b.vision.layers)


def edit(at: Load) -> Work:
    """One edit: the tower, the layers up to the one edited, the networks that write an expert."""
    b, own = at.backbone, networks(at)
    lower = LAYER + 1
    below = Phase(b.forward(at.tokens, lower), moved=2 * lower * b.layer, layers=lower)
    write = Phase(float32=own.edit, moved=4 * own.writing, layers=ATTENTIONS)
    return Work(
        (tower(b), below, write), 2 * b.parameters + 4 * own.parameters + working(b, at.tokens)
    )


def query(at: Load, experts: int) -> Work:
    """A query, answered greedily in 16 tokens, with so many experts in the pool, one of which acts;
    0 is unedited.
    """
    b, own = at.backbone, networks(at)
    tokens, filtered = at.tokens - at.answer, filtering(b, experts)
    head, cache = 2 * b.vocabulary * b.width, 4 * b.layers * b.width * (tokens + DECODED)
    asked = Phase(
        b.forward(tokens) + b.head(1), moved=2 * b.layers * b.layer + head, layers=b.layers
    )
    route = Phase(
        float32=own.query + filtered.float32,
        moved=4 * own.routing + filtered.moved,
        layers=ATTENTIONS,
    )
    read = 2 * b.layers * (b.layer - b.for_images) + head + cache
    decoded = Phase(
        b.forward(1) + b.head(1), moved=read, layers=b.layers + bool(experts), times=DECODED - 1
    )
    held = (
        2 * b.parameters
        + 4 * own.parameters
        + experts * sum(expert(b))
        + cache
        + working(b, tokens)
    )
    return Work((tower(b), asked, *([route] if experts else []), decoded), held)


def prepare(at: Load) -> Work:
    """The hidden states of a training step, and what its locality rows say unedited; once a case
    where they are kept.
    """
    b, rows = at.backbone, 4 * BATCH
    lower, upper = LAYER + 1, b.layers - LAYER - 1
    below = Phase(rows * b.forward(at.tokens, lower), moved=2 * lower * b.layer, layers=lower)
    flops, head = (
        BATCH * (b.forward(at.tokens, upper) + b.head(at.answer)),
        2 * b.vocabulary * b.width,
    )
    above = Phase(flops, moved=2 * upper * b.layer + head, layers=upper)
    held = 2 * b.parameters + 4 * networks(at).parameters + working(b, rows * at.tokens)
    return Work((tower(b, rows), below, above), held)


def step(at: Load) -> Work:
    """A training step: the layers above the one edited and the networks, forwards and backwards,
    and Adam.
    """
    b, own, cost = at.backbone, networks(at), liveedit(at)
    upper = b.layers - LAYER - 1
    waiting = BATCH * cost.passed * 34 * b.width  # written, and read by the gradients
    weights = 2 * (upper * b.layer + b.vocabulary * b.width)
    through = Phase(BATCH * (cost.step - own.step), moved=2 * (weights + waiting), layers=3 * upper)
    learnt = Phase(
        float32=BATCH * own.step,
        moved=8 * own.parameters + 2 * BATCH * own.held,
        layers=3 * 4 * ATTENTIONS,
    )
    adam = Phase(
        moved=28 * own.parameters
    )  # weight, gradient and two means read, all but the gradient written
    return Work((through, learnt, adam), train_bytes(at, cost, BATCH))


def works(name: str) -> dict[str, Work]:
    """All that is computed and measured for a backbone, by the names that ``measure.py`` uses."""
    at = Load(BACKBONES[name], 0, 0, TEXT, ANSWER)
    asked = {f"query {experts}": query(at, experts) for experts in POOLS}
    return {"edit": edit(at), **asked, "prepare": prepare(at), "step": step(at)}


WORK = {
    "edit": "one edit",
    "query 0": "a query, no expert",
    "query 1000": "a query, 1,000 experts",
    "query 100000": "a query, 100,000 experts",
    "prepare": "hidden states of a training step",
    "step": "a training step",
}
"""What is done, in words."""
