"""LiveEdit beside the released code: the same weights, in one run, in turns.

    git clone https://github.com/qizhou000/LiveEdit /tmp/released
    python recipes/side_by_side/compare.py /tmp/released --out side_by_side.json

A random LLaVA of width 192 with 8 layers; LiveEdit as released, keys in float32, with modules of
width 256. First the keys, experts and logits of both are compared, then each round times both, one
after the other. The table has the median of the rounds' ratios, work a second, ours by theirs: one
by one, and in batches. The probes are forced targets; at a pool of 0 the model is unedited.

Keys and experts differ by 5.6e-7 of the largest, logits by 5.3e-7. On two threads of a quiet
machine, edits and probes in 5 rounds, training in 8, evaluation in 2:

                                             one by one           in batches
    edits, pool 0 / 1,000 / 10,000           1.12 / 1.07 / 1.94   3.2 / 2.6 / 6.0
    probes, 0 / 1,000 / 10,000, 4 kept       0.98 / 1.15 / 1.16   2.7 / 2.8 / 3.9
    probes, 10,000, half kept                1.58                 4.9
    training, states kept / with preparing   6.6 / 6.6            8.0 / 7.5
    evaluation (ours also writes answers)                         2.06

At a pool of 0 probes are unedited, the same in both. Other runs gave batches of edits 3.8, 3.2 and
6.8. Training's first column is batches of 8, as theirs. Of the 590 ms of a batch of 32 probes 380
are matrix products, at the 100 GFLOP/s that this machine has: without all the rest it would be 5.4
times as fast as theirs.
Evaluation takes the embedded model and its trained LiveEdit, as answers of random weights do not
end. Half of ours is the unedited model, whose answers are generated, a third the forced texts.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from functools import partial
from io import StringIO
from itertools import cycle
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import transformers
from rich.console import Console
from rich.table import Table
from theirs import Released
from torch import Tensor
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from liveedit.data import load_cases
from liveedit.editable import embedded, load_vlm
from liveedit.editors import load_editor
from liveedit.editors.common.attention import image_and_prompt
from liveedit.editors.common.bank import Bank
from liveedit.editors.common.examples import Example
from liveedit.editors.liveedit.editor import LiveEdit, LiveEditConfig
from liveedit.editors.liveedit.experts import ExpertPatch
from liveedit.evaluate import evaluate
from liveedit.measures.protocols import Windows
from liveedit.models.tiny.tokenizer import tokenizer
from liveedit.models.vlm import VLM
from liveedit.types import Case, Query

BATCH = 32
FEW = 4
"""Experts that each probe keeps, unless half of the pool is kept."""
WINDOWS = (1, 5, 20)
"""Numbers N of edits at which 20 cases are evaluated."""
KINDS = ("text_generality", "image_generality", "image_locality")
"""The probes of a training case."""
METRICS = ("text_generality", "image_generality", "text_locality", "image_locality")
"""The probes of an evaluated case, as in the published benchmarks."""


def llava() -> VLM:
    """A random LLaVA: CLIP of 112 pixels in patches of 14, so 64 image tokens, and a Llama."""
    text = tokenizer("<s>", ["</s>", "<pad>", "<image>"])
    vision = {
        "model_type": "clip_vision_model",
        "image_size": 112,
        "patch_size": 14,
        "hidden_size": 192,
        "intermediate_size": 768,
        "num_hidden_layers": 6,
        "num_attention_heads": 6,
    }
    words = {
        "model_type": "llama",
        "vocab_size": len(text),
        "hidden_size": 192,
        "intermediate_size": 512,
        "num_hidden_layers": 8,
        "num_attention_heads": 6,
        "max_position_embeddings": 512,
    }
    config = transformers.LlavaConfig(
        vision_config=vision,
        text_config=words,
        image_token_index=text.convert_tokens_to_ids("<image>"),
    )
    pictures = CLIPImageProcessorPil(
        size={"shortest_edge": 112}, crop_size={"height": 112, "width": 112}
    )
    layout = {
        "patch_size": 14,
        "vision_feature_select_strategy": "default",
        "num_additional_image_tokens": 1,
    }
    processor = transformers.LlavaProcessor(pictures, text, **layout)
    torch.manual_seed(0)
    return VLM(transformers.LlavaForConditionalGeneration(config), processor, "raw")


class Ours:
    """Our side: the editor, and the patch that it is tried with."""

    def __init__(self, editor: LiveEdit) -> None:
        self.editor = editor
        self.vlm = editor.vlm
        self.patch = editor.empty()

    def edit(self, queries: Sequence[Query]) -> None:
        """Add edits."""
        self.patch = self.editor.edit(queries, self.patch)

    def edit_each(self, queries: Sequence[Query]) -> None:
        """Add edits one by one."""
        for query in queries:
            self.edit([query])

    @torch.no_grad()
    def logits(self, queries: Sequence[Query]) -> list[Tensor]:
        """For each query, the logits (n, V) that predict the n tokens of its target."""
        batch = self.vlm.encode(queries)
        with self.vlm.patched(self.patch):
            logits = self.vlm.logits(batch)
        places = batch.answer_positions()
        return list(logits[places].split_with_sizes(places.sum(1).tolist()))

    @torch.no_grad()
    def kept(self, queries: Sequence[Query]) -> list[int]:
        """How many experts each query keeps."""
        batch = self.vlm.encode(queries)
        with self.vlm.patched(self.patch):
            self.vlm.logits(batch)
        return [len(fired) for fired in batch.fired_by(self.patch)]

    def logits_each(self, queries: Sequence[Query]) -> None:
        """The logits of each query by itself."""
        for query in queries:
            self.logits([query])


class Training:
    """Our training steps, with a learning rate of 0, so that all are alike."""

    def __init__(self, editor: LiveEdit) -> None:
        self.editor = editor
        self.generator = torch.Generator().manual_seed(0)
        self.optimizer = torch.optim.Adam(editor.networks().parameters(), lr=0.0, fused=True)

    def step(self, examples: Sequence[Example]) -> None:
        """One training step."""
        loss, _ = self.editor.loss(examples, self.generator)
        self.optimizer.zero_grad()
        torch.autograd.backward(loss)
        self.optimizer.step()

    def step_on(self, cases: Sequence[Case]) -> None:
        """One training step with the preparation of its hidden states."""
        self.step(self.editor.prepare(cases))


@dataclass
class Work:
    """Work that both do: a call of theirs and one or two of ours, and how much each does."""

    name: str
    theirs: tuple[Callable[[], object], int]
    alone: tuple[Callable[[], object], int] | None = None
    batch: tuple[Callable[[], object], int] | None = None
    after: Callable[[], None] = lambda: None


def rate(call: tuple[Callable[[], object], int], after: Callable[[], None]) -> float:
    """Work a second in a call."""
    action, count = call
    start = time.perf_counter()
    action()
    seconds = time.perf_counter() - start
    after()
    return count / seconds


def compare(work: Work, rounds: int) -> dict[str, Any]:
    """Medians of the rates, and of the rounds' ratios, after one round to warm up."""
    calls = {"theirs": work.theirs, "alone": work.alone, "batch": work.batch}
    taken: dict[str, list[float]] = {name: [] for name, call in calls.items() if call}
    for _ in range(rounds + 1):
        for name, rates in taken.items():
            call = calls[name]
            assert call is not None
            rates.append(rate(call, work.after))
    found: dict[str, Any] = {"work": work.name}
    for name, rates in taken.items():
        found[f"{name}_per_second"] = statistics.median(rates[1:])
        if name != "theirs":
            pairs = zip(rates[1:], taken["theirs"][1:], strict=True)
            found[name] = statistics.median(ours / theirs for ours, theirs in pairs)
    return found


def pool(editor: LiveEdit, queries: Sequence[Query], size: int, kept: int) -> Bank:
    """Experts like those of the queries, of which any image keeps ``kept``.

    Under random weights all inputs have much the same key: an expert to be kept gets twice the mean
    one, any other its opposite.
    """
    generator = torch.Generator().manual_seed(size + kept)
    hidden = editor.vlm.hidden(editor.vlm.encode(queries), editor.layer)
    parts = image_and_prompt(hidden.hidden, hidden.spans)
    with torch.no_grad():
        near = 2 * editor.input_features.vision_key(*parts).mean(0)
    sign = -torch.ones(size, 1, 1)
    sign[torch.randperm(size, generator=generator)[:kept]] = 1
    some = torch.randint(len(queries), (size,), generator=generator)
    rows = editor.edit(queries).bank.select(some).tensors() | {"vision_keys": near * sign}
    for name, tensor in rows.items():
        noise = torch.randn(tensor.shape, generator=generator)
        rows[name] = tensor + 0.1 * tensor.abs().mean() * noise
    return Bank(rows)


def agreement(ours: Ours, released: Released, queries: Sequence[Query]) -> dict[str, float]:
    """The largest differences of keys and experts, and of logits under the edits."""
    ours.patch = ours.editor.empty()
    ours.edit(queries)
    released.fill(ours.editor.empty().bank)
    released.edit_each(queries)
    made = released.pool
    found = {name: difference(ours.patch.bank[name], made[name]) for name in made}
    released.fill(ours.patch.bank)
    found["logits"] = logits_difference(ours, released, queries)
    return found


def difference(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference, relative to the largest value."""
    return float((ours - theirs).abs().max() / theirs.abs().max())


def logits_difference(ours: Ours, released: Released, queries: Sequence[Query]) -> float:
    """The largest difference of logits, in batches and one by one."""
    found = 0.0
    for query, batched in zip(queries, ours.logits(queries), strict=True):
        theirs = released.logits(query)
        [alone] = ours.logits([query])
        found = max(found, difference(alone, theirs), difference(batched, theirs))
    return found


def at_pools(
    ours: Ours, released: Released, queries: Sequence[Query], rounds: int
) -> list[dict[str, Any]]:
    """Edits and probes at several sizes of the pool."""
    found = []
    for size, kept in ((0, 0), (1_000, FEW), (10_000, FEW), (10_000, 5_000)):
        patch = ExpertPatch(ours.editor, pool(ours.editor, queries, size, kept))
        few = queries if kept <= FEW else queries[:8]

        def reset(patch: ExpertPatch = patch) -> None:
            if len(ours.patch) > len(patch):
                ours.patch.give_back(patch)
            ours.patch = patch
            released.fill(patch.bank)

        reset()
        off = logits_difference(ours, released, few[:4])
        assert ours.kept(few) == [kept] * len(few)
        label = f"{size:,}, {kept:,} kept" if size else "0"
        probes = Work(
            f"probes, pool {label}",
            (partial(released.logits_each, few), len(few)),
            (partial(ours.logits_each, few), len(few)),
            (partial(ours.logits, few), len(few)),
        )
        found.append(compare(probes, rounds) | {"logits_differ": off})
        if kept > FEW:
            continue
        edits = Work(
            f"edits, pool {size:,}",
            (partial(released.edit_each, queries[:8]), 8),
            (partial(ours.edit_each, queries[:8]), 8),
            (partial(ours.edit, queries), len(queries)),
            reset,
        )
        found.append(compare(edits, rounds))
    return found


def training(editor: LiveEdit, released: Released, cases: Sequence[Case], rounds: int) -> list[Any]:
    """Training samples a second, with kept hidden states and with their preparation."""
    examples = editor.prepare(cases)
    own = Training(editor)
    batches = cycle([released.organized(cases[:8]), released.organized(cases[8:16])])
    starts = cycle([0, 8])
    released.start_training()
    kept = Work(
        "training samples, states kept",
        (lambda: released.step(next(batches)), 8),
        (lambda: own.step(examples[(at := next(starts)) : at + 8]), 8),
        (lambda: own.step(examples), len(examples)),
    )

    def prepare_and_step() -> None:
        released.step(released.organized(cases[:8]))

    whole = Work(
        "training samples, with preparing",
        (prepare_and_step, 8),
        (partial(own.step_on, cases[:8]), 8),
        (partial(own.step_on, cases), len(cases)),
    )
    found = [compare(kept, rounds), compare(whole, max(2, rounds // 2))]
    released.end_training()
    return found


def evaluation(clone: Path, cases: Sequence[Case], rounds: int) -> dict[str, Any]:
    """Whole evaluations of the trained editor in windows of N edits, each N with all cases.

    On the embedded model, whose answers end: ours writes them, too.
    """
    editor: Any = load_editor(load_vlm(), embedded("liveedit"))
    released = Released(clone, editor)

    def theirs() -> None:
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            released.evaluate(cases, WINDOWS)

    def ours() -> None:
        with TemporaryDirectory() as folder:
            protocol = Windows(WINDOWS, len(cases))
            out = Path(folder) / "run"
            evaluate(editor.vlm, editor, cases, protocol, data="emblem", seed=0, out=out)

    count = len(cases) * len(WINDOWS)
    return compare(Work("cases evaluated", (theirs, count), None, (ours, count)), rounds)


def chosen(cases: Sequence[Case], metrics: Sequence[str]) -> list[Case]:
    """The cases with one probe of each of the metrics, in that order."""
    found = []
    for case in cases:
        first = {probe.metric: probe for probe in reversed(case.probes)}
        if all(metric in first for metric in metrics):
            found.append(replace(case, probes=tuple(first[metric] for metric in metrics)))
    return found


def main() -> None:
    """Compare, measure and print; with ``--out`` also write the numbers."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("clone", type=Path, help="a clone of the released code")
    parser.add_argument("--rounds", type=int, default=14)
    parser.add_argument("--only", choices=("pools", "training", "evaluation"))
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.manual_seed(0)
    vlm = llava()
    editor = LiveEdit(vlm, LiveEditConfig(module_dim=256, keys="float"))
    released = Released(args.clone, editor)
    cases = load_cases("emblem", "test")
    learnt = chosen(cases, KINDS)[:BATCH]
    asked = [case.edits[0] for case in learnt]
    ours = Ours(editor)
    agree = agreement(ours, released, asked[:8])
    print("largest relative differences:", {k: f"{v:.1e}" for k, v in agree.items()})
    rows: list[dict[str, Any]] = []
    if args.only in (None, "pools"):
        rows += at_pools(ours, released, asked, args.rounds)
    if args.only in (None, "training"):
        rows += training(editor, released, learnt, args.rounds)
    if args.only in (None, "evaluation"):
        probed = chosen(cases, ("reliability", *METRICS))[: max(WINDOWS)]
        rows.append(evaluation(args.clone, probed, max(2, args.rounds // 5)))
    show(rows)
    if args.out:
        found = {"differences": agree, "measured": rows}
        args.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def show(rows: Sequence[dict[str, Any]]) -> None:
    """Print the table."""
    title = f"{torch.get_num_threads()} threads, torch {torch.__version__}"
    heads = ("work", "theirs a second", "ours / theirs, one by one", "in batches")
    table = Table(*heads, title=title)
    for row in rows:
        ratios = [f"{row[name]:.2f}" if name in row else "" for name in ("alone", "batch")]
        table.add_row(row["work"], f"{row['theirs_per_second']:.3g}", *ratios)
    Console().print(table)


if __name__ == "__main__":
    main()
