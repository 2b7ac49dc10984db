"""Plain greedy generation, whatever a checkpoint's ``generation_config`` asks for; what models
cannot do instead.
"""

from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any

from transformers import GenerationConfig

from liveedit.errors import BadInput

__all__ = ["LOOKUP", "SPECULATIVE", "check_options", "greedy"]

LOOKUP = "prompt_lookup_num_tokens"
SPECULATIVE = (LOOKUP, "assistant_model", "assistant_early_exit", "use_mtp")
"""The options of ``generate`` that have tokens proposed, which the model then reads together."""

TOKENS = ("bos_token_id", "decoder_start_token_id")
"""The settings that are left to the checkpoint: facts of its vocabulary."""

ARGMAX = {"do_sample": False, "num_beams": 1, "num_return_sequences": 1, "use_cache": True}
"""What ``generate`` has to be told; every other setting is none."""


def greedy(max_new_tokens: int, stops: list[int], pad_token_id: int) -> dict[str, Any]:
    """The arguments of ``generate`` for the argmax of every step, up to one of the tokens
    ``stops``.

    What ``generate`` is not given it takes from the model's ``generation_config``, also where it is
    given a whole one: so every setting that this version of transformers has is given, ``None`` for
    none. Raises :class:`BadInput` for an answer of no tokens.
    """
    none = {
        name: None
        for name in vars(GenerationConfig())
        if not name.startswith("_") and name not in TOKENS
    }
    none.pop("transformers_version", None)
    if not isinstance(max_new_tokens, Integral) or max_new_tokens < 1:
        raise BadInput(f"max_new_tokens is {max_new_tokens!r}: give a whole number from 1 on")
    lengths = {
        "max_new_tokens": max_new_tokens,
        "eos_token_id": stops,
        "pad_token_id": pad_token_id,
    }
    return {**none, **ARGMAX, **lengths}


def check_options(
    names: Sequence[str], given: Mapping[str, Any], settings: GenerationConfig, reason: str
) -> None:
    """Raise :class:`BadInput`, with the reason, where one of these options of ``generate`` is on.

    ``given`` are its arguments by name; what is not among them it takes from the ``settings`` of
    the model.
    """
    for name in names:
        sources = (given.get("generation_config"), settings)
        found = (
            given[name]
            if name in given
            else next(filter(None, (getattr(each, name, None) for each in sources)), None)
        )
        if found:
            raise BadInput(f"{name} {reason}: leave it out")
