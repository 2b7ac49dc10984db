"""Compute LiveEdit's memory and time at full size, on the papers' five backbones.

    python recipes/sizes/page.py                 # writes docs/explanation/results/sizes.md
    python recipes/sizes/measure.py BACKBONE     # measures the same on a GPU, and writes the page

The model is in bfloat16, LiveEdit's networks and experts are in float32. Shapes, FLOPs and the
memory of training are those of ``recipes/published`` (``backbones.py``, ``estimate.py``). Work is
divided into phases that follow one another, and the lower bound of a phase is the larger of

    FLOPs in bf16 / peak + FLOPs in float32 / peak
    bytes moved / bandwidth

with peaks and bandwidth from the card's data sheet. Weights, keys of experts and the decoder's
cache are moved once per phase, activations only where gradients need them later. The expectation
assumes a share of the peaks (``MATRICES``) and of the bandwidth (``READING``), and ``STARTING``
seconds for each layer that Python starts. Memory is weights, networks, experts, cache and the
activations of the largest layer, without CUDA's own.
"""

import sys
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "published"))

from backbones import BACKBONES, Backbone
from crowd import EACH
from estimate import DECODED, LAYER, STARTING, Load, liveedit, networks, train_bytes

from liveedit.editors.common.sketch import DIRECTIONS
from liveedit.editors.liveedit.experts import TOGETHER

__all__ = [
    "ANSWER", "BACKBONES", "BATCH", "CARDS", "DECODED", "EDITS", "MATRICES", "POOLS",
    "PRECISIONS", "READING", "STARTING", "STORED", "TEXT", "WORK",
    "Card", "Phase", "Work", "expert", "filtering", "in_memory", "works",
]  # fmt: skip

TEXT = 24
"""Text tokens of a row: about the mean of the published benchmarks."""
ANSWER = 4
"""Tokens of the answer among these."""
BATCH = 8
"""Cases per training step, four rows each, as published."""
EDITS = 32
"""Edits that are made at once, each with an image of its own."""
POOLS = (0, 1_000, 100_000)
"""Numbers of experts in memory."""
STORED = 1_000_000
"""Number of experts in a store, of which sketches are in memory."""
PRECISIONS = {"float32": "highest", "TF32": "high"}
"""Precisions of products of float32 numbers, as torch calls them."""
MATRICES = 0.4
"""Share of the peak that matrix products reach: an assumption."""
READING = 0.8
"""Share of the bandwidth that reading weights reaches: an assumption."""
ATTENTIONS = 5
"""Attentions of LiveEdit's networks in one edit or query.

A training step has about four times as many, each forwards and backwards.
"""


@dataclass(frozen=True)
class Card:
    """Data sheet of a GPU: memory (GB), bandwidth (TB/s), peaks in bf16 and float32 (TFLOP/s)."""

    memory: float
    bandwidth: float
    bf16: float
    float32: float


CARDS = {
    "H200": Card(141, 4.8, 989, 67),
    "A100-80": Card(80, 2.039, 312, 19.5),
    "RTX 4090": Card(24, 1.008, 165.2, 82.6),
}
"""H200 and A100 as SXM; bf16 with float32 accumulation, without sparsity."""


@dataclass(frozen=True)
class Phase:
    """Part of the work that is limited by arithmetic, by bandwidth or by starting kernels.

    Arguments:
        flops: FLOPs in bf16.
        float32: FLOPs in float32.
        moved: Bytes read and written.
        layers: Layers that Python starts one after another.
        times: Number of repetitions.
    """

    flops: float = 0.0
    float32: float = 0.0
    moved: float = 0.0
    layers: int = 0
    times: int = 1

    def floor(self, card: Card) -> float:
        """Lower bound in seconds, at the card's peaks."""
        arithmetic = self.flops / card.bf16 + self.float32 / card.float32
        return self.times * max(arithmetic, self.moved / card.bandwidth) / 1e12

    def expected(self, card: Card) -> float:
        """Expected seconds, with the assumed shares of the peaks."""
        arithmetic = (self.flops / card.bf16 + self.float32 / card.float32) / MATRICES
        reading = self.moved / card.bandwidth / READING
        return self.times * max(arithmetic / 1e12, reading / 1e12, self.layers * STARTING)


@dataclass(frozen=True)
class Work:
    """A piece of work: its phases, which follow one another, and its memory in bytes."""

    phases: tuple[Phase, ...]
    memory: float

    def total(self, what: str) -> float:
        """Sum over all phases of the field ``what``."""
        return float(sum(phase.times * getattr(phase, what) for phase in self.phases))

    def milliseconds(self, card: Card) -> tuple[float, float]:
        """Lower bound and expectation in milliseconds."""
        floor = sum(phase.floor(card) for phase in self.phases)
        expected = sum(phase.expected(card) for phase in self.phases)
        return 1e3 * floor, 1e3 * expected


def expert(b: Backbone) -> tuple[int, int]:
    """Bytes of an expert's keys, in half precision, and of its factors U and V.

    The keys are 2 × 4 vectors of 1024, the factors have rank 4.
    """
    return 2 * 2 * 4 * 1024, 4 * 2 * 4 * b.width


def filtering(b: Backbone, experts: int) -> Phase:
    """Comparison of a query with the keys of all experts: two FLOPs per number of 2 bytes.

    It is what comparing costs at most; a sketch leaves few of them.
    """
    keys = experts * expert(b)[0]
    return Phase(float32=keys, moved=keys)


def searching(b: Backbone, experts: int) -> Phase:
    """Comparison of a query with the sketches of all vision keys, and with those keys left."""
    sketch = DIRECTIONS + 1
    left = expert(b)[0] // 2 * experts / EACH
    return Phase(float32=2 * sketch * experts + left, moved=4 * sketch * experts + left)


def in_memory(b: Backbone, experts: int) -> float:
    """Bytes that a store of so many takes on the device: sketches of both keys in float32, and room
    for the vision keys, with a quarter to spare.
    """
    return 1.25 * experts * (2 * 4 * (DIRECTIONS + 1) + expert(b)[0] / 2)


def working(b: Backbone, tokens: float) -> float:
    """Bytes of activations in a layer of the decoder: hidden states and feed-forward network."""
    return 2 * tokens * (4 * b.width + b.matrices * b.inner)


def tower(b: Backbone, images: int = 1) -> Phase:
    """Images through the vision tower and the connector."""
    return Phase(images * b.vision.flops, moved=2 * b.vision.parameters, layers=b.vision.layers)


def edit(at: Load, together: int = 1, times: int = 1) -> Work:
    """Edits, so many ``together``, so many ``times``: the tower, the layers up to the edited one,
    the networks that write an expert.
    """
    b = at.backbone
    own = networks(at)
    lower = LAYER + 1
    flops = together * b.forward(at.tokens, lower)
    below = Phase(flops, moved=2 * lower * b.layer, layers=lower)
    write = Phase(float32=together * own.edit, moved=4 * own.writing, layers=ATTENTIONS)
    phases = [replace(phase, times=times) for phase in (tower(b, together), below, write)]
    held = 2 * b.parameters + 4 * own.parameters + working(b, together * at.tokens)
    return Work(tuple(phases), held)


def query(at: Load, experts: int) -> Work:
    """A query with a greedy answer of 16 tokens and a bank of ``experts``, one of which fires.

    With 0 experts the model is unedited; ``STORED`` are in a store.
    """
    b = at.backbone
    own = networks(at)
    tokens = at.tokens - at.answer
    stored = experts == STORED
    filtered = searching(b, experts) if stored else filtering(b, experts)
    bank = in_memory(b, experts) if stored else experts * sum(expert(b))
    head = 2 * b.vocabulary * b.width
    cache = 4 * b.layers * b.width * (tokens + DECODED)
    moved = 2 * b.layers * b.layer + head
    asked = Phase(b.forward(tokens) + b.head(1), moved=moved, layers=b.layers)
    route = Phase(
        float32=own.query + filtered.float32,
        moved=4 * own.routing + filtered.moved,
        layers=ATTENTIONS,
    )
    read = 2 * b.layers * (b.layer - b.for_images) + head + cache
    layers = b.layers + bool(experts)
    decoded = Phase(b.forward(1) + b.head(1), moved=read, layers=layers, times=DECODED - 1)
    weights = 2 * b.parameters + 4 * own.parameters
    held = weights + bank + cache + working(b, tokens)
    phases = (tower(b), asked, route, decoded) if experts else (tower(b), asked, decoded)
    return Work(phases, held)


def prepare(at: Load) -> Work:
    """Hidden states of a training step, and the unedited logits of its locality rows.

    Once per case where these are cached.
    """
    b = at.backbone
    rows = 4 * BATCH
    lower = LAYER + 1
    upper = b.layers - lower
    below = Phase(rows * b.forward(at.tokens, lower), moved=2 * lower * b.layer, layers=lower)
    flops = BATCH * (b.forward(at.tokens, upper) + b.head(at.answer))
    head = 2 * b.vocabulary * b.width
    above = Phase(flops, moved=2 * upper * b.layer + head, layers=upper)
    held = 2 * b.parameters + 4 * networks(at).parameters + working(b, rows * at.tokens)
    return Work((tower(b, rows), below, above), held)


def step(at: Load) -> Work:
    """A training step: the layers above the edited one and the networks, both ways, and Adam."""
    b = at.backbone
    own = networks(at)
    cost = liveedit(at)
    upper = b.layers - LAYER - 1
    waiting = BATCH * cost.passed * 34 * b.width  # written, and read by the gradients
    weights = 2 * (upper * b.layer + b.vocabulary * b.width)
    through = Phase(BATCH * (cost.step - own.step), moved=2 * (weights + waiting), layers=3 * upper)
    learnt = Phase(
        float32=BATCH * own.step,
        moved=8 * own.parameters + 2 * BATCH * own.held,
        layers=3 * 4 * ATTENTIONS,
    )
    # weight, gradient and both moments are read, all but the gradient written
    adam = Phase(moved=28 * own.parameters)
    return Work((through, learnt, adam), train_bytes(at, cost, BATCH))


def works(name: str) -> dict[str, Work]:
    """All computed and measured work on a backbone, by the keys of ``WORK``."""
    at = Load(BACKBONES[name], 0, 0, TEXT, ANSWER)
    made = {"edit": edit(at), "edits": edit(at, TOGETHER, EDITS // TOGETHER)}
    asked = {f"query {experts}": query(at, experts) for experts in (*POOLS, STORED)}
    return {**made, **asked, "prepare": prepare(at), "step": step(at)}


WORK = {
    "edit": "one edit",
    "edits": "32 edits at once",
    "query 0": "a query, no expert",
    "query 1000": "a query, 1,000 experts",
    "query 100000": "a query, 100,000 experts",
    "query 1000000": "a query, 1,000,000 experts in a store",
    "prepare": "hidden states of a training step",
    "step": "a training step",
}
"""Titles of all work."""
