"""Options of ``generate``: those for greedy generation, and a check for unsupported ones."""

from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any

from transformers import GenerationConfig

from liveedit.errors import BadInput

__all__ = ["LOOKUP", "SPECULATIVE", "check_options", "greedy"]

LOOKUP = "prompt_lookup_num_tokens"
SPECULATIVE = (LOOKUP, "assistant_model", "assistant_early_exit", "use_mtp")
"""Options of speculative decoding, where the model checks several proposed tokens in one call."""

TOKENS = ("bos_token_id", "decoder_start_token_id")
"""Settings that are left to the checkpoint, because they are facts of its vocabulary."""

ARGMAX = {"do_sample": False, "num_beams": 1, "num_return_sequences": 1, "use_cache": True}
"""Settings of greedy generation; all others are off."""


def greedy(max_new_tokens: int, stops: list[int], pad_token_id: int) -> dict[str, Any]:
    """The arguments of ``generate`` for the argmax at every step, until one of ``stops``.

    ``generate`` takes any setting that it is not given from the model's ``generation_config``, even
    if it is given another ``generation_config``. So this gives every setting that the installed
    transformers has, ``None`` to turn it off. Raises :class:`BadInput` for an answer of no tokens.
    """
    none = {
        name: None
        for name in vars(GenerationConfig())
        if not name.startswith("_") and name not in TOKENS
    }
    none.pop("transformers_version", None)
    if not isinstance(max_new_tokens, Integral) or max_new_tokens < 1:
        raise BadInput(f"max_new_tokens is {max_new_tokens!r}: give a whole number of at least 1")
    lengths = {
        "max_new_tokens": max_new_tokens,
        "eos_token_id": stops,
        "pad_token_id": pad_token_id,
    }
    return {**none, **ARGMAX, **lengths}


def check_options(
    names: Sequence[str], given: Mapping[str, Any], settings: GenerationConfig, reason: str
) -> None:
    """Raise :class:`BadInput`, with the reason, if one of these options of ``generate`` is on.

    ``given`` are the arguments of ``generate`` by name, ``settings`` the model's own, which apply
    where an option is not given.
    """
    for name in names:
        sources = (given.get("generation_config"), settings)
        configured = any(getattr(source, name, None) for source in sources)
        if given.get(name, configured):
            raise BadInput(f"{name} {reason}: leave it out")
