"""Throughput of vLLM with the edits of a store beside that without the plug-in.

    python recipes/vllm/speed.py 100000               # nothing fires
    python recipes/vllm/speed.py 100000 --firing      # one edit fires in every request

Two engines of the embedded model, each in a process of its own, answer the same requests in turns,
so that both meet the same load of the machine; printed is the median of the rounds' ratios. The
edits are pinpoint's, with random keys that no query comes near; with ``--firing`` one more is made
of each image that is asked about, whose answer is the model's own. Needs `make test-vllm`'s
environment. The figures are in docs/how-to/vllm.md.

Where torch finds a GPU, both engines (of vLLM's CUDA build) run on it, compiled and with CUDA
graphs, in float16, the embedded weights' own type: bfloat16 would be another model. That has not
been run yet.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from liveedit.data.emblem import Emblem
from liveedit.editable import embedded, load
from liveedit.editors.common.bank_editor import BankPatch
from liveedit.store.edit import Edit
from liveedit.store.makers import layout_of
from liveedit.store.store import Maker, Store, now
from liveedit.types import Query

QUESTION = "What is the country with this flag?"
CODES = (
    "jp", "no", "br", "fr", "ke", "it", "pe", "in",
    "de", "se", "ca", "mx", "cn", "gr", "eg", "ng",
)  # fmt: skip
REQUESTS = 64
TOKENS = 16
ROUNDS = 15
SETTINGS: dict[str, Any] = {"enforce_eager": True, "dtype": "float32"}
if torch.cuda.is_available():
    SETTINGS = {"dtype": "float16", "gpu_memory_utilization": 0.3}
"""Settings of an engine: on a GPU each of the two takes a share of its memory."""
VARIABLES = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
}


def flags() -> list[Query]:
    """The questions."""
    emblem = Emblem()
    return [Query(QUESTION, image=emblem.drawing("twemoji", f"flag-{code}")) for code in CODES]


def fill(where: str, count: int, firing: bool) -> None:
    """Write a store with ``count`` edits that fire on nothing and, if wanted, those that fire."""
    model = load("emblem", store=where)
    asked = flags()
    answers = model.unedited(asked)
    pairs = zip(asked, answers, strict=True)
    made = [Query(one.prompt, answer, one.image) for one, answer in pairs]
    model.edit(made if firing else made[:1])
    store = Store(where)
    maker = store.newest_maker()
    assert maker is not None
    if not firing:
        model.forget([edit.id for edit in model.edits])
    add_unrelated(store, maker, model.editor.empty(), count)


def add_unrelated(store: Store, maker: Maker, empty: BankPatch, count: int) -> None:
    """Add edits with random keys, a thousand a transaction; ``empty`` is a patch of their kind."""
    generator = torch.Generator().manual_seed(0)
    layout = layout_of(empty)
    tensors = empty.bank.tensors().items()
    factors = bytes(layout.part(True).size)
    for start in range(0, count, 1000):
        with store.change("edit") as change:
            number = change.maker(maker).number
            for each in range(start, min(start + 1000, count)):
                row = {
                    name: (torch.randn(1, *part.shape[1:], generator=generator) * 1e-3).to(part)
                    for name, part in tensors
                }
                edit = Edit(f"{each:012x}", f"Question {each}?", "x", f"{each:016x}", now())
                keys = layout.part(False).pack(row, 0)
                change.add(edit, number, keys=keys, factors=factors)


def answer_rounds() -> None:
    """In a process of its own: load an engine, then answer the requests for each line read."""
    from vllm import LLM, ModelRegistry, SamplingParams

    import liveedit.models.families.efficientnet_lite  # noqa: F401  # registers the config

    tower = "liveedit.integrations.vllm.llava:Llava"  # which the plug-in would register, too
    ModelRegistry.register_model("LlavaForConditionalGeneration", tower)
    asked = [
        {"prompt": f"<image>\n{query.prompt}", "multi_modal_data": {"image": query.image}}
        for query in flags()
    ] * (REQUESTS // len(CODES))
    llm = LLM(
        str(embedded("vlm")), max_model_len=256, max_num_seqs=16,
        limit_mm_per_prompt={"image": 1}, enable_prefix_caching=False, **SETTINGS,
    )  # fmt: skip
    choices = SamplingParams(max_tokens=TOKENS, min_tokens=TOKENS, temperature=0)
    print("ready", flush=True)
    for _ in sys.stdin:
        begun = time.perf_counter()
        llm.generate(asked, choices, use_tqdm=False)
        print(f"took {time.perf_counter() - begun}", flush=True)


class Engine:
    """An engine in a process of its own."""

    def __init__(self, **variables: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--engine"],
            env={**os.environ, **VARIABLES, **variables},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.line("ready")

    def line(self, beginning: str) -> str:
        """The next line that begins so."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(beginning):
                return line
        raise RuntimeError("an engine ended")

    def seconds(self) -> float:
        """The time of one round."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return float(self.line("took").split()[1])


def main(arguments: Sequence[str] | None = None) -> None:
    """Fill a store, start both engines, and print the ratio of their times."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("edits", type=int, nargs="?", default=100_000)
    parser.add_argument("--firing", action="store_true", help="an edit fires in every request")
    parser.add_argument("--engine", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.engine:
        answer_rounds()
        return
    with TemporaryDirectory() as folder:
        store = str(Path(folder) / "edits.db")
        fill(store, given.edits, given.firing)
        plain = Engine(VLLM_PLUGINS="none")
        edited = Engine(VLLM_PLUGINS="liveedit", LIVEEDIT_STORE=store)
        rounds = [(plain.seconds(), edited.seconds()) for _ in range(ROUNDS)][2:]
        ratios = sorted(own / other for other, own in rounds)
        tokens = REQUESTS * TOKENS
        middle = statistics.median(other for other, _ in rounds)
        print(f"plain {tokens / middle:,.0f} tokens a second")
        print(
            f"ratio of times {statistics.median(ratios):.3f}, {ratios[0]:.3f} to {ratios[-1]:.3f}"
        )


if __name__ == "__main__":
    main()
