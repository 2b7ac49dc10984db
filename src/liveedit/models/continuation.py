"""Continuation: only the tokens that predict answers are run, from a layer upwards.

Where a batch is run again and again with other states at its answers, as while an expert is fitted,
the tokens before them give the same keys and values each time. They are run once:

    whole        image … question │ last prompt token, answer      T tokens
    continued                     │ last prompt token, answer      T' tokens, and a cache

Rows are padded on the left, so that their answers stand below one another. Whether a model goes on
from its cache as it should is found by comparing the logits of both; where it does not, all tokens
are run.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from liveedit.models.batch import IGNORED, HiddenBatch
from liveedit.models.runner import ModelRunner

__all__ = ["continued"]

GROWING = (DynamicLayer, DynamicSlidingWindowLayer)
"""The layers of a cache that only grow; others change what they hold, and cannot be used twice."""


@torch.no_grad()
def continued(vlm: ModelRunner, layer: int, hidden: HiddenBatch) -> HiddenBatch:
    """The end of ``hidden``, states at ``layer``, from the first token on that predicts an answer.

    :meth:`ModelRunner.resume` gives the same logits for both, up to rounding. It is ``hidden``
    itself where the model cannot continue.
    """
    aligned = aligned_right(hidden)
    start = int(aligned.answer_positions().any(0).nonzero()[0])
    cache = filled(vlm, layer, columns(aligned, 0, start)) if start else None
    if cache is None:
        return hidden
    end = columns(aligned, start, aligned.labels.shape[1])
    end = replace(end, attention_mask=aligned.attention_mask, cache=cache)
    whole = vlm.resume(layer, hidden, hidden.answer_positions())
    return end if alike(vlm.resume(layer, end, end.answer_positions()), whole) else hidden


def aligned_right(hidden: HiddenBatch) -> HiddenBatch:
    """The same rows, padded on the left, each with its own positions."""
    rows = hidden.rows()
    length = max(row.labels.shape[1] for row in rows)
    gaps = [length - row.labels.shape[1] for row in rows]
    padded = list(zip(rows, gaps, strict=True))
    axes = torch.Size() if hidden.position_ids is None else hidden.position_ids.shape[:-2]
    extra = {
        name: torch.cat([gap_before(row.extra[name], gap) for row, gap in padded])
        for name in hidden.extra
    }
    return HiddenBatch(
        hidden=torch.cat([gap_before(row.hidden, gap) for row, gap in padded]),
        attention_mask=torch.cat([F.pad(row.attention_mask, (gap, 0)) for row, gap in padded]),
        labels=torch.cat([F.pad(row.labels, (gap, 0), value=IGNORED) for row, gap in padded]),
        spans=[row.spans[0].shift(gap) for row, gap in padded],
        position_ids=torch.cat([F.pad(row.positions(axes), (gap, 0)) for row, gap in padded], -2),
        extra=extra,
    )


def gap_before(states: Tensor, gap: int) -> Tensor:
    """Per-token values (1, T, …) after ``gap`` zeros."""
    return F.pad(states, (*(0, 0) * (states.ndim - 2), gap, 0))


def columns(hidden: HiddenBatch, start: int, stop: int) -> HiddenBatch:
    """The tokens from ``start`` to ``stop`` of each row."""
    part = slice(start, stop)
    positions = hidden.position_ids
    return replace(
        hidden,
        hidden=hidden.hidden[:, part].contiguous(),  # some models view it in another shape
        attention_mask=hidden.attention_mask[:, part].contiguous(),
        labels=hidden.labels[:, part],
        spans=[span.shift(-start) for span in hidden.spans],
        position_ids=None if positions is None else positions[..., part].contiguous(),
        extra={name: value[:, part].contiguous() for name, value in hidden.extra.items()},
    )


def filled(vlm: ModelRunner, layer: int, beginning: HiddenBatch) -> Any:
    """A cache that holds the tokens of ``beginning``; ``None`` where it does not only grow.

    The layers that do not run get zeros, since the first one's length counts as the cache's.
    """
    cache = DynamicCache(config=vlm.model.config.get_text_config())
    if len(cache.layers) != vlm.num_layers or not all(type(it) in GROWING for it in cache.layers):
        return None
    with vlm.running_above(layer, replace(beginning, cache=cache)):
        pass
    rows, length = beginning.labels.shape
    unused = beginning.hidden.new_zeros(rows, 1, length, 1)
    for below in cache.layers[: layer + 1]:
        below.update(unused, unused)
    grown = all(it.is_initialized for it in cache.layers)
    return cache if grown else None


def alike(one: Tensor, other: Tensor) -> bool:
    """Whether logits are equal up to rounding in their dtype."""
    rounding = torch.finfo(other.dtype).eps ** 0.5
    return bool((one - other).abs().max() <= rounding * other.abs().max().clamp(min=1))
