"""ModelRunner: whole or partial forward passes of a vision-language model, with or without patches.

Shapes: B rows, T tokens (padding included), D width of the text decoder, V size of the vocabulary.
"""

from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import ExitStack, contextmanager
from copy import copy
from dataclasses import dataclass, replace
from functools import partial
from numbers import Integral
from typing import Any, ClassVar, Self

import torch
from accelerate.utils import align_module_device
from torch import Tensor, nn

from liveedit.errors import BadInput, UnsupportedModel
from liveedit.models.attach import Attachment
from liveedit.models.batch import Batch, FiredEdit, HiddenBatch, PaddingSide, Scores
from liveedit.models.calls import CACHE, Call, arguments
from liveedit.models.encoder import Encoder, PromptFormat
from liveedit.models.fingerprint import HALF, checksum, weights_fingerprint
from liveedit.models.greedy import greedy
from liveedit.models.module_names import ModuleNames
from liveedit.models.patch import (
    INPUT,
    Patch,
    acts_at_modules,
    main_output,
    output_embedding,
    overrides,
    site_layer,
)
from liveedit.models.per_thread import in_this_thread, replaced_forward
from liveedit.models.quantisation import check_changeable, settle
from liveedit.models.vision_cache import cached
from liveedit.models.wrappers import adapter_weights, adapters_on, uncompiled
from liveedit.types import Query, checked

__all__ = [
    "CARRIED",
    "EMBEDDINGS",
    "Inputs",
    "ModelRunner",
    "Reply",
    "scaled",
    "states_of",
    "uncarried",
]

EMBEDDINGS = -1
"""Number for the layer below the first, whose output is the embedded text and images."""

CARRIED = "carried."
"""Prefix of the names of tensors that :meth:`ModelRunner.carry` returns."""

Inputs = tuple[tuple[Any, ...], dict[str, Any]]
"""Arguments of a module's call: by position, and by name."""


@dataclass(frozen=True, slots=True)
class Reply:
    """Answer to a query.

    ``fired`` are the edits of the innermost patch that fired, with their weights, the heaviest
    first, and ``scores`` how near the query came to each edit, if the method has scores.
    """

    text: str
    fired: tuple[FiredEdit, ...]
    scores: Scores | None = None


class LayerReached(Exception):
    """Ends a forward pass at a layer; carries the states (B, T, D) that were found there."""

    def __init__(self, states: Tensor) -> None:
        super().__init__()
        self.states = states


class ModelRunner(Encoder):
    """A frozen Hugging Face model, its processor, and the patches that are applied to it.

    A family overrides :meth:`before_model`, :meth:`before_decoder`, :meth:`extra`, :meth:`carry`,
    :meth:`stand_in`, :meth:`decode` or :meth:`predict` where its model's calls differ.
    """

    decoder_path: ClassVar[str] = "model.language_model"
    """The module of the text decoder, the one that owns ``layers``."""
    tower_path: ClassVar[str] = "model.vision_tower"
    """The vision tower without its connector to the text decoder; empty where the connector is
    within the tower.
    """
    connector_path: ClassVar[str] = "model.multi_modal_projector"
    """The connector of the vision tower to the text decoder."""
    module_names: ClassVar[ModuleNames] = ModuleNames()
    """The names of the modules that editors act on, in the layers of the text decoder."""
    layer_outputs: int = 0
    """The length of the tuple that a decoder layer returns, its states first; 0 where it returns
    the states alone.
    """

    def __init__(
        self, model: Any, processor: Any, prompt_format: PromptFormat | None = None
    ) -> None:
        if any(parameter.is_inference() for parameter in model.parameters()):
            raise BadInput(
                "the model was made within torch.inference_mode(): "
                "make it outside, or it cannot be edited"
            )
        super().__init__(model.eval().requires_grad_(False), processor, prompt_format)
        settle(model)
        self.hook_calls()
        self.attachment = Attachment.of(self)
        self.fingerprints: dict[tuple[Any, ...], str] = {}
        self.unquantised: Callable[[], ModelRunner] | None = None

    # Facts about the model

    @property
    def decoder(self) -> Any:
        """The text decoder."""
        return self.model.get_submodule(self.decoder_path)

    @property
    def layers(self) -> nn.ModuleList:
        """The layers of the text decoder."""
        layers: nn.ModuleList = self.decoder.layers
        return layers

    @property
    def embedding(self) -> Any:
        """The input embedding."""
        return self.model.get_input_embeddings()

    @property
    def num_layers(self) -> int:
        """The number of layers of the text decoder."""
        return len(self.layers)

    @property
    def hidden_size(self) -> int:
        """D, the width of the text decoder."""
        return int(self.model.config.get_text_config().hidden_size)

    @property
    def state_size(self) -> int:
        """The width of a layer's output: D, or a multiple of D with several residual streams."""
        return self.hidden_size

    @property
    def unembedding(self) -> Tensor:
        """The weights (V, D) of the output embedding, on any device; read from the disk if needed.

        Raises :class:`UnsupportedModel` where they are quantised.
        """
        head = output_embedding(self.model)
        with align_module_device(head):
            weight: Tensor = head.weight
        check_changeable([("the output embedding", weight)])
        return weight

    @property
    def quantised(self) -> str | None:
        """The method of quantisation, "llm_int8", "nf4", "gptq" …; ``None`` for full weights."""
        config = getattr(self.model.config, "quantization_config", None)
        if config is None:
            return None
        if hasattr(config, "quantization_method"):
            return str(config.quantization_method())
        return str(config.quant_method)

    def parameter(self, name: str) -> nn.Parameter:
        """The model's own parameter of this name, whatever values patches give it."""
        with self.unpatched():
            found: nn.Parameter = self.model.get_parameter(name)
        return found

    def check_layer(self, layer: int) -> None:
        """Raise :class:`BadInput` unless the text decoder has this layer."""
        if not isinstance(layer, Integral) or not 0 <= layer < self.num_layers:
            raise BadInput(
                f"there is no layer {layer}: the text decoder has layers 0 to {self.num_layers - 1}"
            )

    # Fingerprint

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the model type and each weight's name, type, shape, sum of bits and 1024
        samples.

        Weights of half precision are hashed as float32, so that a model may be loaded in either.
        For a model that :meth:`VLM.load` has quantised, the stored full weights are hashed, read
        one by one: an editor trained on the full model opens on the quantised one. PEFT's adapters
        count while they are switched on. The config's settings are left out, because a newer
        transformers may name them differently for the same model. The device does not matter.
        """
        adapters = adapters_on(self.model)
        # Others may train the adapters' weights; the model's own are frozen.
        trained = map(checksum, adapter_weights(self.model))
        state = adapters, *trained
        if state not in self.fingerprints:
            self.fingerprints[state] = self.compute_fingerprint(adapters)
        return self.fingerprints[state]

    def known_as(self, fingerprint: object) -> bool:
        """Whether a fingerprint is this model's.

        Earlier versions hashed weights of half precision unconverted; such a fingerprint is
        accepted.
        """
        if fingerprint == self.fingerprint:
            return True
        if self.unquantised is not None:
            return self.unquantised().known_as(fingerprint)
        half = any(weight.dtype in HALF for weight in self.model.parameters())
        return half and fingerprint == self.compute_fingerprint(adapters_on(self.model), HALF)

    def compute_fingerprint(
        self, adapters: tuple[Any, ...], keep: Sequence[torch.dtype] = ()
    ) -> str:
        """The fingerprint with these adapters on; weights of the types ``keep`` are not converted
        to float32.
        """
        if self.unquantised is not None:
            return self.unquantised().fingerprint
        return weights_fingerprint(self.model, adapters, keep)

    # Patches

    @property
    def patches(self) -> list[Patch]:
        """The patches that act in this context, the innermost last."""
        return [scope.patch for scope in self.attachment.here.scopes or ()]

    @contextmanager
    def patched(self, patch: Patch) -> Iterator[Self]:
        """Context in which the model answers with the patch, in raw Hugging Face calls, too.

        This holds for the thread or asyncio task that enters it, and for raw calls from threads
        that have entered no patch themselves; all other calls are answered without the patch. A
        patch that rewrites questions or puts vectors before them refuses raw calls with input that
        was not encoded within the context. Leaving it, also by an exception, restores the
        parameters bit for bit and leaves no hook. May be nested. Raises :class:`BadInput` for
        anything but a patch.
        """
        if not isinstance(patch, Patch):
            raise BadInput(
                f"`patched` takes a Patch, not {type(patch).__name__}: make one with an editor"
            )
        with self.attachment.patched(patch):
            yield self

    @contextmanager
    def unpatched(self) -> Iterator[Self]:
        """Context in which the model answers unedited, whatever patches any thread applies."""
        with self.attachment.holding(scopes=()):
            yield self

    # Calls, as a family adapts them

    def hook_calls(self) -> None:
        """Register :meth:`before_model` and :meth:`before_decoder` as hooks, where overridden."""
        for name, verb in (("model", "before_model"), ("decoder", "before_decoder")):
            if getattr(type(self), verb) is not getattr(ModelRunner, verb):
                hook = partial(adapt_arguments, getattr(self, verb))
                getattr(self, name).register_forward_pre_hook(hook, with_kwargs=True)

    def before_model(self, given: dict[str, Any]) -> dict[str, Any]:
        """The arguments, by name, to pass to the model in place of the arguments ``given``.

        It may be called again with its own result, and must then return it unchanged.
        """
        return given

    def before_decoder(self, given: dict[str, Any]) -> dict[str, Any]:
        """The arguments by name for a call of the text decoder; see :meth:`before_model`."""
        return given

    def check_prefix(self) -> None:
        """Raise :class:`UnsupportedModel` if no vectors can be put before a text.

        This is so if layers above the first read token ids, which vectors do not have.
        """

    # Encoding

    def encode(
        self, queries: Sequence[Query], *, padding_side: PaddingSide = "right", eos: bool = False
    ) -> Batch:
        """The queries as one batch (:meth:`Encoder.encode`).

        Within :meth:`patched` the patch rewrites them first.
        """
        queries = checked(queries)
        fired: dict[Any, list[list[FiredEdit]]] = {}
        scores: dict[Any, list[Scores]] = {}
        for patch in self.patches:
            if overrides(patch, "rewrite"):
                rewritten = [patch.rewrite(query) for query in queries]
                queries = [row.query for row in rewritten]
                fired[patch] = [list(row.fired) for row in rewritten]
                scores[patch] = [row.scores for row in rewritten if row.scores is not None]
        encoded = super().encode(queries, padding_side=padding_side, eos=eos)
        alone = None
        if any(query.earlier for query in queries):
            alone = super().encode([query.alone for query in queries], eos=eos)
        batch = replace(encoded, fired=fired, scores=scores, alone=alone)
        ids: Any = batch.inputs["input_ids"]
        ids.rewritten_by = tuple(fired)  # read when a raw call contains these ids
        ids.spans = batch.spans
        return batch

    @contextmanager
    def prefixed(self, batch: Batch) -> Iterator[tuple[Batch, Tensor | None]]:
        """The batch with a patch's vectors before its texts, and where (B, T) its own tokens are.

        Without such vectors, the batch itself and ``None``. Raises :class:`UnsupportedModel` if two
        patches have vectors for it, and as :meth:`check_prefix`.
        """
        places: Tensor | None = None
        with ExitStack() as undo:
            for patch in self.patches:
                if not overrides(patch, "prefix"):
                    continue
                self.check_prefix()
                # A patch may run the model on the batch before the actual call.
                undo.enter_context(self.vision_once())
                if prefix := patch.prefix(batch):
                    if batch.prefix:
                        raise UnsupportedModel(
                            "two patches put vectors before one text: take one of them off"
                        )
                    batch, places = batch.prefixed(prefix, self.pad_token_id)
            yield batch, places

    def image_states(self, image: Any) -> Tensor:
        """The first layer's inputs (n, D) for an image, or for several: one row for each token.

        Patches do not rewrite the query. Raises :class:`BadInput` for an image that cannot be read.
        """
        batch = super().encode([Query("?", image=image, about=None)])
        return self.hidden(batch, EMBEDDINGS).hidden[0, slice(*batch.spans[0].image)]

    # Whole forward passes

    def logits(self, batch: Batch) -> Tensor:
        """The logits (B, T, V) at every position.

        Differentiable with respect to the tensors of a patch. Raises :class:`BadInput` for anything
        but a batch.
        """
        if not isinstance(batch, Batch):
            raise BadInput(
                f"`logits` takes a Batch, not {type(batch).__name__}: make one with `encode`"
            )
        with self.prefixed(batch) as (longer, places), self.announce(longer):
            logits: Tensor = self.model(**longer.inputs, use_cache=False).logits.to(self.device)
        if places is None:
            return logits
        rows = torch.arange(len(batch), device=places.device)
        return logits[rows[:, None], places]

    def generate(
        self, queries: Sequence[Query], *, max_new_tokens: int = 16, batch_size: int = 32
    ) -> list[str]:
        """The greedy answer to each query, stripped of white space; targets are ignored."""
        found = self.answers(queries, max_new_tokens=max_new_tokens, batch_size=batch_size)
        return [reply.text for reply in found]

    @torch.no_grad()
    def answers(
        self,
        queries: Sequence[Query],
        *,
        max_new_tokens: int = 16,
        batch_size: int = 32,
        scores: bool = False,
    ) -> list[Reply]:
        """The greedy answer to each query, with the edits that fired and, if wanted, the scores of
        those that nearly did; targets are ignored.
        """
        queries = checked(queries)
        replies: list[Reply] = []
        for start in range(0, len(queries), batch_size):
            some = queries[start : start + batch_size]
            replies += self.answer_batch(some, max_new_tokens, scores)
        return replies

    def answer_batch(
        self, queries: Sequence[Query], max_new_tokens: int, scores: bool = False
    ) -> list[Reply]:
        """The answers to queries that fit in one batch; see :meth:`answers`."""
        asked = [replace(query, target="") for query in queries]
        options = greedy(max_new_tokens, self.stops, self.pad_token_id)
        encoded = self.encode(asked, padding_side="left")
        encoded = replace(encoded, wants_scores=scores)
        with self.prefixed(encoded) as (batch, _), self.announce(batch):
            self.check_room(batch, max_new_tokens)
            tokens = self.model.generate(**batch.inputs, **options)
        texts = self.decode_answers(tokens[:, batch.labels.shape[1] :])
        innermost = self.patches[-1] if self.patches else None
        fired = batch.fired_by(innermost)
        found = batch.scores_of(innermost)
        return [
            Reply(text, tuple(edits), near)
            for text, edits, near in zip(texts, fired, found, strict=True)
        ]

    def decode_answers(self, tokens: Tensor | Sequence[Sequence[int]]) -> list[str]:
        """The texts of generated tokens, without special tokens, stripped of white space."""
        texts = self.tokenizer.batch_decode(
            tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return [text.strip() for text in texts]

    # Parts of a forward pass: up to a layer, and from there on

    @torch.no_grad()
    def hidden(self, batch: Batch, layer: int) -> HiddenBatch:
        """The output of decoder layer ``layer``, counted from 0; no layer above it runs.

        Layer -1 means the first layer's input. ``batch.position_ids`` and ``batch.extra`` are
        filled in on the way. Raises :class:`BadInput` for a layer that does not exist.
        """
        if layer != EMBEDDINGS:
            self.check_layer(layer)
        taken: dict[int, Inputs] = {}
        with self.announce(batch), ExitStack() as hooks:
            for handle in self.stop_at(batch, layer, taken):
                hooks.callback(handle.remove)
            states = self.states_reached(batch)
        return HiddenBatch(
            hidden=states,
            attention_mask=batch.inputs["attention_mask"],
            labels=batch.labels,
            spans=batch.spans,
            position_ids=batch.position_ids,
            extra=batch.extra | self.carry(layer, taken),
        ).to(self.device)

    def text_states(self, texts: Sequence[Sequence[int]], layer: int) -> Tensor:
        """The state (n, D) of the last token of each text, given as token ids, at ``layer``."""
        hidden = self.hidden(self.encode_tokens(texts), layer)
        rows = torch.arange(len(texts), device=hidden.hidden.device)
        return hidden.hidden[rows, hidden.last_prompt_tokens()]

    def states_reached(self, batch: Batch) -> Tensor:
        """The states (B, T, D) at which a hook of :meth:`stop_at` ends the model's call."""
        try:
            self.model(**batch.inputs, use_cache=False)
        except LayerReached as reached:
            return reached.states
        raise RuntimeError("the model's call does not run the layers of its text decoder in turn")

    def stop_at(self, batch: Batch, layer: int, taken: dict[int, Inputs]) -> Iterator[Any]:
        """Register hooks, for calls of this thread, that end the model's call at ``layer``.

        On the way they fill in ``batch``, and ``taken`` with the inputs of the :meth:`watched`
        layers.
        """
        begin = in_this_thread(partial(self.record_call, batch, layer))
        # Runs before any patch.
        yield self.decoder.register_forward_pre_hook(begin, with_kwargs=True, prepend=True)
        for number in self.watched(layer):
            take = in_this_thread(partial(record_inputs, taken, number))
            yield self.layers[number].register_forward_pre_hook(take, with_kwargs=True)
        if layer != EMBEDDINGS:
            yield self.layers[layer].register_forward_hook(in_this_thread(stop_after))

    def record_call(
        self,
        batch: Batch,
        layer: int,
        decoder: nn.Module,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> None:
        """Before the text decoder: keep its positions and extra inputs in ``batch``.

        Ends the call there if ``layer`` is -1.
        """
        kwargs = self.before_decoder(kwargs)
        positions = kwargs.get("position_ids")
        if positions is not None:  # which some models give once for all rows
            positions = positions.expand(*positions.shape[:-2], len(batch), -1)
        extra = self.extra(batch, kwargs)
        batch.position_ids = positions
        batch.extra = extra
        if layer == EMBEDDINGS:
            call = Call.read(decoder, args, kwargs)
            embedded = call.embedded
            raise LayerReached(self.embedding(call.newest) if embedded is None else embedded)

    def watched(self, layer: int) -> Sequence[int]:  # noqa: ARG002
        """The layers up to ``layer`` whose inputs :meth:`carry` needs."""
        return ()

    def extra(self, batch: Batch, kwargs: dict[str, Any]) -> dict[str, Tensor]:  # noqa: ARG002
        """The decoder's inputs for every token besides mask and positions, by name (B, T, …)."""
        return {}

    def carry(self, layer: int, taken: Mapping[int, Inputs]) -> dict[str, Tensor]:  # noqa: ARG002
        """The tensors (B, T, …) that upper layers read from lower ones, besides the output.

        Upper layers are those above ``layer``; the output is that of ``layer``. Their names begin
        with :data:`CARRIED`. ``taken`` holds the inputs of the layers of :meth:`watched`.
        """
        return {}

    def resume(self, layer: int, hidden: HiddenBatch, positions: Tensor | None = None) -> Tensor:
        """The logits (B, T, V) that follow from ``hidden``, the output of decoder layer ``layer``.

        Layer -1 means the first layer's input. Runs neither the vision tower nor that layer
        or any below it; a patch acts only above it. ``positions``, boolean (B, T), limits the
        result to the logits (N, V) at these positions, row by row. Differentiable with respect to
        ``hidden.hidden``. ``hidden.cache`` stays as it is. Raises :class:`BadInput` for a layer
        that does not exist.
        """
        if layer != EMBEDDINGS:
            self.check_layer(layer)
        if hidden.cache is not None:
            hidden = replace(hidden, cache=grows_apart(hidden.cache))
        with self.narrowed(positions), self.running_above(layer, hidden) as states:
            if positions is None:
                return self.predict(states)
            positions = positions.to(states.device)
            if any(overrides(patch, "merge") for patch in self.patches):  # which needs whole rows
                return self.predict(states)[positions.to(self.device)]
            return self.predict(states[positions])

    @contextmanager
    def narrowed(self, positions: Tensor | None) -> Iterator[None]:
        """Context in which the last feed-forward network runs at ``positions`` (B, T) alone.

        It treats each token by itself, and nothing reads what it puts out elsewhere. With patches,
        which may read it, with weights that round the tokens of a call together, and in a layer
        that convolves over tokens it runs at all positions.
        """
        network = self.last_network
        whole = self.patches or self.quantised
        if positions is None or network is None or whole or convolves(self.layers[-1], network):
            yield
            return
        with replaced_forward(network, partial(at_positions, positions)):
            yield

    @property
    def last_network(self) -> nn.Module | None:
        """The feed-forward network of the last layer, if it is a module of its own."""
        last = self.layers[-1]
        names = dict(last.named_modules())
        known = (ends for ends in self.module_names.networks if ends.mark in names)
        ends = next(known, None)
        return names[ends.first] if ends is not None and ends.first == ends.last else None

    @contextmanager
    def running_above(self, layer: int, hidden: HiddenBatch) -> Iterator[Tensor]:
        """Context with the text decoder's last states (B, T, D) that follow from ``hidden``.

        What ``hidden.cache`` holds grows.
        """
        batch = Batch(
            {"attention_mask": hidden.attention_mask},
            hidden.labels,
            hidden.spans,
            hidden.position_ids,
        )
        embedded = hidden.hidden if layer == EMBEDDINGS else self.unread_embeddings(hidden)
        with self.announce(batch, skipped=layer), self.bypassed(layer, hidden):
            yield self.decode(embedded, hidden)

    def unread_embeddings(self, hidden: HiddenBatch) -> Tensor:
        """Zeros (B, T, D) in place of embeddings that no layer reads."""
        shape = (*hidden.labels.shape, self.embedding.weight.shape[-1])
        return hidden.labels.new_zeros(shape, dtype=hidden.hidden.dtype)

    @contextmanager
    def bypassed(self, layer: int, hidden: HiddenBatch) -> Iterator[None]:
        """Context in which layers up to ``layer`` do not run; the last returns ``hidden``."""

        def bypass(number: int, _forward: Callable[..., Any]) -> Callable[..., Any]:
            def stand_in(*_args: Any, **kwargs: Any) -> Any:
                states = self.stand_in(number, hidden, kwargs)
                rest = [None] * (self.layer_outputs - 1)
                return (states, *rest) if self.layer_outputs else states

            return stand_in

        with ExitStack() as undo:
            for number, module in enumerate(self.layers[: layer + 1]):
                undo.enter_context(replaced_forward(module, partial(bypass, number)))
            yield

    def stand_in(self, number: int, hidden: HiddenBatch, given: dict[str, Any]) -> Tensor:  # noqa: ARG002
        """The output of layer ``number``, in place of running it.

        ``hidden`` holds the output of the last layer that does not run, ``given`` this layer's
        arguments by name.
        """
        return hidden.hidden

    def decode(self, embedded: Tensor, hidden: HiddenBatch) -> Tensor:
        """The text decoder's last states (B, T, D) for the embeddings (B, T, D).

        Mask, positions and the rest are those of ``hidden``.
        """
        return states_of(self.decoder, embedded, hidden, uncarried(hidden))

    def predict(self, states: Tensor) -> Tensor:
        """The logits (…, V) of the decoder's last states (…, D), scaled as the config says."""
        logits = output_embedding(self.model)(states)
        return scaled(logits, self.model.config.get_text_config()).to(self.device)

    # The current call

    @property
    def skipped(self) -> int:
        """The last layer that does not run in the current call."""
        return self.attachment.here.skipped

    @contextmanager
    def announce(self, batch: Batch, skipped: int = -1) -> Iterator[None]:
        """Context in which patches get ``batch`` as the batch of the current call.

        ``skipped`` is the last layer that does not run.
        """
        with self.attachment.holding(announced=batch, skipped=skipped), uncompiled():
            yield

    def unchanged_layers(self, patch: Patch, batch: Batch) -> int:
        """How many of the first layers run alike with a patch and without; 0 if that is unknown.

        It is for a patch that acts elsewhere than at modules, and for a decoder with states beside
        the layers' outputs.
        """
        own = type(self).carry is ModelRunner.carry and type(self).stand_in is ModelRunner.stand_in
        if not own or not acts_at_modules(type(patch)) or self.layer_outputs or batch.alone:
            return 0
        with self.unpatched():
            sites = patch.bind(batch)
        return min((site_layer(site.removesuffix(INPUT)) or 0 for site in sites), default=0)

    @contextmanager
    def vision_once(self, found: MutableMapping[str, Any] | None = None) -> Iterator[None]:
        """Context in which the vision tower runs once for the same images; its output is reused.

        ``found`` holds outputs by the digest of the tower's inputs: those of earlier contexts, and
        new ones from now on. A tower that holds the connector, too, runs every time.
        """
        if not self.tower_path:
            yield
            return
        outputs: MutableMapping[str, Any] = {} if found is None else found
        tower = self.model.get_submodule(self.tower_path)
        with replaced_forward(tower, partial(cached, outputs=outputs)):
            yield


def adapt_arguments(
    adapt: Callable[[dict[str, Any]], dict[str, Any]],
    module: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    """A forward pre-hook: the call continues with the arguments that ``adapt`` returns."""
    return (), adapt(arguments(module.forward, args, kwargs) if args else kwargs)


def record_inputs(
    taken: dict[int, Inputs],
    number: int,
    _module: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> None:
    """A forward pre-hook: keep the inputs of layer ``number`` in ``taken``."""
    taken[number] = args, kwargs


def stop_after(_module: nn.Module, _args: tuple[Any, ...], output: Any) -> None:
    """A forward hook: end the model's call with this layer's output."""
    raise LayerReached(main_output(output))


def convolves(layer: nn.Module, network: nn.Module) -> bool:
    """Whether a layer has kernels, weights of three dimensions, outside its network.

    The experts of a network of experts have three dimensions, too.
    """
    rest = set(layer.parameters()) - set(network.parameters())
    return any(weight.dim() > 2 for weight in rest)


def at_positions(positions: Tensor, forward: Callable[..., Any]) -> Callable[..., Any]:
    """``forward`` of a network of each token by itself, at ``positions`` (B, T); 0 elsewhere.

    It runs at all positions where its input has another form or comes with further arguments,
    which may belong to each token, and where its output is no tensor.
    """

    def narrow(states: Tensor, *args: Any, **kwargs: Any) -> Any:
        if args or kwargs or states.shape[:-1] != positions.shape:
            return forward(states, *args, **kwargs)
        here = positions.to(states.device)
        output = forward(states[here][None])
        if not isinstance(output, Tensor):
            return forward(states)
        whole = output.new_zeros(*positions.shape, output.shape[-1])
        return whole.index_put((here,), output[0])

    return narrow


def uncarried(hidden: HiddenBatch) -> dict[str, Tensor]:
    """The decoder's own extra inputs: ``hidden.extra`` without tensors that :meth:`carry` kept."""
    return {name: value for name, value in hidden.extra.items() if not name.startswith(CARRIED)}


def states_of(
    decoder: Any, embedded: Tensor, hidden: HiddenBatch, extra: Mapping[str, Any]
) -> Tensor:
    """The last states (B, T, D) of a decoder, or of a model around it, for given embeddings.

    Mask, positions and cache are those of ``hidden``, ``extra`` are further arguments.
    """
    states: Tensor = decoder(
        inputs_embeds=embedded,
        attention_mask=hidden.attention_mask,
        position_ids=hidden.position_ids,
        use_cache=hidden.cache is not None,
        **{CACHE: hidden.cache},
        **extra,
    )[0]
    return states


def grows_apart(cache: Any) -> Any:
    """A cache of the same tensors, which grows without the given one."""
    made = copy(cache)
    made.layers = [copy(layer) for layer in cache.layers]
    return made


def scaled(logits: Tensor, config: Any) -> Tensor:
    """Apply the scaling and soft-capping of logits that a text config asks for."""
    for name in ("logit_scale", "output_multiplier"):
        if factor := getattr(config, name, None):
            logits = logits * factor
    if scale := getattr(config, "logits_scaling", None):
        # HyperCLOVA X multiplies, Granite and all others divide.
        multiplies = getattr(config, "model_type", None) == "hyperclovax"
        logits = logits * scale if multiplies else logits / scale
    if cap := getattr(config, "final_logit_softcapping", None):
        logits = cap * torch.tanh(logits / cap)
    return logits
