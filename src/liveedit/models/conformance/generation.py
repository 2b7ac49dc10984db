"""Checks of generated text, with and without patches, and of raw Hugging Face calls."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor

from liveedit.models.batch import IGNORED, Batch
from liveedit.models.conformance.assertions import expect, real, rows_close, unchanged
from liveedit.models.conformance.queries import QUERIES
from liveedit.models.conformance.reference import cut, greedy, middle, raw_generate
from liveedit.models.conformance.sample_patches import Routed
from liveedit.models.patch import Patch
from liveedit.models.runner import ModelRunner

__all__ = [
    "an_answer_ends_where_generation_ends",
    "generation_is_greedy",
    "generation_sees_a_patch",
    "merging_logits",
    "raw_calls_see_a_patch",
]


def generation_is_greedy(vlm: ModelRunner) -> None:
    """Generation, with a cache and in batches, equals the argmax of whole forward passes."""
    expected = [cut(vlm, greedy(vlm, query, 5)) for query in QUERIES]
    for size in (32, 1, 3):
        expect(
            vlm.generate(QUERIES, max_new_tokens=5, batch_size=size) == expected,
            f"batches of {size} answer otherwise",
        )


def an_answer_ends_where_generation_ends(vlm: ModelRunner) -> None:
    """Generation continues over every token of an answer, and stops at the one that ends it."""
    query = QUERIES[0]
    labels = vlm.encode([query], eos=True).labels[0]
    answer = labels[labels != IGNORED]
    prompt = vlm.encode([replace(query, target="")], padding_side="left")

    class Dictated(Patch):
        """Patch that predicts the answer, then repeats its last token but one."""

        def merge(self, batch: Batch, logits: Tensor) -> Tensor:
            steps = batch.inputs["input_ids"].shape[1] - prompt.labels.shape[1]
            token = answer[steps] if steps < len(answer) else answer[-2]
            return torch.zeros_like(logits).index_fill(-1, token, 1.0)

    with vlm.patched(Dictated()):
        said = vlm.generate([query], max_new_tokens=len(answer) + 3)
    expect(said == [cut(vlm, answer.tolist())], f"'{query.target}' is generated as '{said[0]}'")


def generation_sees_a_patch(vlm: ModelRunner) -> None:
    """A patch acts on every generated token, as it does in whole forward passes."""
    for site in (f"layers.{vlm.num_layers - 1}", f"layers.{middle(vlm)}"):
        patch = Routed(0, site=site)
        with vlm.patched(patch):
            expected = [cut(vlm, greedy(vlm, query, 5)) for query in QUERIES]
            patch.seen.clear()
            expect(
                vlm.generate(QUERIES, max_new_tokens=5) == expected,
                f"generation with a patch on {site} differs",
            )
            lengths = {shape[1] for shape in patch.seen[1:]}
            expect(lengths <= {1}, "decoding does not go token by token")
            expect(
                vlm.generate(QUERIES, max_new_tokens=5, batch_size=1) == expected,
                "rows alone answer otherwise",
            )


def raw_calls_see_a_patch(vlm: ModelRunner) -> None:
    """The Hugging Face model's own ``forward`` and ``generate`` act with the patch."""
    batch = vlm.encode([replace(query, target="") for query in QUERIES], padding_side="left")
    plain = raw_generate(vlm, batch, 4)
    with vlm.patched(Routed(middle(vlm))):
        raw = real(vlm.model(**batch.inputs).logits, batch.spans)
        logits = real(vlm.logits(batch), batch.spans)
        rows_close(raw, logits, "a raw call and logits under a patch")
        answers = [cut(vlm, row) for row in raw_generate(vlm, batch, 4).tolist()]
        expect(
            answers == vlm.generate(QUERIES, max_new_tokens=4), "generate does not see the patch"
        )
    expect(torch.equal(raw_generate(vlm, batch, 4), plain), "generate is not as it was")


def merging_logits(vlm: ModelRunner) -> None:
    """A patch that replaces logits decides what is generated, and sees the tokens so far."""

    class Favoured(Patch):
        """Patch that predicts a token computed from the row's last token and its length so far."""

        def merge(self, batch: Batch, logits: Tensor) -> Tensor:
            token = favoured(batch.inputs["input_ids"])
            places = (torch.arange(len(token)), torch.tensor([logits.shape[1] - 1]), token)
            high = torch.tensor(9999.0, dtype=logits.dtype, device=logits.device)
            return logits.index_put(places, high)

    prompt = vlm.encode([replace(QUERIES[0], target="")], padding_side="left")
    ids = prompt.inputs["input_ids"]
    for _ in range(3):
        ids = torch.cat([ids, favoured(ids)[:, None]], 1)
    with unchanged(vlm, prompt), vlm.patched(Favoured()):
        with without_end(vlm):
            tokens = raw_generate(vlm, prompt, 3)
        expected = ids[:, prompt.labels.shape[1] :]
        expect(tokens.tolist() == expected.tolist(), "the merged logits do not decide")


def favoured(ids: Tensor) -> Tensor:
    """A token (B,) for each row of ``ids`` (B, T), computed from its last token and its length."""
    return 10 + (ids[:, -1] + ids.shape[1]) % 97


@contextmanager
def without_end(vlm: ModelRunner) -> Iterator[None]:
    """Context in which no token ends the model's own generation."""
    settings = vlm.model.generation_config
    own = settings.eos_token_id
    settings.eos_token_id = None
    try:
        yield
    finally:
        settings.eos_token_id = own
