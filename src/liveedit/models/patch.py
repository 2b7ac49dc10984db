"""Patch: what has been learnt, as a value. ``attach.py`` puts it on a model.

A patch acts in up to five places, all of them doing nothing unless overridden:

    rewrite   the query, before it is encoded           (in-context methods)
    prefix    vectors before the text of a row          (continuous prompts)
    bind      the outputs of modules of the text decoder (routed experts, memory neurons)
    weights   parameters of the Hugging Face model       (fine-tuning and hyper-networks)
    merge     the logits                                 (a second model beside the first)
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from liveedit.models.batch import Batch, Firing
from liveedit.types import Query

__all__ = [
    "INPUT",
    "Patch",
    "SiteFn",
    "act",
    "act_before",
    "main_output",
    "output_embedding",
    "overrides",
    "site_layer",
]

SiteFn = Callable[[Tensor], Tensor]
"""What a module puts out or takes in (B, T', D) to what replaces it, of the same shape, dtype and
device.
"""

INPUT = "@input"
"""The end of a site that stands for what the module takes in."""


class Patch:
    """What has been learnt; this base class is the empty patch. A patch is a value: nothing done
    with it changes it.
    """

    def __len__(self) -> int:
        """How many edits it holds."""
        return 0

    @property
    def nbytes(self) -> int:
        """Bytes that it takes up."""
        return 0

    def rewrite(self, query: Query) -> tuple[Query, list[Firing]]:
        """The query that is encoded in place of ``query``, and the edits that it tells.

        Applied by ``VLM.encode`` and ``VLM.generate``; a raw Hugging Face call brings token ids,
        and is refused.
        """
        return query, []

    def prefix(self, batch: Batch) -> dict[int, Tensor]:  # noqa: ARG002
        """The vectors (n, D) that stand before the text of some rows, as if they were embeddings of
        n more tokens.

        By the row's index; every other row stays as it is. The edits that the vectors are of go
        into ``batch.fired``. Applied by ``VLM.logits``, whose result leaves the positions of the
        vectors out, and by ``VLM.generate``; a raw Hugging Face call is refused.
        """
        return {}

    def bind(self, batch: Batch) -> dict[str, SiteFn]:  # noqa: ARG002
        """What to do at which site for this batch.

        A site is the path of a module below the text decoder: ``"layers.21"``, ``"layers.31.mlp"``
        are what these put out, ``"layers.31.mlp@input"`` is what the latter takes in. Called once a
        batch, before its first layer runs. Each function is then called on the states (B, T, D)
        there for the whole batch and, where tokens are generated with a cache, again on the states
        (B, 1, D) of each of them: what it finds out about the prompt the first time, it keeps for
        the others. The states are where the VLM takes its inputs, whichever device the module is
        on. A function that returns its argument leaves the model's result bit for bit as it is.

        A cache may be cut, and its rows exchanged. What a function keeps follows if it is a method
        of an object that has the methods ``rewind(length)``, called before each call behind a cache
        with the number of tokens in that, and ``reorder(rows)``: row i goes on behind row
        ``rows[i]``, ``rows`` being (B',) for any B'.

        In a call of a verb of the VLM ``batch`` is the verb's; in a raw Hugging Face call it holds
        ``input_ids`` and ``attention_mask`` only. There the answer begins where the VLM has encoded
        it, otherwise at a row's first label, and without labels every token after the image counts
        as prompt.
        """
        return {}

    def weights(self) -> dict[str, Tensor]:
        """New values in full, by the name of the parameter in the Hugging Face model. Gradients
        flow into them.
        """
        return {}

    def merge(self, batch: Batch, logits: Tensor) -> Tensor:  # noqa: ARG002
        """The logits that replace ``logits`` (B, T', V), those of the last T' tokens of ``batch``.

        While text is generated, ``batch`` grows by the tokens generated so far.
        """
        return logits

    def save(self, folder: Path) -> None:
        """Write the patch into ``folder``."""
        raise NotImplementedError(f"{type(self).__name__} cannot be saved to {folder}")


def overrides(patch: Patch, name: str) -> bool:
    """Whether the patch's class has its own ``name`` in place of the one that does nothing."""
    return getattr(type(patch), name) is not getattr(Patch, name)


def main_output(output: Any) -> Tensor:
    """The hidden states in what a module returned: the tensor itself, or the first of a tuple."""
    states: Tensor = output[0] if isinstance(output, tuple) else output
    return states


def output_embedding(model: Any) -> Any:
    """What makes the logits: the output embedding of the model, or that of the language model
    within it.
    """
    head = model.get_output_embeddings()
    return model.get_decoder().get_output_embeddings() if head is None else head


def site_layer(site: str) -> int | None:
    """The decoder layer that a site belongs to; ``None`` for one outside all layers, such as
    ``"norm"``.
    """
    name, _, rest = site.partition(".")
    return int(rest.partition(".")[0]) if name == "layers" else None


def act(function: SiteFn, output: Any, rows: int, device: torch.device) -> Any:
    """A module's output, a tensor or a tuple that begins with it, with what ``function`` makes of
    its states.
    """
    states = in_rows(function, main_output(output), rows, device)
    return (states, *output[1:]) if isinstance(output, tuple) else states


def act_before(
    function: SiteFn, args: tuple[Any, ...], rows: int, device: torch.device
) -> tuple[Any, ...]:
    """A module's arguments, the first of them replaced by what ``function`` makes of it."""
    return (in_rows(function, args[0], rows, device), *args[1:])


def in_rows(function: SiteFn, states: Tensor, rows: int, device: torch.device) -> Tensor:
    """``function``, at work on ``device``, of the states (B, T, D) wherever they are.

    OPT lays them end to end, (B · T, D), within its feed-forward network. Layers with AltUp put out
    several of each token, (S, B, T, D), which the function gets as (B, T, S · D).
    """
    given = states.to(device)
    if states.ndim == 4:
        return in_a_stack(function(side_by_side(given)), states.shape[-1]).to(states.device)
    if states.ndim == 3:
        return function(given).to(states.device)
    return function(given.reshape(rows, -1, states.shape[-1])).flatten(0, 1).to(states.device)


def side_by_side(states: Tensor) -> Tensor:
    """A stack of several states of every token (S, B, T, D) as (B, T, S · D); other states as they
    are.
    """
    return states.permute(1, 2, 0, 3).flatten(2) if states.ndim == 4 else states


def in_a_stack(states: Tensor, width: int) -> Tensor:
    """States side by side (B, T, S · D) as a stack (S, B, T, D), with D the ``width``."""
    return states.reshape(*states.shape[:2], -1, width).permute(2, 0, 1, 3).contiguous()
