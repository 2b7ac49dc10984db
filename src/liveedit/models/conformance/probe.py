"""Checks that run when a model is loaded: if one fails, edits cannot be trusted."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from liveedit.models.conformance.assertions import (
    distances,
    expect,
    real,
    rounding,
    rows_close,
)
from liveedit.models.conformance.queries import QUERIES, SIDES, TEXTS
from liveedit.models.conformance.reference import followed, generated, middle
from liveedit.models.conformance.sample_patches import Nudged
from liveedit.models.patch import Patch
from liveedit.models.runner import EMBEDDINGS, ModelRunner

__all__ = [
    "LOADING",
    "STRUCTURE",
    "Check",
    "generation_with_a_cache_agrees_with_whole_passes",
    "hooks_see_single_tokens",
    "probe",
    "resume_agrees_with_a_whole_pass",
    "resume_continues_where_hidden_stopped",
    "spans_partition_the_tokens",
]

Check = Callable[[ModelRunner], None]
"""Raises :class:`Broken` with a description of the fault of a model."""


def probe(vlm: ModelRunner, checks: Iterable[Check]) -> None:
    """Run the checks. Raises :class:`Broken`, or whatever error the model raises."""
    for check in checks:
        check(vlm)


# For every model: another version of transformers may break these


@torch.no_grad()
def generation_with_a_cache_agrees_with_whole_passes(vlm: ModelRunner) -> None:
    """Tokens generated with a cache, under a patch, have the logits of whole forward passes.

    Runs for a question about a small image, and for two short texts in one batch. Each takes five
    forward passes: the prompt, two further tokens one by one, and the whole text with and without
    the patch. The vision tower runs once.
    """
    for asked in (QUERIES[:1], TEXTS):
        batch = vlm.encode([replace(query, target="") for query in asked], padding_side="left")
        with vlm.vision_once():
            with vlm.patched(Nudged(middle(vlm), 0.5)):
                tokens, cached = generated(vlm, batch, 3)
                longer = followed(vlm, batch, tokens[:, :-1])
                whole = vlm.logits(longer)[:, -3:]
            plain = vlm.logits(longer)[:, -3:]
        moved = distances(plain, whole)
        apart = distances(cached, whole)
        expect(bool((moved > 0).all()), "a patch does nothing in a whole forward pass")
        rest = f"{float((apart / moved).max()):.2g} of what the patch changes"
        expect(
            bool((apart <= rounding(vlm) * moved).all()),
            f"generation and whole forward passes differ by {rest}",
        )


@torch.no_grad()
def resume_agrees_with_a_whole_pass(vlm: ModelRunner) -> None:
    """``resume`` gives the logits of a question about an image from the middle layer's output.

    Takes two forward passes, one of them in two halves. The vision tower runs once.
    """
    batch = vlm.encode(QUERIES[:1])
    layer = middle(vlm)
    with vlm.vision_once():
        whole = vlm.logits(batch)
        resumed = vlm.resume(layer, vlm.hidden(batch, layer))
    apart = distances(resumed, whole)
    size = distances(whole, whole.mean(1, keepdim=True))
    rest = f"{float((apart / size).max()):.2g} of what they differ from token to token"
    expect(
        bool((apart <= rounding(vlm) * size).all()),
        f"resume and whole forward passes differ by {rest}",
    )


LOADING: tuple[Check, ...] = (
    generation_with_a_cache_agrees_with_whole_passes,
    resume_agrees_with_a_whole_pass,
)
"""Checks of every model before its first use."""


# For models that the generic family reads, whose structure no author has checked


def spans_partition_the_tokens(vlm: ModelRunner) -> None:
    """The spans of a row cover its real tokens without gap or overlap, on either padding side."""
    for side in SIDES:
        batch = vlm.encode(QUERIES, padding_side=side)
        for mask, span in zip(batch.inputs["attention_mask"], batch.spans, strict=True):
            parts = [span.before, span.image, span.prompt, span.answer]
            covered = list[int]()
            for start, stop in parts:
                covered += range(start, stop)
            expect(
                covered == mask.nonzero().flatten().tolist(),
                f"the spans {parts} do not partition a row",
            )


def resume_continues_where_hidden_stopped(vlm: ModelRunner) -> None:
    """``resume`` gives ``logits`` again from the output of every layer, and of the embedding."""
    every = vlm.num_layers <= 8
    layers = range(EMBEDDINGS, vlm.num_layers) if every else (EMBEDDINGS, 0, middle(vlm))
    for side in SIDES:
        batch = vlm.encode(QUERIES, padding_side=side)
        logits = real(vlm.logits(batch), batch.spans)
        for layer in layers:
            resumed = real(vlm.resume(layer, vlm.hidden(batch, layer)), batch.spans)
            rows_close(resumed, logits, f"resume from layer {layer} and logits")


def hooks_see_single_tokens(vlm: ModelRunner) -> None:
    """While text is generated under a patch, hooks see the prompt once, then single tokens."""
    asked = replace(QUERIES[0], target="")
    batch = vlm.encode([asked], padding_side="left")
    shapes: list[int] = []

    def saw(_module: nn.Module, _args: Any, output: Any) -> None:
        shapes.append((output[0] if isinstance(output, tuple) else output).shape[-2])

    with vlm.patched(Patch()), vlm.layers[middle(vlm)].register_forward_hook(saw):
        vlm.model.generate(
            **batch.inputs,
            max_new_tokens=3,
            min_new_tokens=3,
            do_sample=False,
            pad_token_id=vlm.pad_token_id,
        )
    expected = [batch.labels.shape[1], 1, 1]
    expect(shapes == expected, f"a hook sees {shapes} tokens, not {expected}")


STRUCTURE: tuple[Check, ...] = (
    spans_partition_the_tokens,
    resume_continues_where_hidden_stopped,
    hooks_see_single_tokens,
)
"""Checks of a model that the generic family reads."""
