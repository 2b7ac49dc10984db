"""Generic family: models without a family of their own, read by the conventions of Hugging Face.

The text decoder is given the prompt with the image in place of its placeholder. Facts about a model
that other families declare are determined here on loading, in this order:

1. the text decoder and its layers, as ``get_decoder`` and the config say;
2. the vision tower, as ``get_encoder`` says, and the connector, by its known names;
3. the placeholder of an image, as the processor says, and the marks that the template adds;
4. the form of a layer's output and of the logits, from one small forward pass.

Then the checks :data:`STRUCTURE` run. A model that does not follow the conventions, or that fails a
check, is refused with the reason.
"""

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import cached_property, partial, update_wrapper
from typing import Any

import torch
from torch import Tensor, nn

from liveedit.errors import UnsupportedModel, shortage
from liveedit.models import streams
from liveedit.models.batch import Batch, HiddenBatch, Spans, common_prefix
from liveedit.models.conformance.probe import STRUCTURE, probe
from liveedit.models.encoder import ImageInputs, PromptFormat, filled, nested
from liveedit.models.patch import main_output, output_embedding, side_by_side
from liveedit.models.processor import load_processor
from liveedit.models.vlm import VLM, states_of, uncarried
from liveedit.models.wrappers import uncompiled

__all__ = ["Generic"]

CROSS_ATTENTION = ("cross_attn", "crossattention")
"""Parts of the names of cross-attention modules: BLIP, IDEFICS, Mllama."""

CONNECTORS = (
    "multi_modal_projector",  # LLaVA and most models written since
    "mm_projector",  # Kimi K2.5
    "connector",  # Idefics 2 and 3, SmolVLM, Granite Docling
    "projector",  # PaddleOCR-VL, HyperCLOVA X Vision 2, VideoLLaMA 3, Cosmos 3 Edge
    "aligner",  # DeepSeek-VL, Janus
    "merger",  # Qwen2-VL to Qwen4, GLM-4V to GLM-5, MiniCPM-V, EXAONE 4.5, Cosmos 3 Omni
    "embed_vision",  # Gemma 3n and 4
    "adapter",  # no released model that this package reads
    "vision_projection",  # LightOnOCR, Muse
    "resampler_model",  # Ernie 4.5 VL
    "visual_embeddings_table",  # Ovis 2
    "vision_embed_tokens",  # Fuyu
    "patch_merger",  # HunyuanVL
)
"""Known attribute names of the vision–language connector; the first one found is used."""

EXPERT_TYPES = "moe_mm_token_type_ids"
"""Token types of Ernie 4.5 VL: 1 for tokens that its experts for images read.

Those are the image tokens and the marks around them.
"""
TYPES = (
    "mm_token_type_ids",  # Qwen, GLM, Gemma 4, Ernie 4.5 VL, Molmo 2
    "token_type_ids",  # Gemma 3 and 3n, PaliGemma
    EXPERT_TYPES,  # Ernie 4.5 VL
)
"""Known argument names of token types (B, T): 1 for image tokens, 0 for text."""

IMAGE_MASK = "visual_pos_masks"
IMAGE_LEVELS = "deepstack_visual_embeds"
"""Arguments of decoders with DeepStack (Meng et al., NeurIPS 2024), such as Qwen3-VL's.

Their lowest layers add features of the image to the hidden states. :data:`IMAGE_LEVELS` is a list
with the features (n, D) of all image tokens for each of these layers, and :data:`IMAGE_MASK`
(B, T) marks the image tokens. In :attr:`HiddenBatch.extra` the features are spread over the tokens,
(B, T, levels, D), with 0 for text.
"""
ALWAYS_KEPT = ("inputs_embeds", "attention_mask", "position_ids", "input_ids", "cache_position")
"""Arguments of a decoder that :class:`HiddenBatch` needs no ``extra`` for."""


class Generic(VLM):
    """A model of any type that follows the conventions of Hugging Face.

    Raises :class:`UnsupportedModel` for a model that does not, with the fact that was not found.
    """

    def __init__(
        self, model: Any, processor: Any, prompt_format: PromptFormat | None = None
    ) -> None:
        super().__init__(model, processor, prompt_format)
        self.check_architecture()
        streams.join(self.decoder, self.streams)
        self.tower_path, self.connector_path = self.find_vision()  # type: ignore[misc]
        self.placeholder = self.find_placeholder()
        self.mark = self.find_mark()
        self.image_mark = self.marks(1)  # type: ignore[misc]
        self.unscaled_logits = False
        self.list_inputs: set[str] = set()
        accepted = self.accepted_arguments()
        self.type_names = [name for name in TYPES if name in accepted]
        self.check_structure()

    @classmethod
    def load_processor(cls, source: str) -> Any:
        """Load the processor of a checkpoint without its parts for video and sound."""
        return load_processor(source)

    def refuse(self, reason: str) -> UnsupportedModel:
        """Return the error for a model that does not follow the conventions."""
        return UnsupportedModel(
            f"models of type '{self.model.config.model_type}' cannot be edited: {reason}"
        )

    # The decoder and its layers

    def check_architecture(self) -> None:
        """Raise :class:`UnsupportedModel` unless the decoder is one stack of layers.

        Each layer must read nothing but the output of the one below it.
        """
        if self.model.config.is_encoder_decoder:
            raise self.refuse("its decoder attends to the output of an encoder in every layer")
        names = [name for name, _ in self.model.get_decoder().named_modules()]
        for part in CROSS_ATTENTION:
            if any(part in name for name in names):
                raise self.refuse("its layers read the image again by cross attention")
        text = self.model.config.get_text_config()
        sources = getattr(text, "kv_source_layers", None) or []
        if len(set(sources)) < len(sources):
            raise self.refuse("its upper layers take keys and values from lower ones")
        if "shared" in (getattr(text, "indexer_types", None) or []):
            raise self.refuse("its upper layers attend to the tokens that lower ones have chosen")
        if getattr(text, "loop_num_passes", 1) > 1:
            raise self.refuse(
                "its layers run several times, each time on the output of the previous round"
            )

    @cached_property
    def decoder_path(self) -> str:  # type: ignore[override]  # class data where it is known
        """Path of the text decoder, the module that owns ``layers``."""
        return self.find_decoder()

    def find_decoder(self) -> str:
        """Return the path of the module whose ``layers`` are as many as the config says."""
        count = self.model.config.get_text_config().num_hidden_layers
        outer = self.path_of(self.model.get_decoder())
        for name, module in self.model.get_submodule(outer).named_modules():
            layers = getattr(module, "layers", None)
            if isinstance(layers, nn.ModuleList) and len(layers) == count:
                return ".".join(part for part in (outer, name) if part)
        raise self.refuse(f"no list of {count} layers was found in its text decoder")

    @cached_property
    def paths(self) -> dict[int, str]:
        """Path of every module, by the module's ``id``."""
        return {id(module): name for name, module in self.model.named_modules()}

    def path_of(self, module: nn.Module) -> str:
        """Return the path of a module of the model; empty for one that is not part of it."""
        return self.paths.get(id(module), "")

    @property
    def streams(self) -> int:
        """Number of residual streams of every token."""
        return streams.count(self.model.config.get_text_config())

    @property
    def state_size(self) -> int:
        """Width of all residual streams of a token together."""
        return self.streams * self.hidden_size

    # The vision tower and the connector

    def find_vision(self) -> tuple[str, str]:
        """Return the paths of the vision tower and of the connector; empty for one not found.

        Where the connector is part of the tower, the tower's path is empty.
        """
        tower = self.path_of(self.model.get_encoder(modality="image"))
        connectors = self.find_connectors()
        outside = [path for path in connectors if not tower or not path.startswith(f"{tower}.")]
        if outside:
            return tower, outside[0]
        if connectors:
            return "", connectors[0]
        return tower, ""

    def find_connectors(self) -> list[str]:
        """Return the paths of all modules with a name of :data:`CONNECTORS`, in its order.

        Modules of the text decoder and of an encoder of sound are left out.
        """
        audio = self.path_of(self.model.get_encoder(modality="audio")) or self.decoder_path
        elsewhere = (self.decoder_path, audio)
        found = []
        for known in CONNECTORS:
            for path in self.paths.values():
                name = path.rpartition(".")[2]
                if name == known and not path.startswith(elsewhere):
                    found.append(path)
        return found

    # The image in the text

    def find_placeholder(self) -> str:
        """Return the text of one image before the processor writes the image's tokens there."""
        token = getattr(self.processor, "image_token", None)
        if not isinstance(token, str):
            raise self.refuse("its processor names no image token")
        if getattr(self.model.config, "image_token_id", None) is None:
            raise self.refuse("its configuration has no image_token_id")
        return token

    def find_mark(self) -> str:
        """Return the placeholder, with marks around it if the processor wants them."""
        return self.placeholder

    def marks(self, count: int) -> str:
        """Return the text for ``count`` images: the chat template's, else a line for each image."""
        shown = self.marks_of_template(count)
        return f"{self.mark}\n" * count if shown is None else shown

    def marks_of_template(self, count: int) -> str | None:
        """Return the text that the chat template writes for ``count`` images.

        It is the difference between a message with them and one without. ``None`` where there is no
        template or it does not write one placeholder for each image.
        """
        template = self.template
        if template is None or not count or not template.shows_images:
            return None
        texts = []
        for number in (count, 0):
            content = template.form("?", self.mark, number)
            message = {"role": "user", "content": content}
            texts.append(template.apply([message], ask=False).encode())
        with_images, without = texts
        start = common_prefix(with_images, without)
        shown = with_images[start : start + len(with_images) - len(without)].decode()
        return shown if shown.count(self.placeholder) == count else None

    # The outputs of layers and of the model

    def accepted_arguments(self) -> set[str]:
        """Return the names of arguments that both ``forward`` and ``generate`` take."""
        generates = getattr(self.model, "prepare_inputs_for_generation", self.model.forward)
        outer = argument_names(self.model.forward)
        inner = argument_names(self.model.base_model.forward)
        return (inner | outer) & (outer | argument_names(generates))

    def check_structure(self) -> None:
        """Raise :class:`UnsupportedModel` if the model does not do what editors rely on.

        A model without weights (:meth:`VLM.outline`) is not run.
        """
        if self.device.type == "meta":
            return
        try:
            self.unscaled_logits, self.layer_outputs = self.find_outputs()
            probe(self, STRUCTURE)
        except (
            AssertionError,
            AttributeError,
            IndexError,
            KeyError,
            TypeError,
            ValueError,
            RuntimeError,
        ) as error:
            if shortage(error):
                raise
            reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".:")
            raise self.refuse(reason) from error

    def find_outputs(self) -> tuple[bool, int]:
        """Return whether the output embedding gives the logits unscaled, and ``layer_outputs``.

        Found in one forward pass over two tokens. Raises :class:`ValueError` if a layer's output
        does not have :attr:`state_size` numbers for each token.
        """
        outputs: list[Any] = []
        ids = torch.tensor([[self.tokenizer.eos_token_id] * 2], device=self.device)
        with torch.no_grad(), uncompiled(), ExitStack() as undo:
            for module in (self.layers[0], output_embedding(self.model)):
                hook = module.register_forward_hook(lambda *args: outputs.append(args[2]))
                undo.callback(hook.remove)
            mask = torch.ones_like(ids)
            logits = self.model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        layer, head = outputs
        sizes = [*side_by_side(main_output(layer)).shape[2:]]
        if sizes != [self.state_size]:
            raise ValueError(
                f"its layers return states of shape {sizes} for each token, "
                "where editors read one vector"
            )
        return torch.equal(head, logits), len(layer) if isinstance(layer, tuple) else 0

    # Encoding, by the model's own processor

    def process_images(self, images: Sequence[Any]) -> ImageInputs:
        """Return the model's inputs for the images of a query, and the text written for each.

        Raises :class:`UnsupportedModel` if the processor does not report that text, or if one of
        its outputs is not a tensor.
        """
        made = self.processor(
            images=nested(images),
            text=[self.mark * len(images)],
            return_tensors="pt",
            return_text_replacement_offsets=True,
        )
        replaced = made.pop("text_replacement_offsets", None)
        if not replaced or len(replaced[0]) != len(images):
            raise self.refuse("its processor does not report the text that it writes for an image")
        inputs = {}
        for name, value in made.items():
            if name in ("input_ids", "attention_mask", "labels", *TYPES):
                continue
            inputs[name] = self.as_tensor(name, value)
            if not isinstance(inputs[name], Tensor):
                kind = type(inputs[name]).__name__
                raise self.refuse(f"its processor gives {name} as {kind}, not as a tensor")
        return inputs, [each["replacement"] for each in replaced[0]]

    def as_tensor(self, name: str, value: Any) -> Any:
        """Return a list of whole numbers as a tensor, as batches hold it; other values as they are.

        The model is then made to get a list again under this name.
        """
        if not isinstance(value, list):
            return value
        if not all(isinstance(number, int) for number in flat(value)):
            return value
        if not self.list_inputs:
            inner = self.model.base_model
            own = inner.get_image_features
            wrapped = partial(call_with_lists, own, self.list_inputs)
            inner.get_image_features = update_wrapper(wrapped, own)
        self.list_inputs.add(name)
        return torch.tensor(value)

    def tokens_of(self, counted: Any) -> int:
        """Return the number of image tokens in the text ``counted`` that represents an image."""
        ids = self.tokenizer([counted], add_special_tokens=False, return_tensors="pt")["input_ids"]
        return int(self.image_tokens(ids).sum())

    def expand(self, text: str, expansions: Sequence[str]) -> str:
        """Return the text with the i-th placeholder replaced by the i-th of ``expansions``.

        Raises as :meth:`check_count`.
        """
        first, *rest = text.split(self.placeholder)
        self.check_count(len(rest), len(expansions))
        pairs = zip(expansions, rest, strict=True)
        return first + "".join(f"{image}{words}" for image, words in pairs)

    def join(self, parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Return the tensors of all images, concatenated along their first axis.

        Tensors of other shapes are padded with zeros to the largest, as processors do. An input may
        be absent for some images, such as the tiles of one that is not cut.
        """
        names = dict[str, None]()
        for part in parts:
            names |= dict.fromkeys(part)
        return {name: stacked([part[name] for part in parts if name in part]) for name in names}

    def tokenize(
        self, queries: Any, counts: list[list[Any]], eos: bool
    ) -> tuple[list[list[int]], list[int]]:
        """Return the token ids of each row, and the number of answer tokens at its end.

        ``counts`` hold, for each query, the texts that represent its images.
        """
        pairs = zip(queries, counts, strict=True)
        prompts = [self.expand(self.render(query), texts) for query, texts in pairs]
        targets = [self.expand(query.target, []) for query in queries]
        rows, answers = self.join_texts(prompts, targets, eos)
        return filled(rows), answers

    @property
    def adds_special(self) -> bool:
        """Whether the processor has the tokenizer add special tokens."""
        return bool(getattr(self.processor, "text_kwargs", {}).get("add_special_tokens", True))

    def token_kinds(self, input_ids: Tensor, spans: list[Spans]) -> dict[str, Tensor]:  # noqa: ARG002
        """Return the token types (B, T) by the model's argument name: 1 for image tokens."""
        if not self.type_names:
            return {}
        ids = input_ids.tolist()
        found = {self.type_names[0]: torch.tensor(self.processor.create_mm_token_type_ids(ids))}
        if EXPERT_TYPES in self.type_names:
            found[EXPERT_TYPES] = torch.tensor(self.processor.create_moe_mm_token_type_ids(ids))
        return found

    # Resuming from hidden states

    def extra(self, batch: Batch, kwargs: dict[str, Any]) -> dict[str, Tensor]:
        """Return the decoder's further arguments for every token, (B, T, …), by argument name.

        Mask, positions and embeddings are left out. Token types are included where the model made
        a mask from them, and so are DeepStack's features (B, T, levels, D).
        """
        shape = batch.labels.shape
        kept = {}
        for name, value in kwargs.items():
            if isinstance(value, Tensor) and value.shape[:2] == shape and name not in ALWAYS_KEPT:
                kept[name] = value
        mask = kwargs.get(IMAGE_MASK)
        levels = kwargs.get(IMAGE_LEVELS)
        if mask is not None and levels:
            kept.pop(IMAGE_MASK, None)
            kept[IMAGE_LEVELS] = torch.stack([spread(level, mask, shape) for level in levels], 2)
        if made_by_model(kwargs.get("attention_mask")):
            kept |= {name: batch.inputs[name] for name in self.type_names[:1]}
        return kept

    def decode(self, embedded: Tensor, hidden: HiddenBatch) -> Tensor:
        """Return the decoder's last states (B, T, D), given also what :meth:`extra` has kept.

        If token types are among them, the model around the decoder runs, because it makes the mask.
        """
        extra: dict[str, Any] = dict(uncarried(hidden))
        levels = extra.get(IMAGE_LEVELS)
        if levels is not None:  # every token counts as the image's: those of text add 0
            extra[IMAGE_MASK] = torch.ones_like(hidden.labels, dtype=torch.bool)
            extra[IMAGE_LEVELS] = [level.flatten(0, 1) for level in levels.unbind(2)]
        model_masks = any(name in extra for name in self.type_names)
        runs = self.model.base_model if model_masks else self.decoder
        return states_of(runs, embedded, hidden, extra)

    def predict(self, states: Tensor) -> Tensor:
        """Return the logits (…, V) for states (…, D), without rows that pad the output embedding.

        They are scaled as the config says, unless the model was found to leave them unscaled.
        """
        config = self.model.config.get_text_config()
        if width := getattr(config, "logits_mup_width_multiplier", None):  # Inkling
            states = states / width
        if self.unscaled_logits:
            logits: Tensor = output_embedding(self.model)(states).to(self.device)
        else:
            logits = super().predict(states)
        return logits[..., : getattr(config, "unpadded_vocab_size", None)]  # Inkling 2


def argument_names(function: Callable[..., Any]) -> set[str]:
    """Return the names of a function's arguments."""
    return set(inspect.signature(function).parameters)


def call_with_lists(
    function: Callable[..., Any], names: set[str], *args: Any, **kwargs: Any
) -> Any:
    """Call ``function`` with lists of numbers in place of tensors for the arguments ``names``."""
    bound = inspect.signature(function).bind(*args, **kwargs)
    for name in names:
        value = bound.arguments.get(name)
        if isinstance(value, Tensor):
            bound.arguments[name] = value.tolist()
    return function(*bound.args, **bound.kwargs)


def flat(values: list[Any]) -> Iterator[Any]:
    """Yield the elements of a list, and those of lists within it."""
    for value in values:
        yield from flat(value) if isinstance(value, list) else [value]


def stacked(values: list[Tensor]) -> Tensor:
    """Concatenate tensors along their first axis, padding the others with zeros to the largest."""
    shapes = [value.shape[1:] for value in values]
    largest = [max(sizes) for sizes in zip(*shapes, strict=True)]
    padded = []
    for value in values:
        padding: list[int] = []
        for size, most in zip(value.shape[:0:-1], largest[::-1], strict=True):
            padding += [0, most - size]
        padded.append(nn.functional.pad(value, padding))
    return torch.cat(padded)


def spread(features: Tensor, mask: Tensor, shape: torch.Size) -> Tensor:
    """Return the features (n, D) of image tokens at their places in (B, T, D), 0 elsewhere.

    ``mask`` (B, T) marks the n image tokens, ``shape`` is (B, T).
    """
    zeros = features.new_zeros(*shape, features.shape[-1])
    return zeros.masked_scatter(mask[..., None], features)


def made_by_model(mask: Any) -> bool:
    """Whether a decoder's attention mask is not the (B, T) of a batch: made by the model around it.

    Such a mask is (B, 1, T, T), or one for each type of attention in a dictionary.
    """
    return isinstance(mask, dict) or (isinstance(mask, Tensor) and mask.ndim > 2)
