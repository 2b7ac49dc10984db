"""Estimate the cost of the published recipes from shapes: trained parameters, memory and hours.

    python recipes/published/estimate.py --tflops 400 --memory 141   # writes the page
    python recipes/published/estimate.py --measure            # the same, efficiency measured

``--measure`` takes minutes on one core. Nothing here was run on a real backbone: every number is
computed. FLOPs come from the shapes (``backbones.py``) and the mean lengths of the published
questions and answers, which have to be added (`liveedit data add`), at four characters per token.
A time is

    FLOPs / (tflops · efficiency)

or, if longer, the time to start the kernels of all layers that run one after another, or for a
decoded token the time to read all weights once. Reading and scaling images is not counted.
``--tflops`` is the speed of large matrix products in bf16: on an H200, whose peak is 989, 400 is a
cautious guess. The efficiency is the share of it that this package reaches; ``efficiency.py``
measures it on the embedded model, relative to a large product on the same machine. Memory is

    2 bytes per weight of the model
    + 16 bytes per trained one (weight, gradient and Adam's two moments, in float32)
    + 34 · D bytes per token and layer that gradients pass (Korthikanti et al., 2022)
    + three copies of the logits
    + what LiveEdit's networks keep of an example for their gradients
"""

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from backbones import BACKBONES, Backbone
from methods import VLKEB_ONLY, method
from rich.console import Console

from liveedit.data.published.annotations import Annotation
from liveedit.data.published.locations import annotations
from liveedit.data.published.sources import source

__all__ = [
    "BENCHMARKS", "COSTS", "DECODED", "LAYER", "STARTING",
    "Cost", "Device", "Load", "Networks",
    "device_options", "eval_hours", "liveedit", "load", "networks", "train_bytes", "train_hours",
    "windows",
]  # fmt: skip

HERE = Path(__file__).parent
EFFICIENCY = HERE / "efficiency.json"
DOC = Path(__file__).parents[2] / "docs" / "explanation" / "results" / "published.md"

BENCHMARKS = ("e-vqa", "e-ic", "vlkeb")
CHARACTERS = 4
"""Characters of text per token."""
PROBES = 5
"""Probes of a case in the papers' split, which are one batch."""
DECODED = 16
"""Smallest number of tokens of a free answer."""
SMALL = 86_000_000
"""Parameters in the matrices of OPT-125M or RoBERTa-base (12 layers of width 768)."""
STARTING = 5e-4
"""Seconds to start the dozen kernels of one layer from Python: an assumption."""
LAYER = 21
"""The layer that LiveEdit edits, counted from 0."""
DEMONSTRATIONS = 32
"""Number of IKE's demonstrations, of three lines each."""


@dataclass(frozen=True)
class Load:
    """Sizes of a benchmark on a backbone.

    Arguments:
        backbone: The backbone.
        train_cases: Number of training cases.
        test_cases: Number of test cases.
        text: Mean number of text tokens in a case's longest row.
        answer: Mean number of tokens of an answer.
    """

    backbone: Backbone
    train_cases: int
    test_cases: int
    text: float
    answer: float

    @property
    def tokens(self) -> float:
        """Tokens of a row: the rows of a batch are padded to the longest."""
        return self.backbone.image_tokens + self.text


def load(backbone: Backbone, data: str) -> Load:
    """The load of a benchmark, from its annotations.

    Raises :class:`BadInput` if it was not added.
    """
    rows = [*annotations(data, "train"), *annotations(data, "test")]
    longest = sum(map(_longest, rows)) / len(rows)
    answer = sum(len(row.alt) for row in rows) / len(rows)
    counts = source(data).counts
    return Load(
        backbone,
        counts["train"],
        counts["test"],
        text=longest / CHARACTERS + 2,
        answer=max(1.0, answer / CHARACTERS),
    )


def _longest(row: Annotation) -> int:
    """Characters of a record's longest question and answer."""
    return max(
        len(row.rephrase) + len(row.alt),
        len(row.m_loc_q) + len(row.m_loc_a),
        len(row.loc) + len(row.loc_ans),
    )


@dataclass(frozen=True)
class Cost:
    """Costs of a method.

    Arguments:
        edit: FLOPs of one edit.
        started: Layers that an edit runs one after another, forwards and backwards.
        query: FLOPs of a probe beyond those of the unedited model's answer.
        step: FLOPs of a training example at each step.
        prepare: FLOPs of a training example below the layers that gradients pass: once if hidden
            states are cached, else at each step.
        trained: Number of trained parameters.
        passed: Tokens times layers of a training example that gradients pass.
        held: Further bytes per training example that gradients need.
        rows: Rows of a training example.
    """

    edit: float
    started: float = 0.0
    query: float = 0.0
    step: float = 0.0
    prepare: float = 0.0
    trained: int = 0
    passed: float = 0.0
    held: float = 0.0
    rows: int = 0


@dataclass(frozen=True)
class Networks:
    """Costs of LiveEdit's own networks, in float32: d_m is 1024, with 4 queries and rank 4.

    Arguments:
        edit: FLOPs of one edit.
        query: FLOPs of routing one query.
        step: FLOPs of one training example, forwards and backwards.
        writing: Number of parameters that an edit reads.
        routing: Number of parameters that a query reads.
        held: Bytes that a training example keeps for its gradients.
    """

    edit: float
    query: float
    step: float
    writing: int
    routing: int
    held: float

    @property
    def parameters(self) -> int:
        """Number of all parameters."""
        return self.writing + self.routing


def networks(at: Load) -> Networks:
    """LiveEdit's networks for a backbone; FLOPs are those of keys and values, nearly all."""
    b = at.backbone
    d_m = 1024
    D = b.width
    attention = (d_m + 1) * d_m + 2 * (D + 1) * d_m
    extractor = 4 * D + 8 * d_m + 3 * attention
    writer = 2 * D + 4 * d_m + (d_m + 1) * d_m + (D + 1) * d_m + (D + 1) * D
    look = b.image_tokens * 4 * D * d_m
    read = at.text * 4 * D * d_m
    write = at.tokens * 4 * D * (d_m + D)
    # a training example has 4 images and 11 prompts
    tokens = 4 * b.image_tokens + 11 * at.text
    return Networks(
        edit=write + look + 2 * read,
        query=2 * look + 2 * read,  # the sentinel is one more image
        step=3 * (write + 4 * look + 11 * read),
        writing=extractor + 2 * writer,
        routing=extractor + b.image_tokens * D + 2 * D,
        held=4 * (tokens * 2 * (D + d_m) + at.tokens * (5 * D + 2 * d_m)),
    )


def liveedit(at: Load) -> Cost:
    """LiveEdit at layer 21 of 32; four rows per example."""
    b = at.backbone
    own = networks(at)
    rows = 4
    lower = LAYER + 1
    upper = b.layers - lower
    return Cost(
        edit=b.vision.flops + b.forward(at.tokens, lower) + own.edit,
        query=own.query,
        step=2 * rows * (b.forward(at.tokens, upper) + b.head(at.answer)) + own.step,
        prepare=rows * (b.vision.flops + b.forward(at.tokens, lower)) + b.forward(at.tokens, upper),
        trained=own.parameters,
        passed=rows * at.tokens * upper,
        held=own.held,
        rows=rows,
    )


def transforms(at: Load, rank: int = 1920) -> tuple[int, float]:
    """Parameters of MEND's networks, and their FLOPs in one edit.

    These are all tokens of two layers and the answer's tokens of one.
    """
    b = at.backbone
    width = b.width + b.inner
    shapes = 2
    rank = min(rank, width)
    trained = shapes * 2 * (2 * width * rank + width + 2 * 3 * b.matrices / shapes * width)
    tokens = 2 * b.matrices * at.tokens + b.matrices * at.answer
    return round(trained), tokens * 2 * 4 * width * rank


def mend(at: Load) -> Cost:
    """MEND at the last three layers; five rows per example, each with the change of its edit."""
    b = at.backbone
    rows = 5
    trained, networks = transforms(at)
    top = b.forward(at.tokens, 3) + b.head(at.answer)
    change = 3 * b.matrices * 2 * at.tokens**2 * (b.width + b.inner)
    below = b.vision.flops + b.forward(at.tokens, b.layers - 3)
    return Cost(
        edit=below + 2 * top + networks,
        step=2 * top + 2 * rows * top + 3 * (networks + rows * change),
        prepare=rows * below + 2 * top,
        trained=trained + 3 * b.matrices,
        passed=rows * at.tokens * 3,
        rows=rows,
    )


def ke(at: Load) -> Cost:
    """KE at two matrices of the last three layers; per example one row and the old answer."""
    b = at.backbone
    hidden, condition = 128, 1024
    top = b.forward(at.tokens, 3) + b.head(at.answer)
    change = 6 * 2 * at.tokens**2 * (b.width + b.inner)
    below = b.vision.flops + b.forward(at.tokens, b.layers - 3)
    answer = b.vision.flops + b.forward(at.tokens + DECODED)
    reader = 2 * 4 * hidden * (b.width + hidden + 2) + (2 * hidden + 1) * condition
    outputs = 2 * (b.width + b.inner) + 1
    # weight normalisation has one more parameter per row
    conditioner = (condition + 2) * hidden + (hidden + 2) * outputs
    networks = 2 * (reader * (at.text + DECODED) + 6 * conditioner)
    return Cost(
        edit=below + answer + 2 * top + networks,
        step=4 * top + 3 * (change + networks),
        prepare=below + answer,
        trained=reader + 6 * conditioner,
        passed=at.tokens * 3,
        rows=1,
    )


def serac(at: Load) -> Cost:
    """SERAC: a model like OPT-125M between two linear maps; three rows per example."""
    b = at.backbone
    small = 768
    answering = 2 * (SMALL + 2 * b.width * small) * (at.tokens + at.text) + b.head(at.answer)
    return Cost(
        edit=b.vision.flops + b.forward(at.tokens, 22),
        query=answering + 2 * at.text * 2 * b.width * 256,
        step=3 * 3 * answering,
        prepare=4 * b.vision.flops + 5 * b.forward(at.tokens, 22),
        trained=SMALL + 2 * b.width * small,
        passed=3 * (at.tokens + at.text) * 12 * small / b.width,
        rows=3,
    )


def recipe(at: Load) -> Cost:
    """RECIPE: RoBERTa-base, keys of width 4096, 3 prompt vectors; three rows per example.

    Gradients pass the whole decoder.
    """
    b = at.backbone
    key = 4096
    rows = 3
    reading = 2 * SMALL * at.text
    features = 4 * 768
    perceptron = 2 * features + features * key + key + (key + 1) * key
    prompts = perceptron + (key + 1) * key + (key + 1) * 3 * b.width + b.width**2
    return Cost(
        edit=reading + 2 * (perceptron + prompts),
        query=reading,
        step=2 * rows * (b.forward(at.tokens + 3) + b.head(at.answer)) + 3 * 6 * reading,
        prepare=4 * b.vision.flops + 5 * (b.forward(at.tokens) + b.head(at.tokens)),
        trained=125_000_000 + perceptron + prompts,
        passed=rows * (at.tokens + 3) * b.layers,
        rows=rows,
    )


def lte(at: Load) -> Cost:
    """LTE: all layers of the decoder; seven rows per example, five with the edit in context."""
    b = at.backbone
    rows = 7
    told = at.tokens + at.text
    return Cost(
        edit=b.vision.flops,
        query=2 * (b.forward(told) - b.forward(at.tokens)),
        step=rows * (3 * b.forward(told) + 2 * b.head(at.answer)),
        prepare=5 * b.vision.flops + 2 * b.forward(at.tokens),
        trained=b.layers * b.layer,
        passed=rows * told * b.layers,
        rows=rows,
    )


def descent(at: Load, steps: int, layers: int) -> Cost:
    """``steps`` of gradient descent per edit through the last ``layers``; those below run once."""
    b = at.backbone
    once = b.vision.flops + b.forward(at.tokens, b.layers - layers)
    passes = steps * 2 * (b.forward(at.tokens, layers) + b.head(at.answer))
    return Cost(edit=once + passes, started=b.layers + 3 * steps * layers)


def ike(at: Load) -> Cost:
    """IKE: 32 demonstrations before every query."""
    b = at.backbone
    told = at.tokens + (DEMONSTRATIONS + 1) * 2 * at.text
    return Cost(edit=b.vision.flops, query=2 * (b.forward(told) - b.forward(at.tokens)))


COSTS: dict[str, Callable[[Load], Cost]] = {
    "liveedit": liveedit,
    "mend": mend,
    "ke": ke,
    "serac": serac,
    "recipe": recipe,
    "lte": lte,
    "ft-l": lambda at: descent(at, 25, 1),
    "ft-llm": lambda at: descent(at, 15, 1),
    "ft-m": lambda at: descent(at, 25, at.backbone.layers),
    "ft-vis": lambda at: descent(at, 15, at.backbone.layers),
    "grace": lambda at: descent(at, 20, at.backbone.layers // 3),
    "ike": ike,
    "lemoe": lambda at: descent(at, 100, 2),
    "lora": lambda at: descent(at, 5, at.backbone.layers),
    "t-patcher": lambda at: descent(at, 25, 1),
    "wise": lambda at: descent(at, 10, 6),
}
"""The cost function of each method, by its label in ``settings/``."""


@dataclass(frozen=True)
class Device:
    """A device to estimate for.

    Arguments:
        tflops: Speed of large matrix products, in TFLOP/s.
        memory: Memory in GB.
        bandwidth: Bandwidth of the memory in TB/s.
        efficiency: Share of ``tflops`` that a "step", an "edit" and a "query" reach.
    """

    tflops: float
    memory: float
    bandwidth: float
    efficiency: dict[str, float]

    @classmethod
    def read(cls, tflops: float, memory: float, bandwidth: float) -> "Device":
        """A device with the efficiency that ``efficiency.py`` measured."""
        stored = json.loads(EFFICIENCY.read_text(encoding="utf-8"))
        efficiency = {kind: stored[kind] for kind in ("step", "edit", "query")}
        return cls(tflops, memory, bandwidth, efficiency)

    def seconds(self, kind: str, flops: float) -> float:
        """Seconds of ``flops`` in a training step, an edit or a query (``kind``)."""
        return flops / (self.tflops * 1e12 * self.efficiency[kind])


def train_bytes(at: Load, cost: Cost, batch: int) -> float:
    """Bytes of device memory in training."""
    b = at.backbone
    # LTE also keeps weights and gradients in the model's dtype
    cast = 4 * cost.trained if cost.trained == b.layers * b.layer else 0
    activations = batch * (cost.passed * 34 * b.width + cost.held)
    logits = 3 * 4 * batch * cost.rows * at.answer * b.vocabulary
    return 2 * b.parameters + 16 * cost.trained + cast + activations + logits


def cache_bytes(at: Load, cost: Cost) -> float:
    """Bytes of the hidden states that a training keeps in memory and on disk."""
    return at.train_cases * cost.rows * at.tokens * at.backbone.width * 4.0


def train_hours(at: Load, cost: Cost, device: Device, steps: int, batch: int) -> float:
    """Hours of a training."""
    b = at.backbone
    prepared = at.train_cases if b.cached else steps * batch
    work = device.seconds("step", steps * batch * cost.step + prepared * cost.prepare)
    layers = 3 * cost.passed / cost.rows / at.tokens
    if not b.cached:
        layers += b.layers
    return max(work, steps * STARTING * layers) / 3600


def query_seconds(at: Load, cost: Cost, device: Device) -> float:
    """Seconds of a probe, whose answer is generated, and scored once under teacher forcing.

    A batch reads the weights once.
    """
    b = at.backbone
    decoded = max(DECODED, at.answer + 1)
    flops = b.vision.flops + 2 * b.forward(at.tokens) + b.head(at.tokens) + cost.query
    reading = 2 * b.decoder / (device.bandwidth * 1e12)
    starting = STARTING * b.layers
    computing = device.seconds("query", b.forward(1) + b.head(1))
    decoding = max(reading / PROBES, starting / PROBES, computing)
    return device.seconds("query", flops) + decoded * decoding


def windows(at: Load, numbers: Sequence[int]) -> tuple[int, int]:
    """Number of edited and of evaluated cases in LiveEdit's protocol over all cases.

    Of windows that begin together only the largest is edited.
    """
    sizes: dict[int, int] = {}
    for size in sorted(numbers):
        sizes |= dict.fromkeys(range(0, at.test_cases - size + 1, size), size)
    return sum(sizes.values()), sum(at.test_cases // n * n for n in numbers)


def eval_hours(at: Load, cost: Cost, device: Device, edits: int, asks: int) -> float:
    """Hours of ``edits`` edits and ``asks`` evaluated cases."""
    edit = max(device.seconds("edit", cost.edit), STARTING * max(cost.started, at.backbone.layers))
    return (edits * edit + asks * PROBES * query_seconds(at, cost, device)) / 3600


def table(name: str, data: str, device: Device) -> list[str]:
    """The rows of one backbone and benchmark; the last has the hours of all methods that fit."""
    at = load(BACKBONES[name], data)
    counts = windows(at, (1, 10, 100, 1000))
    lines = []
    trained = tested = 0.0
    for label, costs in COSTS.items():
        if label in VLKEB_ONLY and data != "vlkeb":
            continue
        cost = costs(at)
        used = method(label, name, data, at.train_cases)
        training = 0.0
        testing = 0.0 if label in VLKEB_ONLY else eval_hours(at, cost, device, *counts)
        cells = ["–"] * 4
        fits = True
        if used.training:
            training = train_hours(at, cost, device, used.steps, used.batch)
            held = train_bytes(at, cost, used.batch) / 1e9
            fits = held <= device.memory
            step = used.batch * (cost.step + (0 if at.backbone.cached else cost.prepare)) / 1e12
            cells = [
                f"{cost.trained / 1e6:,.0f}",
                f"{held:,.0f}" if fits else f"{held:,.0f}, too much",
            ]
            cells += [f"{cache_bytes(at, cost) / 1e9:,.0f}", f"{step:.3g}"]
        cells += [f"{cost.edit / 1e12:.3g}", f"{query_seconds(at, cost, device):.2f}"]
        cells += [f"{hours:.1f}" if hours else "–" for hours in (training, testing)]
        lines.append(f"| {data} | {label} | {' | '.join(cells)} |")
        trained += training * fits
        tested += testing * fits
    return [*lines, f"| {data} | all that fit |{' |' * 6} {trained:.0f} | {tested:.0f} |"]


HEAD = (
    "benchmark", "method", "parameters trained, M", "device, GB", "hidden states, GB",
    "a step, TFLOP", "an edit, TFLOP", "a query, s", "training, h", "windows, h",
)  # fmt: skip


LEGEND = """\
*Device* is the memory of a training step. *Hidden states* are what a training would keep of all
cases; for the backbones with most image tokens they are computed at each step instead
(`--no-cache`), which *a step* and *training* include. *Windows* is the test at 1, 10, 100 and
1,000 edits over all cases. The hours are for one device; N devices divide them by about N, but
not the memory."""


def page(device: Device, command: str) -> str:
    """The text of ``docs/explanation/results/published.md``."""
    measured = json.loads(EFFICIENCY.read_text(encoding="utf-8"))
    shares = ", ".join(
        f"{kind} {100 * device.efficiency[kind]:.0f} %" for kind in ("step", "edit", "query")
    )
    parts = [
        "# Cost of the published tables\n",
        "Computed, not measured: nothing here was run on these backbones. Made by",
        f"`{command}`,\n"
        f"which says what is counted. Efficiency relative to a large matrix product: {shares};",
        f"{measured['how']}.\n",
        LEGEND,
    ]
    lines = ["", f"| {' | '.join(HEAD)} |", f"| --- | --- |{' ---: |' * (len(HEAD) - 2)}"]
    for name, backbone in BACKBONES.items():
        parts += [f"\n## {name}\n\n{backbone.described}.", *lines]
        for data in BENCHMARKS:
            parts += table(name, data, device)
    return "\n".join(parts) + "\n"


def device_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that describe the device."""
    parser.add_argument(
        "--tflops",
        type=float,
        default=400,
        help="bf16 TFLOP/s that large products of matrices reach",
    )
    parser.add_argument("--memory", type=float, default=141, help="GB of one device")
    parser.add_argument(
        "--bandwidth", type=float, default=4.8, help="TB/s at which its memory is read"
    )


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    device_options(parser)
    parser.add_argument("--measure", action="store_true", help="measure the efficiency first")
    parser.add_argument("--out", type=Path, default=DOC)
    args = parser.parse_args()
    if args.measure:
        from efficiency import measure

        measure(EFFICIENCY, Console())
    command = (
        f"python recipes/published/estimate.py --tflops {args.tflops:g} --memory {args.memory:g}"
    )
    device = Device.read(args.tflops, args.memory, args.bandwidth)
    args.out.write_text(page(device, f"{command} --bandwidth {args.bandwidth:g}"), encoding="utf-8")


if __name__ == "__main__":
    main()
