"""Call: the arguments of a text decoder's forward call, read once and independent of their names.

transformers called the cache of keys and values ``past_key_values``, and calls it ``cache`` from
5.24 on. Only this file depends on the name.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import transformers
from torch import Tensor
from transformers.masking_utils import create_causal_mask

from liveedit.errors import BadInput, UnsupportedModel

__all__ = ["CACHE", "TESTED", "Call", "arguments", "cache_in", "cache_of"]

TESTED = "5.24.0"
"""The newest transformers that was tested, which is in constraints.txt."""

NAMES = ("cache", "past_key_values")
"""The names of the cache in a model's arguments and output, the newest first."""

CACHE = next(name for name in NAMES if name in inspect.signature(create_causal_mask).parameters)
"""The name of the cache in the installed version."""


def arguments(
    function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    """The arguments of a call of ``function`` by name, defaults included."""
    bound = inspect.signature(function).bind(*args, **kwargs)
    bound.apply_defaults()
    given = dict(bound.arguments)
    for name, parameter in bound.signature.parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            given |= given.pop(name)
    return given


def cache_of(given: Mapping[str, Any]) -> Any:
    """The cache among the :func:`arguments` of a call, by any of its names; it may be ``None``.

    Raises :class:`UnsupportedModel` where no argument has one of the names.
    """
    found = [given[name] for name in NAMES if name in given]
    if not found:
        raise UnsupportedModel(
            f"the model was called without a cache argument ({' or '.join(NAMES)}), only with "
            f"{', '.join(given)}, so the start of a prompt cannot be recognised: "
            f"this is transformers {transformers.__version__}, {TESTED} was tested"
        )
    return next((cache for cache in found if cache is not None), None)


def cache_in(output: Any) -> Any:
    """The cache in a decoder's output, by any of its names; ``None`` where there is none."""
    attributes = getattr(output, "__dict__", {})
    for name in NAMES:
        if attributes.get(name) is not None:
            return attributes[name]
    return None


@dataclass(frozen=True, slots=True)
class Call:
    """The inputs of a text decoder's call.

    ``input_ids`` (B, T') or ``embedded`` (B, T', D) are the new tokens, ``mask`` is the attention
    mask in any of its forms, ``cache`` holds keys and values of the ``past`` tokens before them. A
    call without past begins a prompt.
    """

    input_ids: Tensor | None
    embedded: Tensor | None
    mask: Any
    cache: Any
    past: int

    @classmethod
    def read(cls, decoder: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Self:
        """The call of ``decoder`` with these arguments.

        Raises :class:`UnsupportedModel` as :func:`cache_of`, and :class:`BadInput` for several
        prompts in one row.
        """
        all_named = not args and any(name in kwargs for name in NAMES)
        given = kwargs if all_named else arguments(decoder.forward, args, kwargs)
        cache = cache_of(given)
        if not (cache is None or hasattr(cache, "get_seq_length")):
            raise BadInput(
                f"a {type(cache).__name__} holds several prompts in one row, "
                "as continuous batching does, and a patch reads them row by row: ask by generate"
            )
        past = 0 if cache is None else int(cache.get_seq_length())
        return cls(
            given.get("input_ids"),
            given.get("inputs_embeds"),
            given.get("attention_mask"),
            cache,
            past,
        )

    @property
    def newest(self) -> Tensor:
        """The new tokens, (B, T') or (B, T', D).

        Raises :class:`UnsupportedModel` where the call has none.
        """
        found = self.input_ids if self.embedded is None else self.embedded
        if found is None:
            raise UnsupportedModel(
                "the text decoder was called with neither input_ids nor inputs_embeds"
            )
        return found

    @property
    def rows(self) -> int:
        """B, the number of rows."""
        return self.newest.shape[0]

    @property
    def length(self) -> int:
        """T', the number of new tokens in each row."""
        return self.newest.shape[1]
