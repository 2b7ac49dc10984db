"""Patch, what has been learnt as a value, and the one place that puts it on a model.

A patch acts in up to five places, all of them doing nothing unless overridden:

    rewrite   the query, before it is encoded           (in-context methods)
    prefix    vectors before the text of a row          (continuous prompts)
    bind      the outputs of modules of the text decoder (routed experts, memory neurons)
    weights   parameters of the Hugging Face model       (fine-tuning and hyper-networks)
    merge     the logits                                 (a second model beside the first)
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from liveedit.errors import BadInput, Mismatch, UnsupportedModel
from liveedit.models.batch import IGNORED, Batch, find_spans
from liveedit.models.calls import Call
from liveedit.models.quantisation import check_changeable
from liveedit.types import Query

if TYPE_CHECKING:
    from liveedit.models.vlm import VLM

__all__ = ["INPUT", "Patch", "SiteFn", "attached", "main_output", "output_embedding", "site_layer"]

SiteFn = Callable[[Tensor], Tensor]
"""What a module puts out or takes in (B, T', D) to what replaces it, of the same shape, dtype and device."""

INPUT = "@input"
"""The end of a site that stands for what the module takes in."""


class Patch:
    """What has been learnt; this base class is the empty patch. A patch is a value: nothing done with it changes it."""

    def __len__(self) -> int:
        """How many edits it holds."""
        return 0

    @property
    def nbytes(self) -> int:
        """Bytes that it takes up."""
        return 0

    def rewrite(self, query: Query) -> Query:
        """The query that is encoded in place of ``query``. Applied by ``VLM.encode`` and ``VLM.generate``."""
        return query

    def prefix(self, batch: Batch) -> dict[int, Tensor]:  # noqa: ARG002
        """The vectors (n, D) that stand before the text of some rows, as if they were embeddings of n more tokens.

        By the row's index; every other row stays as it is. Applied by ``VLM.logits``, whose result leaves the
        positions of the vectors out, and by ``VLM.generate``, to a batch that the VLM has encoded itself.
        """
        return {}

    def bind(self, batch: Batch) -> dict[str, SiteFn]:  # noqa: ARG002
        """What to do at which site for this batch.

        A site is the path of a module below the text decoder: ``"layers.21"``, ``"layers.31.mlp"`` are what these put
        out, ``"layers.31.mlp@input"`` is what the latter takes in. Called once a batch, before its first layer runs.
        Each function is then called on the states (B, T, D) there for the whole batch and, where tokens are generated
        with a cache, again on the states (B, 1, D) of each of them: what it finds out about the prompt the first time,
        it keeps for the others. The states are where the VLM takes its inputs, whichever device the module is on. A
        function that returns its argument leaves the model's result bit for bit as it is.

        In a call that the VLM has encoded itself ``batch`` is that batch; in a raw Hugging Face call it holds
        ``input_ids`` and ``attention_mask`` only, and every token after the image counts as prompt.
        """
        return {}

    def weights(self) -> dict[str, Tensor]:
        """New values in full, by the name of the parameter in the Hugging Face model. Gradients flow into them."""
        return {}

    def merge(self, batch: Batch, logits: Tensor) -> Tensor:  # noqa: ARG002
        """The logits that replace ``logits`` (B, T', V), those of the last T' tokens of ``batch``.

        While text is generated, ``batch`` grows by the tokens generated so far.
        """
        return logits

    def fired(self) -> list[list[tuple[int, float]]]:
        """For each row of the batch bound last, the experts that took part and their weights. Empty without experts."""
        return []

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
    """What makes the logits: the output embedding of the model, or that of the language model within it."""
    head = model.get_output_embeddings()
    return model.get_decoder().get_output_embeddings() if head is None else head


def site_layer(site: str) -> int | None:
    """The decoder layer that a site belongs to; ``None`` for one outside all layers, such as ``"norm"``."""
    name, _, rest = site.partition(".")
    return int(rest.partition(".")[0]) if name == "layers" else None


@contextmanager
def attached(vlm: "VLM", patch: Patch) -> Iterator[None]:
    """Put ``patch`` on the model; on leaving, also by an exception, every parameter and hook is as it was."""
    with ExitStack() as undo:
        exchange(vlm, patch.weights(), undo)
        merges = overrides(patch, "merge")
        if merges or overrides(patch, "bind") or overrides(patch, "prefix"):
            watch = Watch(vlm, patch, merges)
            undo.callback(watch.release)
            for model in {vlm.model, vlm.model.base_model}:
                undo.callback(model.register_forward_pre_hook(watch.asked, with_kwargs=True).remove)
            embedding, head = vlm.model.get_input_embeddings(), output_embedding(vlm.model)
            undo.callback(embedding.register_forward_pre_hook(watch.embeds).remove)
            undo.callback(vlm.decoder.register_forward_pre_hook(watch.begins, with_kwargs=True).remove)
            undo.callback(vlm.decoder.register_forward_hook(watch.ends, always_call=True).remove)
            if merges:
                undo.callback(head.register_forward_hook(watch.predicts).remove)
        yield


def exchange(vlm: "VLM", weights: dict[str, Tensor], undo: ExitStack) -> None:
    """Put new values in place of parameters, tied ones included, and leave in ``undo`` what puts the old ones back.

    The old tensors themselves are kept and return, so nothing is copied and nothing can be rounded. Raises
    :class:`Mismatch` for values that do not fit this model, :class:`UnsupportedModel` for a parameter that is
    quantised or off-loaded.
    """
    if not weights:
        return
    _ = vlm.fingerprint  # it names the unedited weights, so it has to be taken before they go
    owners: dict[int, list[tuple[nn.Module, str]]] = {}
    for module in vlm.model.modules():
        for leaf, parameter in module._parameters.items():
            owners.setdefault(id(parameter), []).append((module, leaf))
    parameters = dict(vlm.model.named_parameters(remove_duplicate=False))
    for name, value in weights.items():
        old = parameters.get(name)
        if old is None:
            raise Mismatch(f"the patch sets '{name}', which this model does not have: use the patch's own base model")
        check_changeable([(name, old)])
        if old.shape != value.shape:
            shapes = f"{tuple(value.shape)} in the patch and {tuple(old.shape)} here"
            raise Mismatch(f"'{name}' is {shapes}: use the patch's own base model")
        new = value.to(old.device, old.dtype)
        for module, leaf in owners[id(old)]:
            undo.callback(module._parameters.__setitem__, leaf, module._parameters[leaf])
            module._parameters[leaf] = new  # type: ignore[assignment]  # a plain tensor, so that gradients reach it


class Watch:
    """A patch at work: hooks that learn which batch goes through the model, and act on it.

    The token ids are read off the model's call, otherwise off the input embedding, and the start of a batch off the
    text decoder: these two modules run in every call, ``model.generate`` of families that never call their own
    ``forward`` included.
    """

    def __init__(self, vlm: "VLM", patch: Patch, merges: bool) -> None:
        self.vlm, self.patch, self.merges = vlm, patch, merges
        self.sites = ExitStack()
        self.input_ids: Tensor | None = None
        self.told = False
        self.batch: Batch | None = None

    def asked(self, _module: nn.Module, _args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Before the model: keep the token ids (B, T') of the call, image tokens that it hides within too."""
        if isinstance(input_ids := kwargs.get("input_ids"), Tensor):
            self.input_ids, self.told = input_ids, True

    def embeds(self, _module: nn.Module, args: tuple[Any, ...]) -> None:
        """Before the input embedding of a model that was not called itself: keep the token ids (B, T')."""
        if not self.told and args and args[0].ndim == 2:
            self.input_ids = args[0]

    def begins(self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Before the text decoder: bind a new batch, or go on with the one whose tokens are in the cache.

        The vectors before the text of a new batch take the place of the embeddings of its filler tokens.
        """
        call = Call.read(self.vlm.decoder, args, kwargs)
        input_ids = self.input_ids if call.input_ids is None else call.input_ids  # else its caller has embedded them
        if not call.past:
            self.release()
            self.batch = self.plain(input_ids, call) if self.vlm.announced is None else self.vlm.announced
            self.attach(self.patch.bind(self.batch))
            if self.batch.prefix:
                return args, kwargs | {"inputs_embeds": self.batch.embedded(kwargs["inputs_embeds"])}
        elif self.merges and self.batch is not None and input_ids is not None:
            self.batch = self.batch.extended(input_ids)
        return None

    def ends(self, *_: Any) -> None:
        """After the text decoder, also if it raised: forget the token ids, the next call brings its own."""
        self.input_ids, self.told = None, False

    def plain(self, input_ids: Tensor | None, call: Call) -> Batch:
        """The batch of a raw Hugging Face call. Raises :class:`BadInput` if the call hides its token ids."""
        embedded = call.embedded
        if input_ids is not None and embedded is not None and len(embedded) > len(input_ids):  # beams of each row
            input_ids = input_ids.repeat_interleave(len(embedded) // len(input_ids), 0)
        if input_ids is None or (embedded is not None and embedded.shape[:2] != input_ids.shape):
            raise BadInput("a patched model needs input_ids: it reads off them where image and prompt are")
        mask = unpadded(call.mask, input_ids)
        spans = find_spans(self.vlm.image_tokens(input_ids) & mask.bool(), mask)
        return Batch({"input_ids": input_ids, "attention_mask": mask}, torch.full_like(input_ids, IGNORED), spans)

    def attach(self, functions: dict[str, SiteFn]) -> None:
        """Hook the functions to their sites, but for the sites in layers that this call skips."""
        rows = 0 if self.batch is None else len(self.batch)
        for site, function in functions.items():
            path = site.removesuffix(INPUT)
            layer = site_layer(path)
            if layer is not None and layer <= self.vlm.skipped:
                continue
            try:
                module = self.vlm.decoder.get_submodule(path)
            except AttributeError:
                known = f"its layers are 0 to {self.vlm.num_layers - 1}"
                raise UnsupportedModel(f"the text decoder has no module '{path}': {known}") from None
            # First in line, so that whoever else watches this module sees the patched states.
            if path == site:
                handle = module.register_forward_hook(act(function, rows, self.vlm.device), prepend=True)
            else:
                handle = module.register_forward_pre_hook(act_before(function, rows, self.vlm.device), prepend=True)
            self.sites.callback(handle.remove)

    def predicts(self, _module: nn.Module, _args: tuple[Any, ...], logits: Tensor) -> Tensor:
        """After the output embedding: merge the logits."""
        return logits if self.batch is None else self.patch.merge(self.batch, logits.to(self.vlm.device)).to(logits)

    def release(self) -> None:
        """Take the hooks of the last batch off the sites."""
        self.sites.close()


def unpadded(mask: Any, input_ids: Tensor) -> Tensor:
    """Which of the tokens (B, T) are not padding, from a decoder's mask (B, T) or (B, 1, T, T), or one for each kind.

    In a mask of pairs of tokens padding is what does not see itself. Without any mask nothing is padding.
    """
    if isinstance(mask, dict):
        mask = next((one for one in mask.values() if isinstance(one, Tensor)), None)
    if isinstance(mask, Tensor) and mask.ndim == 4:
        seen = mask.diagonal(dim1=-2, dim2=-1)[:, 0]
        mask = (seen if seen.dtype == torch.bool else seen == 0).to(input_ids.dtype)
    if not isinstance(mask, Tensor) or mask.shape != input_ids.shape:
        return torch.ones_like(input_ids)
    return mask


def act(function: SiteFn, rows: int, device: torch.device) -> Callable[[nn.Module, tuple[Any, ...], Any], Any]:
    """The forward hook that puts ``function`` on a module's output, a tensor or a tuple that begins with it."""

    def hook(_module: nn.Module, _args: tuple[Any, ...], output: Any) -> Any:
        states = in_rows(function, main_output(output), rows, device)
        return (states, *output[1:]) if isinstance(output, tuple) else states

    return hook


def act_before(function: SiteFn, rows: int, device: torch.device) -> Callable[[nn.Module, tuple[Any, ...]], Any]:
    """The hook that puts ``function`` on what a module takes in as its first argument."""

    def hook(_module: nn.Module, args: tuple[Any, ...]) -> Any:
        return (in_rows(function, args[0], rows, device), *args[1:])

    return hook


def in_rows(function: SiteFn, states: Tensor, rows: int, device: torch.device) -> Tensor:
    """``function``, at work on ``device``, of the states (B, T, D) wherever they are.

    OPT lays them end to end, (B · T, D), within its feed-forward network. Layers with AltUp put out several of each
    token, (S, B, T, D), which the function gets as (B, T, S · D).
    """
    given = states.to(device)
    if states.ndim == 4:
        return in_a_stack(function(side_by_side(given)), states.shape[-1]).to(states.device)
    if states.ndim == 3:
        return function(given).to(states.device)
    return function(given.reshape(rows, -1, states.shape[-1])).flatten(0, 1).to(states.device)


def side_by_side(states: Tensor) -> Tensor:
    """A stack of several states of every token (S, B, T, D) as (B, T, S · D); other states as they are."""
    return states.permute(1, 2, 0, 3).flatten(2) if states.ndim == 4 else states


def in_a_stack(states: Tensor, width: int) -> Tensor:
    """States side by side (B, T, S · D) as a stack (S, B, T, D), with D the ``width``."""
    return states.reshape(*states.shape[:2], -1, width).permute(2, 0, 1, 3).contiguous()
