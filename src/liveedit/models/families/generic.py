"""A family for models without one of their own, read by the conventions of Hugging Face.

The model says where its decoder, its vision tower and its image tokens are, the processor what
stands for an image in the text. On loading a probe goes through all of it; where the model does
otherwise, it is refused with the reason.
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
from liveedit.models.encoder import Picture, PromptFormat, filled, nested
from liveedit.models.patch import main_output, output_embedding, side_by_side
from liveedit.models.processor import load_processor
from liveedit.models.vlm import VLM, states_of, uncarried
from liveedit.models.wrappers import uncompiled

__all__ = ["Generic"]

CONNECTORS = (
    *(
        "multi_modal_projector",
        "mm_projector",
        "connector",
        "projector",
        "aligner",
        "merger",
        "embed_vision",
    ),
    *(
        "adapter",
        "vision_projection",
        "resampler_model",
        "visual_embeddings_table",
        "vision_embed_tokens",
    ),
    "patch_merger",
)
"""What models call that which stands between vision tower and text decoder."""
EXPERTS = "moe_mm_token_type_ids"
"""Which tokens Ernie 4.5 sends to its experts for images: those of an image, and the marks around
them.
"""
TYPES = ("mm_token_type_ids", "token_type_ids", EXPERTS)
"""What models call the kinds of tokens, 1 for those of an image."""
DEEPSTACK = ("visual_pos_masks", "deepstack_visual_embeds")
"""What decoders with DeepStack (Meng et al., NeurIPS 2024) read of the image above their first
layer.
"""


class Generic(VLM):
    """Finds in the model and its processor what other families know.

    Raises :class:`UnsupportedModel`, with what could not be found or does not hold, for a model it
    cannot read.
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
        self.plain = False
        self.lists: set[str] = set()
        self.kinds = [name for name in TYPES if name in self.accepted()]
        self.check_structure()

    @classmethod
    def load_processor(cls, source: str) -> Any:
        """The processor of a checkpoint, without its parts for video and sound."""
        return load_processor(source)

    @cached_property
    def paths(self) -> dict[int, str]:
        """The path of every module, by its identity."""
        return {id(module): name for name, module in self.model.named_modules()}

    @cached_property
    def decoder_path(self) -> str:  # type: ignore[override]  # of the class where the family is known
        """The module of the text decoder, the one that owns ``layers``."""
        return self.find_decoder()

    @property
    def streams(self) -> int:
        """How many residual streams every token has."""
        return streams.count(self.model.config.get_text_config())

    @property
    def state_size(self) -> int:
        """The width of all streams of a token together."""
        return self.streams * self.hidden_size

    # What is found

    def refuse(self, reason: str) -> UnsupportedModel:
        """The error for a model that does not follow the conventions."""
        return UnsupportedModel(
            f"models of type '{self.model.config.model_type}' cannot be edited: {reason}"
        )

    def check_architecture(self) -> None:
        """Raise :class:`UnsupportedModel` for what is no single stack of layers that reads all of
        its input below.
        """
        if self.model.config.is_encoder_decoder:
            raise self.refuse(
                "text is written by a decoder that reads an encoder again in every layer"
            )
        decoder = self.model.get_decoder()
        if any(
            word in name
            for name, _ in decoder.named_modules()
            for word in ("cross_attn", "crossattention")
        ):
            raise self.refuse("its layers read the image again by cross attention")
        text = self.model.config.get_text_config()
        sources = getattr(text, "kv_source_layers", None) or []
        if len(set(sources)) < len(sources):
            raise self.refuse("its upper layers take keys and values from lower ones")
        if "shared" in (getattr(text, "indexer_types", None) or []):
            raise self.refuse("its upper layers attend to the tokens that lower ones have chosen")
        if getattr(text, "loop_num_passes", 1) > 1:
            raise self.refuse(
                "its layers run several times over, one round reading what the last put out"
            )

    def find_decoder(self) -> str:
        """The path of the module that owns the text decoder's ``layers``."""
        count = self.model.config.get_text_config().num_hidden_layers
        inner = self.paths.get(id(self.model.get_decoder()), "")
        for name, module in self.model.get_submodule(inner).named_modules():
            if (
                isinstance(layers := getattr(module, "layers", None), nn.ModuleList)
                and len(layers) == count
            ):
                return ".".join(part for part in (inner, name) if part)
        raise self.refuse(f"no list of {count} layers was found in its text decoder")

    def find_vision(self) -> tuple[str, str]:
        """The paths of the vision tower and of what connects it to the decoder; empty for what was
        not found.
        """
        hearing = self.paths.get(id(self.model.get_encoder(modality="audio"))) or self.decoder_path
        others = (self.decoder_path, hearing)
        names = [name for name, _ in self.model.named_modules() if not name.startswith(others)]
        tower = self.paths.get(id(self.model.get_encoder(modality="image")), "")
        found = [name for word in CONNECTORS for name in names if name.rpartition(".")[2] == word]
        outside = [name for name in found if not tower or not name.startswith(f"{tower}.")]
        if outside or not found:
            return tower, next(iter(outside), "")
        return "", found[0]

    def find_placeholder(self) -> str:
        """What stands for the image in a text before the processor puts the image's tokens there."""
        token = getattr(self.processor, "image_token", None)
        if not isinstance(token, str):
            raise self.refuse("its processor names no image token")
        if getattr(self.model.config, "image_token_id", None) is None:
            raise self.refuse("its configuration has no image_token_id")
        return token

    def find_mark(self) -> str:
        """The placeholder, and what the processor wants around it."""
        return self.placeholder

    def marks(self, count: int) -> str:
        """What the chat template writes for ``count`` images, otherwise its mark and a line break
        for each.
        """
        template = self.template
        if template is not None and count and template.shows_images:
            shown = [
                {"role": "user", "content": template.form("?", self.mark, number)}
                for number in (count, 0)
            ]
            with_images, without = (
                template.apply([message], ask=False).encode() for message in shown
            )
            start = common_prefix(with_images, without)
            mark = with_images[start : start + len(with_images) - len(without)].decode()
            if mark.count(self.placeholder) == count:
                return mark
        return f"{self.mark}\n" * count

    def accepted(self) -> set[str]:
        """The names of what the model's forward takes, the inner model's included, as far as
        ``generate`` does, too.
        """
        inner, own, asked = (
            set(inspect.signature(function).parameters)
            for function in (
                self.model.base_model.forward,
                self.model.forward,
                getattr(self.model, "prepare_inputs_for_generation", self.model.forward),
            )
        )
        return (inner | own) & (own | asked)

    def check_structure(self) -> None:
        """Raise :class:`UnsupportedModel` if the model does not do what editors rely on."""
        try:
            self.plain, self.layer_outputs = self.find_outputs()
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

    # Encoding, by the model's own processor

    def picture(self, images: Sequence[Any]) -> Picture:
        """What the processor makes of a query's images: the model's inputs, and the text that
        stands for each.
        """
        made = self.processor(
            images=nested(images),
            text=[self.mark * len(images)],
            return_tensors="pt",
            return_text_replacement_offsets=True,
        )
        if not (replaced := made.pop("text_replacement_offsets", None)) or len(replaced[0]) != len(
            images
        ):
            raise self.refuse("its processor does not say what it puts for an image")
        unread = {"input_ids", "attention_mask", "labels", *TYPES}
        inputs = {
            name: self.held(name, value) for name, value in made.items() if name not in unread
        }
        if odd := [name for name, value in inputs.items() if not isinstance(value, Tensor)]:
            raise self.refuse(
                f"its processor gives {odd[0]} as {type(inputs[odd[0]]).__name__}, not as a tensor"
            )
        return inputs, [each["replacement"] for each in replaced[0]]

    def held(self, name: str, value: Any) -> Any:
        """What the processor makes, as batches hold it: whole numbers in a list as a tensor."""
        if not isinstance(value, list) or not all(
            isinstance(number, int) for number in flat(value)
        ):
            return value
        if not self.lists:
            inner = self.model.base_model
            own = inner.get_image_features
            inner.get_image_features = update_wrapper(partial(listed, own, self.lists), own)
        self.lists.add(name)
        return torch.tensor(value)

    def tokens_of(self, counted: Any) -> int:
        """How many image tokens the text that stands for an image holds."""
        ids = self.tokenizer([counted], add_special_tokens=False, return_tensors="pt")["input_ids"]
        return int(self.image_tokens(ids).sum())

    def expand(self, text: str, expansions: Sequence[str]) -> str:
        """The text with what stands for each image in place of its placeholder.

        Raises as :meth:`check_count`.
        """
        first, *rest = text.split(self.placeholder)
        self.check_count(len(rest), len(expansions))
        return first + "".join(
            f"{image}{words}" for image, words in zip(expansions, rest, strict=True)
        )

    def join(self, parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """The tensors of all images, one after the other, filled up with zeros to the largest as
        processors do.
        """
        names = dict.fromkeys(
            name for part in parts for name in part
        )  # some only of images that are cut up
        return {name: stacked([part[name] for part in parts if name in part]) for name in names}

    def tokenize(
        self, queries: Any, counts: list[list[Any]], eos: bool
    ) -> tuple[list[list[int]], list[int]]:
        """Token ids of each row and the number of answer tokens at its end; ``counts`` hold the
        images' texts.
        """
        prompts = [
            self.expand(self.render(query), texts)
            for query, texts in zip(queries, counts, strict=True)
        ]
        targets = [self.expand(query.target, []) for query in queries]
        rows, answers = self.join_texts(prompts, targets, eos)
        return filled(rows), answers

    @property
    def adds_special(self) -> bool:
        """Whether the processor has the tokenizer add special tokens."""
        return bool(getattr(self.processor, "text_kwargs", {}).get("add_special_tokens", True))

    def token_kinds(self, input_ids: Tensor, spans: list[Spans]) -> dict[str, Tensor]:  # noqa: ARG002
        """The kinds of the tokens (B, T), 1 for those of an image, under the names that the model
        takes them by.
        """
        if not self.kinds:
            return {}
        ids = input_ids.tolist()
        found = {self.kinds[0]: torch.tensor(self.processor.create_mm_token_type_ids(ids))}
        if EXPERTS in self.kinds:
            found[EXPERTS] = torch.tensor(self.processor.create_moe_mm_token_type_ids(ids))
        return found

    # Going on from within

    def extra(self, batch: Batch, kwargs: dict[str, Any]) -> dict[str, Tensor]:
        """What the decoder was given of every token (B, T, …) besides mask and positions.

        Where the model has made a mask of its own from the kinds of tokens, these.
        """
        shape = batch.labels.shape
        found = {
            name: value
            for name, value in kwargs.items()
            if isinstance(value, Tensor) and value.shape[:2] == shape and name not in READ
        }
        mask, levels = (kwargs.get(name) for name in DEEPSTACK)
        if mask is not None and levels:
            found.pop(DEEPSTACK[0], None)
            spread = [
                level.new_zeros(*shape, level.shape[-1]).masked_scatter(mask[..., None], level)
                for level in levels
            ]
            found[DEEPSTACK[1]] = torch.stack(spread, 2)
        own = kwargs.get("attention_mask")
        if isinstance(own, dict) or (isinstance(own, Tensor) and own.ndim > 2):
            found |= {kind: batch.inputs[kind] for kind in self.kinds[:1]}
        return found

    def decode(self, embedded: Tensor, hidden: HiddenBatch) -> Tensor:
        """The decoder's last states (B, T, D), given what it reads of every token.

        Through the model around the decoder where that makes the mask.
        """
        more: dict[str, Any] = dict(uncarried(hidden))
        if (levels := more.get(DEEPSTACK[1])) is not None:
            more[DEEPSTACK[0]] = torch.ones_like(hidden.attention_mask, dtype=torch.bool)
            more[DEEPSTACK[1]] = [level.flatten(0, 1) for level in levels.unbind(2)]
        through = (
            self.model.base_model if any(kind in more for kind in self.kinds) else self.decoder
        )
        return states_of(through, embedded, hidden, more)

    def predict(self, states: Tensor) -> Tensor:
        """Logits (…, V), scaled unless the model leaves what its output embedding puts out as it
        is.

        Without those for which the output embedding has rows, but the vocabulary no token.
        """
        config = self.model.config.get_text_config()
        if width := getattr(config, "logits_mup_width_multiplier", None):
            states = states / width
        logits: Tensor = (
            output_embedding(self.model)(states).to(self.device)
            if self.plain
            else super().predict(states)
        )
        return logits[..., : getattr(config, "unpadded_vocab_size", None)]

    def find_outputs(self) -> tuple[bool, int]:
        """Whether the logits are what the output embedding puts out, whatever its configuration
        says of a scale.

        And :attr:`layer_outputs`.
        """
        put_out: list[Any] = []
        ids = torch.tensor([[self.tokenizer.eos_token_id] * 2], device=self.device)
        with torch.no_grad(), uncompiled(), ExitStack() as undo:
            for module in (self.layers[0], output_embedding(self.model)):
                undo.callback(
                    module.register_forward_hook(lambda *args: put_out.append(args[2])).remove
                )
            logits = self.model(
                input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False
            ).logits
        layer, head = put_out
        if (sizes := [*side_by_side(main_output(layer)).shape[2:]]) != [self.state_size]:
            raise ValueError(
                f"its layers put out {sizes} numbers of every token, where editors read one row of them"
            )
        return torch.equal(head, logits), len(layer) if isinstance(layer, tuple) else 0


READ = ("inputs_embeds", "attention_mask", "position_ids", "input_ids", "cache_position")


def listed(function: Callable[..., Any], names: set[str], *args: Any, **kwargs: Any) -> Any:
    """What the function gives, which gets lists of numbers where tensors are given under these
    names.
    """
    bound = inspect.signature(function).bind(*args, **kwargs)
    for name in names:
        if isinstance(value := bound.arguments.get(name), Tensor):
            bound.arguments[name] = value.tolist()
    return function(*bound.args, **bound.kwargs)


def flat(values: list[Any]) -> Iterator[Any]:
    """What a list holds, and the lists within it."""
    for value in values:
        yield from flat(value) if isinstance(value, list) else [value]


def stacked(values: list[Tensor]) -> Tensor:
    """The tensors along their first axis, the others filled up with zeros to the largest."""
    largest = [max(sizes) for sizes in zip(*(value.shape[1:] for value in values), strict=True)]
    padded = []
    for value in values:
        gaps = [
            gap
            for size, most in zip(value.shape[:0:-1], largest[::-1], strict=True)
            for gap in (0, most - size)
        ]
        padded.append(nn.functional.pad(value, gaps))
    return torch.cat(padded)
