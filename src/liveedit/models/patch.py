"""Patch: learnt edits, as a value. ``attach.py`` applies it to a model.

A patch overrides up to five methods, each of which changes one thing:

    rewrite   the query, before it is encoded             (in-context methods)
    prefix    vectors before the text of a row            (continuous prompts)
    bind      outputs or inputs of the decoder's modules  (routed experts, memory neurons)
    weights   parameters of the Hugging Face model        (fine-tuning and hyper-networks)
    merge     the logits                                  (a mixture with another model)

Patches act only through ``attach.py``. Families may also hook their own model to adapt its calls;
these hooks belong to the model and remain.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from liveedit.models.batch import Batch, FiredEdit, Scores
from liveedit.types import Query

__all__ = [
    "INPUT",
    "Patch",
    "Rewritten",
    "SiteFn",
    "act",
    "act_before",
    "acts_at_modules",
    "in_a_stack",
    "main_output",
    "output_embedding",
    "overrides",
    "side_by_side",
    "site_layer",
]

SiteFn = Callable[[Tensor], Tensor]
"""Maps a module's output or input (B, T', D) to its replacement.

The replacement has the same shape, dtype and device.
"""

INPUT = "@input"
"""Suffix of a site that is a module's input; without it, a site is the output."""


class Rewritten(NamedTuple):
    """The query to encode instead of another.

    Arguments:
        query: The query.
        fired: The edits that it contains as context.
        scores: How near the query before came to each edit, if the method has scores.
    """

    query: Query
    fired: Sequence[FiredEdit] = ()
    scores: Scores | None = None


class Patch:
    """Learnt edits as a value, which use never changes; this base class is the empty patch."""

    def __len__(self) -> int:
        """The number of edits."""
        return 0

    @property
    def nbytes(self) -> int:
        """The size in bytes."""
        return 0

    def rewrite(self, query: Query) -> Rewritten:
        """The query to encode instead of ``query``.

        Applied by ``VLM.encode`` and ``VLM.generate``; a raw Hugging Face call is refused, because
        it contains token ids.
        """
        return Rewritten(query)

    def prefix(self, batch: Batch) -> dict[int, Tensor]:  # noqa: ARG002
        """Vectors (n, D) to put before the text of some rows, like embeddings of n more tokens.

        They are given by the row's index; other rows stay as they are. The method enters the edits
        that the vectors belong to into ``batch.fired``. Applied by ``VLM.logits``, whose result
        leaves the vectors' positions out, and by ``VLM.generate``; a raw Hugging Face call is
        refused.
        """
        return {}

    def bind(self, batch: Batch) -> dict[str, SiteFn]:  # noqa: ARG002
        """The functions to apply to this batch, by the site where each acts.

        A site is the path of a module below the text decoder: ``"layers.21"`` and
        ``"layers.31.mlp"`` are the outputs of these modules, ``"layers.31.mlp@input"`` is an
        input.

        Called once per batch, before its first layer runs. Each function is then called on the
        states (B, T, D) of the whole batch at its site. While tokens are generated with a cache, it
        is called again on the states (B, 1, D) of each of them, and has to keep what it needs from
        the prompt. The states are on the device of the VLM's inputs, whichever device the module is
        on. A function that returns its argument leaves the logits bit for bit unchanged.

        A cache may be cut, and its rows reordered. For a function that keeps state, make it a
        method of an object with two further methods. ``rewind(length)`` is called before each call
        that continues a cache, with the number of tokens in the cache. ``reorder(rows)`` means that
        row i continues the former row ``rows[i]``; ``rows`` is (B',) for any B'.

        In a method of the VLM ``batch`` is that method's; in a raw Hugging Face call it holds
        ``input_ids`` and ``attention_mask`` only. In a raw call the spans are those of the VLM's
        encoding, if it encoded the ids. Otherwise the answer begins at a row's first label; without
        labels every token after the image belongs to the prompt.
        """
        return {}

    def weights(self) -> dict[str, Tensor]:
        """New values of whole parameters, by their names in the Hugging Face model.

        Gradients flow into them.
        """
        return {}

    def merge(self, batch: Batch, logits: Tensor) -> Tensor:  # noqa: ARG002
        """The replacement for ``logits`` (B, T', V) of the last T' tokens of ``batch``.

        While text is generated, ``batch`` grows by the tokens generated so far.
        """
        return logits

    def save(self, folder: Path) -> None:
        """Write the patch into ``folder``."""
        raise NotImplementedError(f"{type(self).__name__} cannot be saved to {folder}")


def overrides(patch: Patch, name: str) -> bool:
    """Whether the patch's class overrides the method ``name`` of :class:`Patch`."""
    return getattr(type(patch), name) is not getattr(Patch, name)


def acts_at_modules(kind: type[Patch]) -> bool:
    """Whether patches of a class act at the decoder's modules alone, by ``bind``."""
    elsewhere = ("rewrite", "prefix", "weights", "merge")
    return all(getattr(kind, name) is getattr(Patch, name) for name in elsewhere)


def main_output(output: Any) -> Tensor:
    """The hidden states in a module's output: the tensor itself, or the first of a tuple."""
    states: Tensor = output[0] if isinstance(output, tuple) else output
    return states


def output_embedding(model: Any) -> Any:
    """The output embedding of the model, or of the language model within it."""
    head = model.get_output_embeddings()
    return model.get_decoder().get_output_embeddings() if head is None else head


def site_layer(site: str) -> int | None:
    """The decoder layer of a site; ``None`` for a site outside all layers, such as ``"norm"``."""
    name, _, rest = site.partition(".")
    return int(rest.partition(".")[0]) if name == "layers" else None


def act(function: SiteFn, output: Any, rows: int, device: torch.device) -> Any:
    """Apply ``function`` to the states in a module's output: a tensor, or the first of a tuple."""
    states = apply(function, main_output(output), rows, device)
    return (states, *output[1:]) if isinstance(output, tuple) else states


def act_before(
    function: SiteFn, args: tuple[Any, ...], rows: int, device: torch.device
) -> tuple[Any, ...]:
    """Apply ``function`` to the first of a module's arguments."""
    return (apply(function, args[0], rows, device), *args[1:])


def apply(function: SiteFn, states: Tensor, rows: int, device: torch.device) -> Tensor:
    """Apply ``function`` on ``device`` to states (B, T, D); convert other forms to it and back.

    OPT's feed-forward network lays tokens end to end, (B · T, D). Layers with AltUp return several
    states of each token, (S, B, T, D), which the function gets as (B, T, S · D).
    """
    given = states.to(device)
    if states.ndim == 4:
        return in_a_stack(function(side_by_side(given)), states.shape[-1]).to(states.device)
    if states.ndim == 3:
        return function(given).to(states.device)
    return function(given.reshape(rows, -1, states.shape[-1])).flatten(0, 1).to(states.device)


def side_by_side(states: Tensor) -> Tensor:
    """A stack of several states of every token (S, B, T, D) as (B, T, S · D).

    States of another shape are returned as they are.
    """
    return states.permute(1, 2, 0, 3).flatten(2) if states.ndim == 4 else states


def in_a_stack(states: Tensor, width: int) -> Tensor:
    """States side by side (B, T, S · D) as a stack (S, B, T, D), where D is ``width``."""
    return states.reshape(*states.shape[:2], -1, width).permute(2, 0, 1, 3).contiguous()
