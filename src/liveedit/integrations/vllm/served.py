"""The model as editors see it: its facts are those of the checkpoint, its layers are vLLM's.

An editor reads sizes, tokens and the fingerprint of a :class:`VLM`. That of a worker has its
weights on the disk, where only the fingerprint reads them. `direct` also reads each question's text
alone: vLLM's layers compute that here, all tokens of some texts at once, without a cache.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from vllm.forward_context import set_forward_context

from liveedit.models.batch import Batch, find_spans
from liveedit.models.vlm import VLM

__all__ = ["Served", "serve"]


class Served:
    """A :class:`VLM` whose layers are those of a worker."""

    runner: Any
    """vLLM's model runner."""

    @property
    def device(self) -> torch.device:
        """The device of the worker."""
        device: torch.device = self.runner.device
        return device

    @property
    def vllm_decoder(self) -> Any:
        """The text decoder of the worker."""
        return self.runner.model.get_language_model().model

    def prompts(self, rows: Sequence[Sequence[int]]) -> Batch:
        """Prompts, given as token ids with those of their images, as one batch."""
        batch: Batch = self.encode_tokens(rows)  # type: ignore[attr-defined]
        mask = batch.inputs["attention_mask"]
        image = self.image_tokens(batch.inputs["input_ids"]) & mask.bool()  # type: ignore[attr-defined]
        return replace(batch, spans=find_spans(image, mask))

    @torch.inference_mode()
    def text_states(self, texts: Sequence[Sequence[int]], layer: int) -> Tensor:
        """See :meth:`ModelRunner.text_states`."""
        decoder = self.vllm_decoder
        lengths = [len(text) for text in texts]
        ids = torch.tensor(list(chain.from_iterable(texts)), device=self.device)
        positions = torch.cat([torch.arange(length) for length in lengths]).to(self.device)
        if self.runner.uses_mrope:
            positions = positions.expand(3, -1)
        hidden = decoder.embed_input_ids(ids)
        residual = None
        with ExitStack() as undo:
            undo.enter_context(
                set_forward_context(None, self.runner.vllm_config, num_tokens=len(ids))
            )
            for each in decoder.layers[: layer + 1]:
                undo.enter_context(_without_cache(each.self_attn, lengths))
                hidden, residual = type(each).forward(each, positions, hidden, residual)
        last = torch.tensor(lengths, device=self.device).cumsum(0) - 1
        states: Tensor = (hidden + residual)[last]
        return states


def serve(vlm: VLM, runner: Any) -> VLM:
    """Turn a VLM whose weights are on the disk into the one of a worker's model."""
    vlm.__class__ = type(f"Served{type(vlm).__name__}", (Served, type(vlm)), {"runner": runner})
    return vlm


class TextAttention(nn.Module):
    """Causal attention within each of several texts, whose tokens follow each other.

    Stands in for vLLM's ``attn``, which has the sizes, while texts are read without a cache.
    """

    def __init__(self, attn: Any, lengths: Sequence[int]) -> None:
        super().__init__()
        self.heads = attn.num_heads
        self.kv_heads = attn.num_kv_heads
        self.scale = attn.impl.scale
        self.lengths = list(lengths)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, **_: Any) -> Tensor:
        """The attended values (N, heads · d) of the tokens' queries, keys and values."""
        heads = (self.heads, self.kv_heads, self.kv_heads)
        parts = [
            torch.split(part.view(len(part), count, -1), self.lengths)  # type: ignore[no-untyped-call]
            for part, count in zip((query, key, value), heads, strict=True)
        ]
        return torch.cat([self.attend(*text) for text in zip(*parts, strict=True)])

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """The same for one text of T tokens, each (T, heads, d)."""
        query, key, value = (part.transpose(0, 1)[None] for part in (query, key, value))
        found = F.scaled_dot_product_attention(
            query, key, value, is_causal=True, scale=self.scale, enable_gqa=True
        )
        return found[0].transpose(0, 1).flatten(1)


@contextmanager
def _without_cache(attention: Any, lengths: Sequence[int]) -> Iterator[None]:
    """Within the block, an attention module attends within texts of these lengths."""
    own = attention.attn
    attention.attn = TextAttention(own, lengths)
    try:
        yield
    finally:
        attention.attn = own
