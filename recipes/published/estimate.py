"""What the published recipes take: parameters trained, memory and hours, computed from shapes.

    python recipes/published/estimate.py --tflops 400 --memory 141           # writes docs/explanation/results/published.md
    python recipes/published/estimate.py --measure                           # the efficiency anew: minutes on one core

Nothing here was run on a real backbone: every number is computed. FLOPs come from the shapes
(``backbones.py``) and from the mean lengths of the published questions and answers, which have to
be added (`liveedit data add`), at four characters a token. A time is

    FLOPs / (tflops · efficiency)

or the time to start the kernels of all layers that run one after another, or for a decoded token to
read all weights once, if longer. Reading and scaling images is not counted. ``--tflops`` is what
large products of matrices in bf16 reach on the device: on an H200, whose peak is 989, 400 is a
cautious guess. The efficiency is the share of that which our code reaches; ``efficiency.py``
measures it on the embedded model as the ratio to a large product on the same machine. Memory is

    2 bytes a weight of the model  +  16 bytes a trained one (itself, its gradient, Adam's two, in float32)
    +  34 · D bytes a token and layer that gradients pass (Korthikanti et al., 2022)  +  three copies of the logits
    +  what LiveEdit's networks keep of an example for their gradients
"""

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from backbones import BACKBONES, Backbone
from methods import VLKEB_ONLY, method
from rich.console import Console

from liveedit.data.published.places import annotations
from liveedit.data.published.sources import source

__all__ = [
    "BENCHMARKS", "COSTS", "DECODED", "LAYER", "STARTING", "Cost", "Device", "Load", "Networks", "device_options",
    "eval_hours", "liveedit", "load", "networks", "train_bytes", "train_hours", "windows",
]  # fmt: skip

HERE = Path(__file__).parent
EFFICIENCY = HERE / "efficiency.json"
DOC = Path(__file__).parents[2] / "docs" / "explanation" / "results" / "published.md"

BENCHMARKS = ("e-vqa", "e-ic", "vlkeb")
CHARACTERS = 4
"""Of text, a token."""
PROBES = 5
"""Probes of a case in the papers' split, which go through the model together."""
DECODED = 16
"""Tokens that a free answer takes at least."""
SMALL = 86_000_000
"""Parameters in the matrices of a small pretrained transformer of 12 layers and width 768:
OPT-125M, RoBERTa-base.
"""
STARTING = 5e-4
"""Seconds until the dozen kernels of one layer are started from Python: an assumption."""
LAYER = 21
"""That LiveEdit edits, counted from 0."""
DEMONSTRATIONS = 32
"""Of IKE, three lines each."""


@dataclass(frozen=True)
class Load:
    """A benchmark on a backbone: cases of both parts, and the mean tokens of an answer and of the
    longest row.

    ``text`` are the tokens of that row that are no image.
    """

    backbone: Backbone
    train_cases: int
    test_cases: int
    text: float
    answer: float

    @property
    def tokens(self) -> float:
        """Of a row: rows of a batch are padded to the longest."""
        return self.backbone.image_tokens + self.text


def load(backbone: Backbone, data: str) -> Load:
    """The load of a benchmark, from its annotations. Raises :class:`BadInput` where it was not
    added.
    """
    rows = [*annotations(data, "train"), *annotations(data, "test")]
    pairs = [
        (len(question), len(answer))
        for row in rows
        for question, answer in (
            (row.rephrase, row.alt),
            (row.m_loc_q, row.m_loc_a),
            (row.loc, row.loc_ans),
        )
    ]
    longest = sum(max(map(sum, pairs[i : i + 3])) for i in range(0, len(pairs), 3)) / len(rows)
    answer = sum(len(row.alt) for row in rows) / len(rows)
    counts = source(data).counts
    return Load(
        backbone,
        counts["train"],
        counts["test"],
        longest / CHARACTERS + 2,
        max(1.0, answer / CHARACTERS),
    )


@dataclass(frozen=True)
class Cost:
    """FLOPs of a method, and ``started``, the layers that an edit runs one after another, forwards
    and backwards.

    ``prepare`` is what a training example costs below the layers that are trained through, once if
    it is cached and at each step if not; ``step`` what it costs at each step in any case. ``edit``
    is one edit. ``query`` is what a probe costs besides the unedited model's answer. ``trained``
    are the parameters trained, ``passed`` the tokens times layers of an example that gradients
    pass, ``held`` further bytes that they need, ``rows`` its rows.
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
    """LiveEdit's own networks, which compute in float32: d_m 1024, 4 queries and rank 4.

    ``edit``, ``query`` and ``step`` are FLOPs: of one edit, of routing one query, of one training
    example forwards and backwards. ``writing`` are the parameters that an edit reads, ``routing``
    those that a query does. ``held`` are the bytes that an example keeps for its gradients.
    """

    edit: float
    query: float
    step: float
    writing: int
    routing: int
    held: float

    @property
    def parameters(self) -> int:
        """All of them."""
        return self.writing + self.routing


def networks(at: Load) -> Networks:
    """Those for a backbone. Counted are keys and values of what is attended to, which is nearly
    all.
    """
    b, d_m = at.backbone, 1024
    D, attention = b.width, (d_m + 1) * d_m + 2 * (b.width + 1) * d_m
    extractor = 4 * D + 8 * d_m + 3 * attention
    writer = 2 * D + 4 * d_m + (d_m + 1) * d_m + (D + 1) * d_m + (D + 1) * D
    look, read = b.image_tokens * 4 * D * d_m, at.text * 4 * D * d_m
    write = at.tokens * 4 * D * (d_m + D)
    tokens = (
        4 * b.image_tokens + 13 * at.text
    )  # a step looks at 4 images an example and reads 13 prompts
    return Networks(
        edit=write + look + 2 * read,
        query=2 * look
        + 3 * read,  # the sentinel is looked at like an image, and the prompt read for it again
        step=3 * (write + 4 * look + 13 * read),
        writing=extractor + 2 * writer,
        routing=extractor + b.image_tokens * D + 2 * D,
        held=4 * (tokens * 2 * (D + d_m) + at.tokens * (5 * D + 2 * d_m)),
    )


def liveedit(at: Load) -> Cost:
    """Layer 21 of 32; four rows an example."""
    b, own, rows = at.backbone, networks(at), 4
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
    """Parameters of MEND's networks, and the FLOPs of one edit in them: all tokens of two layers,
    the answer's of one.
    """
    b = at.backbone
    width, shapes = b.width + b.inner, 2
    rank = min(rank, width)
    trained = shapes * 2 * (2 * width * rank + width + 2 * 3 * b.matrices / shapes * width)
    tokens = 2 * b.matrices * at.tokens + b.matrices * at.answer
    return round(trained), tokens * 2 * 4 * width * rank


def mend(at: Load) -> Cost:
    """The last three layers; five rows an example, each with the change of its own edit."""
    b, rows = at.backbone, 5
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
    """The last three layers, up and down; one row an example, and the model's old answer."""
    b, hidden, condition = at.backbone, 128, 1024
    top = b.forward(at.tokens, 3) + b.head(at.answer)
    change = 6 * 2 * at.tokens**2 * (b.width + b.inner)
    below = b.vision.flops + b.forward(at.tokens, b.layers - 3)
    told = b.vision.flops + b.forward(at.tokens + DECODED)
    reader = 2 * 4 * hidden * (b.width + hidden + 2) + (2 * hidden + 1) * condition
    outputs = 2 * (b.width + b.inner) + 1
    conditioner = (condition + 2) * hidden + (
        hidden + 2
    ) * outputs  # weight normalisation keeps a length a row
    networks = 2 * (reader * (at.text + DECODED) + 6 * conditioner)
    return Cost(
        edit=below + told + 2 * top + networks,
        step=4 * top + 3 * (change + networks),
        prepare=below + told,
        trained=reader + 6 * conditioner,
        passed=at.tokens * 3,
        rows=1,
    )


def serac(at: Load) -> Cost:
    """A counterfactual model like OPT-125M between two linear maps, trained on three rows of an
    example.
    """
    b, small = at.backbone, 768
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
    """RoBERTa-base, keys of width 4096 and 3 prompt vectors; three rows of an example through the
    whole decoder.
    """
    b, key, rows = at.backbone, 4096, 3
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
    """All layers of the decoder; seven rows an example, five of them with the edit told."""
    b, rows, told = at.backbone, 7, at.tokens + at.text
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
    """``steps`` of gradient descent an edit through the last ``layers``, what is below them having
    run once.
    """
    b = at.backbone
    once = b.vision.flops + b.forward(at.tokens, b.layers - layers)
    passes = steps * 2 * (b.forward(at.tokens, layers) + b.head(at.answer))
    return Cost(edit=once + passes, started=b.layers + 3 * steps * layers)


def ike(at: Load) -> Cost:
    """32 demonstrations before every query."""
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
"""What each method costs, by its label in ``settings/``."""


@dataclass(frozen=True)
class Device:
    """What products of matrices reach (TFLOP/s), the memory (GB) and how fast it is read (TB/s);
    shares reached.
    """

    tflops: float
    memory: float
    bandwidth: float
    efficiency: dict[str, float]

    @classmethod
    def read(cls, tflops: float, memory: float, bandwidth: float) -> "Device":
        """With the efficiency that ``efficiency.py`` measured."""
        stored = json.loads(EFFICIENCY.read_text(encoding="utf-8"))
        return cls(
            tflops, memory, bandwidth, {kind: stored[kind] for kind in ("step", "edit", "query")}
        )

    def seconds(self, kind: str, flops: float) -> float:
        """That ``flops`` take as part of a training step, an edit or a query."""
        return flops / (self.tflops * 1e12 * self.efficiency[kind])


def train_bytes(at: Load, cost: Cost, batch: int) -> float:
    """On the device, in training."""
    b = at.backbone
    cast = (
        4 * cost.trained if cost.trained == b.layers * b.layer else 0
    )  # LTE's weights and gradients in the model's type
    activations = batch * (cost.passed * 34 * b.width + cost.held)
    logits = 3 * 4 * batch * cost.rows * at.answer * b.vocabulary
    return 2 * b.parameters + 16 * cost.trained + cast + activations + logits


def cache_bytes(at: Load, cost: Cost) -> float:
    """Of the hidden states that a training keeps in memory and on disk."""
    return at.train_cases * cost.rows * at.tokens * at.backbone.width * 4.0


def train_hours(at: Load, cost: Cost, device: Device, steps: int, batch: int) -> float:
    """Of a training."""
    b = at.backbone
    prepared = at.train_cases if b.cached else steps * batch
    work = device.seconds("step", steps * batch * cost.step + prepared * cost.prepare)
    layers = cost.passed / cost.rows / at.tokens
    return max(work, steps * STARTING * (3 * layers + (0 if b.cached else b.layers))) / 3600


def query_seconds(at: Load, cost: Cost, device: Device) -> float:
    """Of a probe: the answer is generated, and forced once. Its batch shares the reading of the
    weights.
    """
    b, decoded = at.backbone, max(DECODED, at.answer + 1)
    flops = b.vision.flops + 2 * b.forward(at.tokens) + b.head(at.tokens) + cost.query
    reading, starting = 2 * b.decoder / (device.bandwidth * 1e12), STARTING * b.layers
    decoding = max(
        reading / PROBES, starting / PROBES, device.seconds("query", b.forward(1) + b.head(1))
    )
    return device.seconds("query", flops) + decoded * decoding


def windows(at: Load, numbers: Sequence[int]) -> tuple[int, int]:
    """Cases edited and cases asked about in LiveEdit's protocol over all cases; windows that begin
    together are one.
    """
    pools = {start: n for n in sorted(numbers) for start in range(0, at.test_cases - n + 1, n)}
    return sum(pools.values()), sum(at.test_cases // n * n for n in numbers)


def eval_hours(at: Load, cost: Cost, device: Device, edits: int, asks: int) -> float:
    """Of ``edits`` edits and ``asks`` cases asked about."""
    edit = max(device.seconds("edit", cost.edit), STARTING * max(cost.started, at.backbone.layers))
    return (edits * edit + asks * PROBES * query_seconds(at, cost, device)) / 3600


def table(name: str, data: str, device: Device) -> list[str]:
    """The rows of one backbone and benchmark; the last has the hours of all that fits."""
    at, lines, trained, tested = load(BACKBONES[name], data), [], 0.0, 0.0
    counts = windows(at, (1, 10, 100, 1000))
    for label, costs in COSTS.items():
        if label in VLKEB_ONLY and data != "vlkeb":
            continue
        cost, used = costs(at), method(label, name, data, at.train_cases)
        training, testing = (
            0.0,
            0.0 if label in VLKEB_ONLY else eval_hours(at, cost, device, *counts),
        )
        cells, fits = ["–"] * 4, True
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
        trained, tested = trained + training * fits, tested + testing * fits
    return [*lines, f"| {data} | all that fit |{' |' * 6} {trained:.0f} | {tested:.0f} |"]


HEAD = (
    "benchmark", "method", "parameters trained, M", "device, GB", "hidden states, GB", "a step, TFLOP",
    "an edit, TFLOP", "a query, s", "training, h", "windows, h",
)  # fmt: skip


def page(device: Device, command: str) -> str:
    """``docs/explanation/results/published.md``."""
    measured = json.loads(EFFICIENCY.read_text(encoding="utf-8"))
    shares = ", ".join(
        f"{kind} {100 * device.efficiency[kind]:.0f} %" for kind in ("step", "edit", "query")
    )
    parts = [
        "# Cost of the published tables\n",
        "Computed, not measured: nothing here was run on these backbones. Made by",
        f"`{command}`,\nwhich says what is counted. Efficiency relative to a large matrix product: {shares};",
        f"{measured['how']}.\n",
        "*Device* is the memory of a training step. *Hidden states* are what a training would keep of all\n"
        "cases; for the backbones with most image tokens they are computed at each step instead\n"
        "(`--no-cache`), which *a step* and *training* include. *Windows* is the test at 1, 10, 100 and\n"
        "1,000 edits over all cases. The hours are for one device; N devices divide them by about N, but\n"
        "not the memory.",
    ]
    lines = ["", f"| {' | '.join(HEAD)} |", f"| --- | --- |{' ---: |' * (len(HEAD) - 2)}"]
    for name, backbone in BACKBONES.items():
        parts += [f"\n## {name}\n\n{backbone.described}.", *lines]
        parts += [row for data in BENCHMARKS for row in table(name, data, device)]
    return "\n".join(parts) + "\n"


def device_options(parser: argparse.ArgumentParser) -> None:
    """What an estimate is told of the device."""
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
