"""Reference implementations, slow and plain, that the checks compare a model with."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from liveedit.models.batch import Batch
from liveedit.models.conformance.assertions import expect
from liveedit.models.runner import ModelRunner
from liveedit.types import Query

__all__ = ["cut", "followed", "generated", "greedy", "middle", "raw_generate", "whole_prompt"]


def middle(vlm: ModelRunner) -> int:
    """The decoder layer at which the checks stop, patch and resume."""
    return (vlm.num_layers - 1) // 2


def greedy(vlm: ModelRunner, query: Query, steps: int) -> list[int]:
    """Greedy generation without a cache: one pass over the whole text for every token."""
    batch = vlm.encode([replace(query, target="")])
    tokens: list[int] = []
    for _ in range(steps):
        token = vlm.logits(batch)[:, -1].argmax(-1, keepdim=True)
        tokens.append(int(token))
        batch = followed(vlm, batch, token)
    return tokens


def followed(vlm: ModelRunner, batch: Batch, tokens: Tensor) -> Batch:
    """The batch followed by generated tokens (B, T'), with their token kinds."""
    longer = batch.extended(tokens)
    kinds = vlm.token_kinds(longer.inputs["input_ids"].cpu(), longer.spans)
    longer.inputs |= {name: vlm.put(value) for name, value in kinds.items()}
    return longer


def cut(vlm: ModelRunner, tokens: list[int]) -> str:
    """The text of generated tokens up to the end of text, stripped."""
    length = next((at for at, token in enumerate(tokens) if token in vlm.stops), len(tokens))
    text = vlm.tokenizer.decode(
        tokens[:length], skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    return str(text).strip()


def raw_generate(vlm: ModelRunner, batch: Batch, steps: int) -> Tensor:
    """The tokens (B, steps) of a raw call of the Hugging Face model's ``generate``."""
    options: dict[str, Any] = {
        "max_new_tokens": steps,
        "do_sample": False,
        "pad_token_id": vlm.pad_token_id,
    }
    tokens: Tensor = vlm.model.generate(**batch.inputs, **options)
    return tokens[:, batch.labels.shape[1] :]


def generated(vlm: ModelRunner, batch: Batch, steps: int) -> tuple[Tensor, Tensor]:
    """Tokens (B, steps) generated with a cache after prompts, and their logits (B, steps, V)."""
    options: dict[str, Any] = {
        "max_new_tokens": steps,
        "min_new_tokens": steps,
        "do_sample": False,
        "num_beams": 1,
        "use_cache": True,
        "output_logits": True,
        "return_dict_in_generate": True,
        "pad_token_id": vlm.pad_token_id,
    }
    with vlm.announce(batch):
        made = vlm.model.generate(**batch.inputs, **options)
    return made.sequences[:, -steps:], torch.stack(made.logits, 1).to(vlm.device)


def whole_prompt(vlm: ModelRunner, query: Query) -> Batch:
    """The encoded query; raises :class:`Broken` if its target changes the tokens of its prompt."""
    full = vlm.encode([query])
    asked = vlm.encode([replace(query, target="")])
    stop = full.spans[0].prompt[1]
    expect(
        asked.spans[0].prompt == full.spans[0].prompt, "the target changes where the prompt ends"
    )
    same = torch.equal(full.inputs["input_ids"][:, :stop], asked.inputs["input_ids"])
    expect(same, "the target changes the tokens of the prompt")
    return full
