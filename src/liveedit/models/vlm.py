"""VLM: a frozen Hugging Face vision-language model and its processor, behind a few verbs.

Shapes: B rows, T tokens (padding included), D width of the text decoder, V size of the vocabulary.
"""

from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from copy import copy
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from numbers import Integral
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar
from weakref import finalize

import torch
import transformers
from accelerate.utils import align_module_device
from PIL import Image
from torch import Tensor, nn
from transformers.integrations.accelerate import load_offloaded_parameter

from liveedit.errors import BadInput, LiveEditError, UnsupportedModel, shortage
from liveedit.models import check_authors, checkpoint, family
from liveedit.models.attach import Attachment
from liveedit.models.batch import Batch, Firing, HiddenBatch, PaddingSide
from liveedit.models.calls import CACHE, TESTED, Call, arguments
from liveedit.models.conformance.contract import LOADING, probe
from liveedit.models.detours import detour, mine
from liveedit.models.encoder import Encoder, PromptFormat
from liveedit.models.greedy import greedy
from liveedit.models.module_names import ModuleNames
from liveedit.models.patch import Patch, main_output, output_embedding, overrides
from liveedit.models.processor import completed
from liveedit.models.quantisation import Bits, check_changeable, quantization, settle
from liveedit.models.wrappers import acting, adapter_weights, adapters_on, uncompiled, unwrapped
from liveedit.types import Query, checked

__all__ = [
    "CARRIED",
    "EMBEDDINGS",
    "VLM",
    "Inputs",
    "PromptFormat",
    "Reply",
    "reading",
    "states_of",
    "uncarried",
]

UNSEEN = ("use_cache",)
"""Arguments for the text decoder that transformers from 5.24 on hands to the vision tower, too."""

HALF = (torch.float16, torch.bfloat16)
SPREAD = ("auto", "balanced", "balanced_low_0", "sequential")
"""Ways of spreading layers over the devices that there are."""

CAPTURING, HOOKED = "transformers.utils.output_capturing", "_output_capturing_hooks_installed"
"""Whose hooks collect what layers put out, and the attribute of a model that has them."""
COMPILED = "_torchdynamo_orig_callable"
"""The attribute of a function that `torch.compile` has made of another."""

EMBEDDINGS = -1
"""In place of a layer: what the first layer takes in, where text is embedded and images are put in.
"""


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer, and the edits of the innermost patch that took part in it, with their weights, the
    heaviest first.
    """

    text: str
    fired: tuple[Firing, ...]


Inputs = tuple[tuple[Any, ...], dict[str, Any]]
"""What a module takes in: arguments by place, and by name."""

CARRIED = "carried."
"""How the names begin of what layers read of others than the one below."""


class LayerReached(Exception):
    """Ends a forward pass at the layer that was asked for."""


class Family(type):
    """Makes an instance of the family that a model belongs to, of the model without what others
    have wrapped it in.
    """

    def __call__(cls, model: Any, *args: Any, **kwargs: Any) -> Any:
        """See :class:`VLM`."""
        model = unwrapped(model)
        chosen = family(model.config.model_type) if cls is VLM else cls
        return type.__call__(chosen, model, *args, **kwargs)


class VLM(Encoder, metaclass=Family):
    """A frozen Hugging Face model and its processor. A patched VLM is a VLM.

    ``VLM(model, processor)`` wraps a model that is loaded already and is an instance of the family
    registered for its ``model_type``. A family gives its facts as class data, and overrides
    :meth:`render`, :meth:`image_tokens`, :meth:`place`, :meth:`picture` or :meth:`join` where its
    prompt or its image inputs are unlike the others'; :meth:`before_model`, :meth:`before_decoder`,
    :meth:`carry` or :meth:`stand_in` where its calls are.
    """

    hf_class: ClassVar[str] = "AutoModelForImageTextToText"
    """The class of ``transformers`` that reads the checkpoint."""
    decoder_path: ClassVar[str] = "model.language_model"
    """The module of the text decoder, the one that owns ``layers``."""
    tower_path: ClassVar[str] = "model.vision_tower"
    """The vision tower, without what connects it to the text decoder; empty if the one is within
    the other.
    """
    connector_path: ClassVar[str] = "model.multi_modal_projector"
    """What connects the vision tower to the text decoder."""
    module_names: ClassVar[ModuleNames] = ModuleNames()
    """The names of the modules that editors act on, in the layers of the text decoder."""
    layer_outputs: int = 0
    """How many things a layer of the decoder puts out in a tuple, its states first; 0 where it puts
    out these alone.
    """

    def __init__(
        self, model: Any, processor: Any, prompt_format: PromptFormat | None = None
    ) -> None:
        if any(parameter.is_inference() for parameter in model.parameters()):
            raise BadInput(
                "the model was made within torch.inference_mode(): make it outside, or it cannot be edited"
            )
        super().__init__(model.eval().requires_grad_(False), processor, prompt_format)
        settle(model)
        self.step_before()
        self.attachment = Attachment.of(self)
        self.fingerprints: dict[tuple[Any, ...], str] = {}
        self.unquantised: Callable[[], VLM] | None = None
        self.probed = False

    def __getstate__(self) -> dict[str, Any]:
        """All but what belongs to the calls under way.

        Raises :class:`BadInput` while the model is patched, and for what would go on calling this
        model in a copy.
        """
        if self.attachment.users:
            raise BadInput(
                "a model cannot be copied while it is patched or answers: leave `patched`, or wait for the answers"
            )
        if any(hasattr(vars(module).get("forward"), COMPILED) for module in self.model.modules()):
            raise BadInput(
                "a model whose `forward` is compiled cannot be copied: call `model.compile()` in its place"
            )
        release(self.model)
        return {name: value for name, value in vars(self).items() if name != "attachment"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self.attachment = Attachment.of(self)

    def step_before(self) -> None:
        """Have the model, and its text decoder, called as the family says."""
        for name, verb in (("model", "before_model"), ("decoder", "before_decoder")):
            if getattr(type(self), verb) is not getattr(VLM, verb):
                hook = partial(stepped, getattr(self, verb))
                getattr(self, name).register_forward_pre_hook(hook, with_kwargs=True)

    def before_model(self, given: dict[str, Any]) -> dict[str, Any]:
        """The arguments that a call of the model goes on with; ``given`` holds those that it was
        given, by name.
        """
        return given

    def before_decoder(self, given: dict[str, Any]) -> dict[str, Any]:
        """The same of the text decoder. Like the other, it may be asked again about what it gave."""
        return given

    @classmethod
    @torch.inference_mode(False)
    def load(
        cls,
        path: str | Path,
        *,
        dtype: torch.dtype | None = None,
        quantize: Bits | None = None,
        device_map: Any = None,
        max_memory: Mapping[int | str, int | str] | None = None,
        prompt_format: PromptFormat | None = None,
    ) -> "VLM":
        """The model in a folder, or under a Hugging Face id, as the family of its ``model_type``.

        ``dtype`` ``None`` keeps the checkpoint's own. ``quantize`` reads the weights in 8 or 4
        bits; a checkpoint that holds quantised ones needs nothing. ``device_map`` goes to
        ``from_pretrained``: "auto" spreads the layers over all devices, then memory, then disk, of
        each no more than ``max_memory`` says. ``prompt_format`` ``None`` means the chat template if
        there is one. Raises :class:`BadInput` where there is no checkpoint or a broken one, and
        where bitsandbytes is lacking, :class:`UnsupportedModel` for a ``model_type`` that no family
        reads, for a checkpoint that has to be converted first, and as :meth:`check_answers`.
        """
        vlm = cls.read(path, dtype, quantize, device_map, max_memory, prompt_format)
        vlm.check_inputs(path)
        vlm.check_answers()
        return vlm

    @classmethod
    def read(
        cls,
        path: str | Path,
        dtype: torch.dtype | None,
        quantize: Bits | None = None,
        device_map: Any = None,
        max_memory: Mapping[int | str, int | str] | None = None,
        prompt_format: PromptFormat | None = None,
    ) -> "VLM":
        """See :meth:`load`; the model is not asked anything yet."""
        source = checkpoint(path)
        check_dtype(dtype)
        check_devices(device_map, max_memory)
        with reading(path):
            config, _ = transformers.PreTrainedConfig.get_config_dict(source)
        check_authors(config, path)
        if not isinstance(config.get("model_type"), str):
            raise UnsupportedModel(
                f"{path} names no model_type in its config.json: give a Hugging Face checkpoint"
            )
        chosen = family(config["model_type"])
        check_described(config, path)
        options: dict[str, Any] = {
            "dtype": dtype or "auto",
            "device_map": device_map,
            "max_memory": max_memory,
        }
        if quantize is not None:
            if "quantization_config" in config:
                raise BadInput(
                    f"the weights of {path} are quantised already: leave the number of bits out"
                )
            own = getattr(torch, str(config.get("dtype") or config.get("torch_dtype")), None)
            options["quantization_config"] = quantization(quantize, dtype or own)
        with reading(path), quiet(), ExitStack() as undo:
            folder = undo.enter_context(
                TemporaryDirectory(prefix="liveedit-")
            )  # for weights that go to the disk anew
            model, report = getattr(transformers, chosen.hf_class).from_pretrained(
                source,
                offload_folder=folder,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                **options,
            )
            check_complete(report, path)
            processor = completed(chosen.load_processor(source), model, source)
            finalize(model, undo.pop_all().close)
        vlm: VLM = chosen(model, processor, prompt_format)
        if quantize is not None:
            vlm.unquantised = partial(VLM.read, path, dtype, device_map={"": "disk"})
        return vlm

    def check_inputs(self, path: str | Path) -> None:
        """Raise :class:`UnsupportedModel` unless the processor makes of an image what the model
        takes.
        """
        try:
            self.image_states(Image.new("RGB", (64, 64)))
        except LiveEditError:
            raise
        except Exception as error:  # a processor may fail in any way
            if shortage(error):
                raise
            reason = one_line(error)
            raise UnsupportedModel(
                f"the processor in {path} does not fit the model: {reason}"
            ) from error

    def check_answers(self) -> None:
        """Raise :class:`UnsupportedModel` if the model answers otherwise under a patch than it
        must, and :class:`BadInput` if that comes of weights that are no finite numbers.

        A cache, a mask or positions that another version of transformers hands from one part of a
        model to another by other names come to light so. It is done once for every model, when it
        is loaded or, if it was not, first to be edited. It takes twelve forward passes over one
        small image or short texts, four of them over a single token, and two looks at the image.
        """
        if self.probed:
            return
        try:
            with self.unpatched():
                probe(self, LOADING)
        except Exception as error:  # a model may fail in any way
            if shortage(error):
                raise
            here = (weight for weight in self.model.parameters() if not weight.is_meta)
            if not all(weight.isfinite().all() for weight in here if weight.is_floating_point()):
                reason = "some of the model's weights are no finite numbers"
                raise BadInput(
                    f"{reason}: get its files again, or save it anew in another dtype"
                ) from error
            versions = f"with transformers {transformers.__version__} ({TESTED} was tested)"
            kind = self.model.config.model_type
            raise UnsupportedModel(
                f"models of type '{kind}' cannot be edited {versions}: {one_line(error)}"
            ) from error
        self.probed = True

    @classmethod
    def load_processor(cls, source: str) -> Any:
        """The processor of a checkpoint."""
        return transformers.AutoProcessor.from_pretrained(source)

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
        """How many layers the text decoder has."""
        return len(self.layers)

    @property
    def hidden_size(self) -> int:
        """D, the width of the text decoder."""
        return int(self.model.config.get_text_config().hidden_size)

    @property
    def state_size(self) -> int:
        """The width of what a layer puts out: D, unless it puts out several residual streams side
        by side.
        """
        return self.hidden_size

    @property
    def unembedding(self) -> Tensor:
        """The weights (V, D) of the output embedding, off the disk if they are there, on whichever
        device they are.

        Raises :class:`UnsupportedModel` where they are quantised.
        """
        head = output_embedding(self.model)
        with align_module_device(head):
            weight: Tensor = head.weight
        check_changeable([("the output embedding", weight)])
        return weight

    @property
    def quantised(self) -> str | None:
        """How the weights are quantised, "llm_int8", "nf4", "gptq" …; ``None`` if they are not."""
        config = getattr(self.model.config, "quantization_config", None)
        if config is None:
            return None
        return str(
            config.quantization_method()
            if hasattr(config, "quantization_method")
            else config.quant_method
        )

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the model type and, of every weight, name, type, shape, the sum of its bits
        and 1024 samples.

        Weights of half precision count as they are in float32, so that they may be read as either.
        Weights that :meth:`load` has quantised count as they were before, looked up one by one
        where they are stored: an editor trained on the full model opens on the quantised one. Of
        PEFT's adapters those count that are switched on. The settings in the config are left out,
        because a newer transformers may name them differently for the same model. Integers are
        summed, so the device does not matter.
        """
        adapters = adapters_on(self.model)
        own = map(
            checksum, adapter_weights(self.model)
        )  # others may train them, unlike the model's weights
        state = adapters, *own
        if state not in self.fingerprints:
            self.fingerprints[state] = self.taken_fingerprint(adapters)
        return self.fingerprints[state]

    def parameter(self, name: str) -> nn.Parameter:
        """The model's own parameter of this name, whatever patches have put in its place."""
        with self.unpatched():
            found: nn.Parameter = self.model.get_parameter(name)
        return found

    def known_as(self, fingerprint: object) -> bool:
        """Whether a fingerprint is this model's, or the one that it had when half precision counted
        as it is.
        """
        if fingerprint == self.fingerprint:
            return True
        if self.unquantised is not None:
            return self.unquantised().known_as(fingerprint)
        half = any(weight.dtype in HALF for weight in self.model.parameters())
        return half and fingerprint == self.taken_fingerprint(adapters_on(self.model), HALF)

    def taken_fingerprint(
        self, adapters: tuple[Any, ...], as_they_are: Sequence[torch.dtype] = ()
    ) -> str:
        """The fingerprint, with these adapters on and weights of these types not as they are in
        float32.
        """
        if self.unquantised is not None:
            return self.unquantised().fingerprint
        digest = sha256(str(self.model.config.model_type).encode())
        for name, tensor in sorted(acting(self.model, self.model.state_dict()).items()):
            value = load_offloaded_parameter(self.model, name) if tensor.is_meta else tensor
            value = (
                value.float() if value.dtype in HALF and value.dtype not in as_they_are else value
            )
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(checksum(value))
        digest.update(repr(adapters).encode() if adapters else b"")
        return digest.hexdigest()

    def encode(
        self, queries: Sequence[Query], *, padding_side: PaddingSide = "right", eos: bool = False
    ) -> Batch:
        """The queries as one batch (:meth:`Encoder.encode`). Within :meth:`patched` the patch
        rewrites them first.
        """
        queries, fired = checked(queries), dict[Patch, list[list[Firing]]]()
        for patch in self.patches:
            if overrides(patch, "rewrite"):
                told = [patch.rewrite(query) for query in queries]
                queries, fired[patch] = (
                    [query for query, _ in told],
                    [firings for _, firings in told],
                )
        batch = replace(super().encode(queries, padding_side=padding_side, eos=eos), fired=fired)
        ids: Any = batch.inputs["input_ids"]
        ids.told_by, ids.spans = tuple(fired), batch.spans  # for raw calls
        return batch

    def logits(self, batch: Batch) -> Tensor:
        """The logits (B, T, V) of every position. Differentiable with respect to what a patch
        brings in.

        Raises :class:`BadInput` for anything but a batch.
        """
        if not isinstance(batch, Batch):
            raise BadInput(
                f"logits are those of a batch, not of {type(batch).__name__}: make one with `encode`"
            )
        with self.prefixed(batch) as (longer, places), self.announce(longer):
            logits: Tensor = self.model(**longer.inputs, use_cache=False).logits.to(self.device)
        return (
            logits
            if places is None
            else logits[torch.arange(len(batch), device=places.device)[:, None], places]
        )

    @contextmanager
    def prefixed(self, batch: Batch) -> Iterator[tuple[Batch, Tensor | None]]:
        """The batch with what a patch puts before the text of its rows, and where (B, T) its own
        tokens are in it.

        The batch itself and ``None`` where none puts anything. Raises :class:`UnsupportedModel`
        where two patches do, and as :meth:`check_prefix`.
        """
        places: Tensor | None = None
        with ExitStack() as undo:
            for patch in self.patches:
                if overrides(patch, "prefix"):
                    self.check_prefix()
                    undo.enter_context(
                        self.vision_once()
                    )  # for the patch, which may look at the batch, and the model
                    if prefix := patch.prefix(batch):
                        if batch.prefix:
                            raise UnsupportedModel(
                                "two patches put vectors before one text: take one of them off"
                            )
                        batch, places = batch.prefixed(prefix, self.pad_token_id)
            yield batch, places

    @torch.no_grad()
    def hidden(self, batch: Batch, layer: int) -> HiddenBatch:
        """What decoder layer ``layer`` (counted from 0) puts out; no layer above it runs.

        Layer -1 stands for what goes into the first. ``batch.position_ids`` is filled in on the
        way. Raises :class:`BadInput` for a layer that does not exist.
        """
        if layer != EMBEDDINGS:
            self.check_layer(layer)
        caught: list[Tensor] = []
        taken: dict[int, Inputs] = {}

        def starts(decoder: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            kwargs = self.before_decoder(kwargs)
            positions = kwargs.get("position_ids")
            if positions is not None:  # which some models give once for all rows
                positions = positions.expand(*positions.shape[:-2], len(batch), -1)
            batch.position_ids, batch.extra = positions, self.extra(batch, kwargs)
            if layer == EMBEDDINGS:
                call = Call.read(decoder, args, kwargs)
                caught.append(
                    self.embedding(call.newest) if call.embedded is None else call.embedded
                )
                raise LayerReached

        def takes(
            number: int, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
        ) -> None:
            taken[number] = args, kwargs

        def reached(_module: nn.Module, _args: tuple[Any, ...], output: Any) -> None:
            caught.append(main_output(output))
            raise LayerReached

        with ExitStack() as undo:
            undo.enter_context(self.announce(batch))
            # First in line, before any patch.
            first = self.decoder.register_forward_pre_hook(
                mine(starts), with_kwargs=True, prepend=True
            )
            undo.callback(first.remove)
            for number in self.watched(layer):
                hook = mine(partial(takes, number))
                undo.callback(
                    self.layers[number].register_forward_pre_hook(hook, with_kwargs=True).remove
                )
            if layer != EMBEDDINGS:
                undo.callback(self.layers[layer].register_forward_hook(mine(reached)).remove)
            with suppress(LayerReached):
                self.model(**batch.inputs, use_cache=False)
        extra = batch.extra | self.carry(layer, taken)
        inputs = (
            batch.inputs["attention_mask"],
            batch.labels,
            batch.spans,
            batch.position_ids,
            extra,
        )
        return HiddenBatch(caught[0], *inputs).to(self.device)

    def watched(self, layer: int) -> Sequence[int]:  # noqa: ARG002
        """The layers up to ``layer`` of which :meth:`carry` has to see what they take in."""
        return ()

    def carry(self, layer: int, taken: Mapping[int, Inputs]) -> dict[str, Tensor]:  # noqa: ARG002
        """What layers above ``layer`` read of those up to it, besides what it puts out: by name (B,
        T, …).

        ``taken`` holds what the layers of :meth:`watched` took in. The names begin with
        :data:`CARRIED`.
        """
        return {}

    def stand_in(self, number: int, hidden: HiddenBatch, given: dict[str, Any]) -> Tensor:  # noqa: ARG002
        """What layer ``number`` puts out in place of running.

        ``hidden`` is what the last of the layers that do not run has put out, ``given`` the
        arguments by name that this one is called with.
        """
        return hidden.hidden

    def resume(self, layer: int, hidden: HiddenBatch, positions: Tensor | None = None) -> Tensor:
        """The logits (B, T, V) that follow from ``hidden``, the output of decoder layer ``layer``,
        -1 for the embedded.

        Neither that layer nor one below it runs, nor the vision tower; of a patch only what acts
        above applies. ``positions``, boolean (B, T), asks for the logits (N, V) at these positions
        alone, row by row. Differentiable with respect to ``hidden.hidden``. Layer -1 stands for the
        embeddings. Raises :class:`BadInput` for a layer that does not exist.
        """
        if layer != EMBEDDINGS:
            self.check_layer(layer)
        batch = Batch(
            {"attention_mask": hidden.attention_mask},
            hidden.labels,
            hidden.spans,
            hidden.position_ids,
        )
        shape = (*hidden.attention_mask.shape, self.embedding.weight.shape[-1])
        unread = hidden.attention_mask.new_zeros(
            shape, dtype=hidden.hidden.dtype
        )  # by any layer that runs
        embedded = hidden.hidden if layer == EMBEDDINGS else unread
        with self.announce(batch, skipped=layer), self.bypassed(layer, hidden):
            states = self.decode(embedded, hidden)
            if positions is None:
                return self.predict(states)
            positions = positions.to(states.device)
            if any(overrides(patch, "merge") for patch in self.patches):  # which needs whole rows
                return self.predict(states)[positions.to(self.device)]
            return self.predict(states[positions])

    def extra(self, batch: Batch, kwargs: dict[str, Any]) -> dict[str, Tensor]:  # noqa: ARG002
        """What the decoder was given of every token besides mask and positions, by name (B, T, …)."""
        return {}

    def decode(self, embedded: Tensor, hidden: HiddenBatch) -> Tensor:
        """The text decoder's last states (B, T, D) from the embeddings (B, T, D), with the rest as
        in ``hidden``.
        """
        return states_of(self.decoder, embedded, hidden, uncarried(hidden))

    def image_states(self, image: Any) -> Tensor:
        """What the text decoder is given for an image or several, (n, D), one row a token; no patch
        rewrites anything.

        Raises :class:`BadInput` for an image that cannot be read.
        """
        batch = super().encode([Query("?", image=image, about=None)])
        return self.hidden(batch, EMBEDDINGS).hidden[0, slice(*batch.spans[0].image)]

    def predict(self, states: Tensor) -> Tensor:
        """Logits (…, V) of the text decoder's last states (…, D), scaled as the config says."""
        return scaled(output_embedding(self.model)(states), self.model.config.get_text_config()).to(
            self.device
        )

    def generate(
        self, queries: Sequence[Query], *, max_new_tokens: int = 16, batch_size: int = 32
    ) -> list[str]:
        """The greedy answer to each query, stripped of white space; targets are ignored."""
        found = self.answers(queries, max_new_tokens=max_new_tokens, batch_size=batch_size)
        return [reply.text for reply in found]

    @torch.no_grad()
    def answers(
        self, queries: Sequence[Query], *, max_new_tokens: int = 16, batch_size: int = 32
    ) -> list[Reply]:
        """The greedy answer to each query, and which edits took part in it; targets are ignored."""
        queries, replies = checked(queries), list[Reply]()
        for start in range(0, len(queries), batch_size):
            asked = [replace(query, target="") for query in queries[start : start + batch_size]]
            options = greedy(max_new_tokens, self.stops, self.pad_token_id)
            with (
                self.prefixed(self.encode(asked, padding_side="left")) as (batch, _),
                self.announce(batch),
            ):
                self.check_room(batch, max_new_tokens)
                tokens = self.model.generate(**batch.inputs, **options)
            new = tokens[:, batch.labels.shape[1] :]
            texts = self.tokenizer.batch_decode(
                new, skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
            fired = [batch.fired_by(patch) for patch in self.patches[-1:]] or [[[] for _ in asked]]
            replies += [
                Reply(text.strip(), tuple(by)) for text, by in zip(texts, fired[0], strict=True)
            ]
        return replies

    @property
    def patches(self) -> list[Patch]:
        """The patches that act in this context, the innermost last."""
        return [scope.patch for scope in self.attachment.here.scopes or ()]

    @property
    def skipped(self) -> int:
        """The last layer that does not run in the call under way."""
        return self.attachment.here.skipped

    @contextmanager
    def patched(self, patch: Patch) -> Iterator["VLM"]:
        """Within it the model answers with the patch: every verb of this class, and the raw Hugging
        Face model too.

        This holds for the thread or task that enters it; others are asked as if it were not there,
        but for raw calls from threads that have entered none themselves. A patch that acts on
        questions or puts vectors before them refuses raw calls of what was not encoded within.
        Leaving it, also by an exception, restores the parameters bit for bit and leaves no hook.
        May be nested. Raises :class:`BadInput` for anything but a patch.
        """
        if not isinstance(patch, Patch):
            raise BadInput(
                f"a model is patched with a patch, not with {type(patch).__name__}: an editor makes one"
            )
        with self.attachment.patched(patch):
            yield self

    @contextmanager
    def unpatched(self) -> Iterator["VLM"]:
        """Within it the model answers as it is, whatever this or another thread has put on it."""
        with self.attachment.holding(scopes=()):
            yield self

    @contextmanager
    def announce(self, batch: Batch, skipped: int = -1) -> Iterator[None]:
        """Tell the patches which batch is under way, and which layer is the last that does not run."""
        with self.attachment.holding(announced=batch, skipped=skipped), uncompiled():
            yield

    @contextmanager
    def bypassed(self, layer: int, hidden: HiddenBatch) -> Iterator[None]:
        """Have the decoder's layers compute nothing up to ``layer``, which puts out ``hidden``."""

        def instead(number: int, _own: Callable[..., Any]) -> Callable[..., Any]:
            def put_out(*_args: Any, **kwargs: Any) -> Any:
                states = self.stand_in(number, hidden, kwargs)
                return (
                    (states, *[None] * (self.layer_outputs - 1)) if self.layer_outputs else states
                )

            return put_out

        with ExitStack() as undo:
            for number, module in enumerate(self.layers[: layer + 1]):
                undo.enter_context(detour(module, partial(instead, number)))
            yield

    @contextmanager
    def vision_once(self, found: MutableMapping[str, Any] | None = None) -> Iterator[None]:
        """Within it the vision tower runs once for the same pictures, and then puts out again what
        it put out for them.

        ``found`` brings what it put out earlier, by :func:`digest` of what it took in, and keeps
        what is new. A family whose tower holds the connector, too, has it run every time.
        """
        if not self.tower_path:
            yield
            return
        known: MutableMapping[str, Any] = {} if found is None else found

        def once(run: Callable[..., Any]) -> Callable[..., Any]:
            def looked_up(*args: Any, **kwargs: Any) -> Any:
                key = digest(
                    args, {name: value for name, value in kwargs.items() if name not in UNSEEN}
                )
                if key not in known:
                    known[key] = run(*args, **kwargs)
                return anew(known[key])

            return looked_up

        with detour(self.model.get_submodule(self.tower_path), once):
            yield

    def check_prefix(self) -> None:
        """Raise :class:`UnsupportedModel` where no vectors can stand before a text, because layers
        read its tokens.
        """

    def check_layer(self, layer: int) -> None:
        """Raise :class:`BadInput` unless the text decoder has this layer."""
        if not isinstance(layer, Integral) or not 0 <= layer < self.num_layers:
            raise BadInput(
                f"there is no layer {layer}: the text decoder has layers 0 to {self.num_layers - 1}"
            )


def stepped(
    verb: Callable[[dict[str, Any]], dict[str, Any]],
    module: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    """A forward pre-hook: the call goes on as ``verb`` says."""
    return (), verb(arguments(module.forward, args, kwargs) if args else kwargs)


def check_dtype(dtype: object) -> None:
    """Raise :class:`BadInput` for what is no type of weights, or one of whole numbers."""
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if dtype is not None and not (isinstance(found, torch.dtype) and found.is_floating_point):
        raise BadInput(
            f"there are no weights of dtype {dtype!r}: choose torch.bfloat16, float16 or float32"
        )


def check_devices(device_map: object, max_memory: object) -> None:
    """Raise :class:`BadInput` where layers are to go to devices that are not here, or memory is
    limited of none.
    """
    if max_memory is not None and not (isinstance(max_memory, Mapping) and device_map is not None):
        raise BadInput(
            "max_memory says how much each device may take, as in {'cpu': '8GiB'}: give a device_map, too"
        )
    mapped = device_map.values() if isinstance(device_map, Mapping) else [device_map]
    for device in (*mapped, *(max_memory or ())):
        if device in (*SPREAD, "disk", None):
            continue
        try:
            found = torch.device(device)
        except (RuntimeError, TypeError, ValueError):
            raise BadInput(
                f"there is no device {device!r}: choose {', '.join(SPREAD)}, cpu, cuda or disk"
            ) from None
        if found.type == "cuda" and not torch.cuda.is_available():
            raise BadInput(f"there is no CUDA device here for {device!r}: say cpu, or leave it out")


@contextmanager
def reading(path: str | Path) -> Iterator[None]:
    """Turn what goes wrong in reading the checkpoint at ``path`` into one line that says so."""
    try:
        yield
    except LiveEditError:
        raise
    except Exception as error:  # a file may be broken in any way
        if shortage(error):
            raise
        raise BadInput(
            f"cannot read the model {path} ({one_line(error)}): get all of its files again"
        ) from error


def one_line(error: Exception) -> str:
    """The first line of what an error says, or its name where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".:")


@contextmanager
def quiet() -> Iterator[None]:
    """Within it transformers does not report on a checkpoint line by line."""
    before = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers.logging.set_verbosity(before)


def check_described(config: Mapping[str, Any], path: str | Path) -> None:
    """Raise :class:`BadInput` for a config without the text decoder: transformers would start one
    of 7 billion.
    """
    kind = transformers.CONFIG_MAPPING[config["model_type"]]
    if "text_config" in kind.sub_configs and not (
        {"text_config", "hidden_size"} & {*filter(config.get, config)}
    ):
        raise BadInput(
            f"the config.json of {path} does not describe its text decoder: get all of the model's files"
        )


def check_complete(report: Mapping[str, Any], path: str | Path) -> None:
    """Raise :class:`BadInput` for weights that a checkpoint lacks or has in another shape than its
    config says.
    """
    if lacking := sorted(report["missing_keys"]):
        raise BadInput(f"the checkpoint {path} lacks {lacking[0]}: get all of its files")
    for name, theirs, ours in sorted(report["mismatched_keys"]):
        shapes = f"{tuple(theirs)}, where its config says {tuple(ours)}"
        raise BadInput(
            f"the checkpoint {path} has {name} of shape {shapes}: get all of its files from one place"
        )


def uncarried(hidden: HiddenBatch) -> dict[str, Tensor]:
    """What the decoder is given of every token besides mask and positions."""
    return {name: value for name, value in hidden.extra.items() if not name.startswith(CARRIED)}


def states_of(
    decoder: Any, embedded: Tensor, hidden: HiddenBatch, extra: Mapping[str, Any]
) -> Tensor:
    """The last states (B, T, D) that a decoder, or a model around it, makes of embeddings and what
    goes with them.
    """
    states: Tensor = decoder(
        inputs_embeds=embedded,
        attention_mask=hidden.attention_mask,
        position_ids=hidden.position_ids,
        use_cache=False,
        **{CACHE: None},
        **extra,
    )[0]
    return states


def scaled(logits: Tensor, config: Any) -> Tensor:
    """What some text decoders do to the logits after the output embedding, by the names that their
    configs share.
    """
    for name in ("logit_scale", "output_multiplier"):
        if factor := getattr(config, name, None):
            logits = logits * factor
    if scale := getattr(config, "logits_scaling", None):
        multiplies = (
            getattr(config, "model_type", None) == "hyperclovax"
        )  # alone; Granite and all others divide
        logits = logits * scale if multiplies else logits / scale
    if cap := getattr(config, "final_logit_softcapping", None):
        logits = cap * torch.tanh(logits / cap)
    return logits


def anew(output: Any) -> Any:
    """What a vision tower put out, for a model that writes into it what it makes of it, and scales
    states in place.
    """
    if not isinstance(output, dict):
        return output
    made = copy(output)
    for name, value in output.items():
        if isinstance(value, Tensor):
            made[name] = value.clone()
    return made


def release(model: nn.Module) -> None:
    """Take off what transformers puts on a model when it is called, till then.

    Its hooks cannot be pickled; a call that it has compiled stays that of this model in a copy.
    """
    for module in model.modules():
        for name in (HOOKED, "_compiled_call", "_last_compile_config"):
            vars(module).pop(name, None)
        for number, hook in list(module._forward_hooks.items()):
            if hook.__module__ == CAPTURING:
                del module._forward_hooks[number]


def checksum(tensor: Tensor) -> bytes:
    """The sum of a tensor's bits, read as integers, and about 1024 of its elements, evenly spread."""
    integers = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    bits = tensor.detach().reshape(-1).contiguous().view(integers[tensor.element_size()])
    samples: bytes = bits[:: max(1, len(bits) // 1024)].cpu().numpy().tobytes()
    return samples + str(int(bits.sum(dtype=torch.int64))).encode()


def digest(args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    """SHA-256 over the arguments of a call: the bits of tensors, of anything else what it prints."""
    sha = sha256()
    for name, value in [*enumerate(args), *sorted(kwargs.items())]:
        if isinstance(value, Tensor):
            sha.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            sha.update(value.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy().data)
        else:
            sha.update(f"{name} {value!r}".encode())
    return sha.hexdigest()
