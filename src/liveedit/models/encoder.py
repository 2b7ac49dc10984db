"""Encoder: turns queries into a batch. This is the part that most families override."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import torch
from PIL.Image import Image, Resampling, new
from torch import Tensor

from liveedit.data.images import image_key, image_title, open_image, reason
from liveedit.errors import BadInput, LiveEditError, UnsupportedModel
from liveedit.models.batch import IGNORED, Batch, PaddingSide, Spans, find_spans, pad_rows
from liveedit.models.chat_template import ChatTemplate
from liveedit.types import Query, Turn, checked

__all__ = ["Encoder", "ImageInputs", "PromptFormat", "filled", "nested"]

PromptFormat = Literal["raw", "chat", "vlkeb"]
"""``raw`` is the bare prompt, as in LiveEdit's code; ``vlkeb`` is VLKEB's prompt; ``chat`` is the
model's own template.
"""

ImageInputs = tuple[dict[str, Tensor], list[Any]]
"""The model's inputs for the images of one query, along their first axis, and for each image the
number of its tokens, or whatever else :meth:`Encoder.tokenize` needs.
"""

TOO_LONG = "sequence-length-is-longer-than-the-specified-maximum"
"""A tokenizer's warning about a text that is too long for the model. :meth:`Encoder.check_room`
raises an error instead.
"""


class Encoder:
    """A model's processor, with everything that encoding queries needs.

    Shapes: B rows, T tokens, padding included.
    """

    image_mark: ClassVar[str] = "<image>\n"
    """The text for an image in a raw prompt."""
    vlkeb_mark: ClassVar[str | None] = None
    """The text for an image in VLKEB's prompt; ``None`` where VLKEB does not cover the model."""
    ends: ClassVar[tuple[str, ...]] = ()
    """Texts with which the model itself goes on after an answer: the answer ends before them."""
    single: ClassVar[str] = ""
    """The reason why a prompt may hold one image only; empty where it may hold several."""

    model: Any
    processor: Any
    tokenizer: Any
    prompt_format: PromptFormat

    def __init__(
        self, model: Any, processor: Any, prompt_format: PromptFormat | None = None
    ) -> None:
        for part in ("tokenizer", "image_processor"):
            if getattr(processor, part, None) is None:
                raise UnsupportedModel(
                    f"the processor has no {part.replace('_', ' ')}: get all of the model's files"
                )
        self.model = model
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self.tokenizer.deprecation_warnings[TOO_LONG] = True
        has_template = self.template is not None
        self.check_format(prompt_format, has_template)
        self.prompt_format = prompt_format or ("chat" if has_template else "raw")

    def check_format(self, prompt_format: PromptFormat | None, has_template: bool) -> None:
        """Raise :class:`BadInput` for a prompt format that the model does not have."""
        if prompt_format not in (None, *get_args(PromptFormat)):
            raise BadInput(
                f"there is no prompt format {prompt_format!r}: choose "
                f"{', '.join(get_args(PromptFormat))}"
            )
        if prompt_format == "chat" and not has_template:
            raise BadInput("this model has no chat template: use the prompt format 'raw'")
        if prompt_format == "vlkeb" and self.vlkeb_mark is None:
            raise BadInput(
                "no VLKEB prompt is defined for this model: use the prompt format 'raw' or 'chat'"
            )

    # Methods that a family may override

    def render(self, query: Query) -> str:
        """The text of a query before its answer, with one placeholder for each image.

        Without a chat template earlier turns have become part of the prompt (:meth:`flat`).
        """
        prompt = query.prompt.rstrip()
        if self.prompt_format != "chat" or self.template is None:
            return f"{self.marks(len(query.images))}{prompt}"
        left = len(query.images) - sum(turn.images for turn in query.earlier)
        turns = [*query.earlier, Turn("user", prompt, left)]
        template = self.template
        return template.chat(
            [
                template.message(turn.role, turn.text, self.marks(turn.images), turn.images)
                for turn in turns
            ]
        )

    def flat(self, query: Query) -> Query:
        """The query with earlier turns in its prompt, unless a chat template renders them.

        All images come first. Each text stands on a line, but an answer follows its question after
        a space.
        """
        if not query.earlier or (self.prompt_format == "chat" and self.template is not None):
            return query
        said = ""
        for turn in query.earlier:
            said += turn.text.strip() + (" " if turn.role == "user" else "\n")
        return replace(query, prompt=said + query.prompt, earlier=())

    def marks(self, count: int) -> str:
        """The text for ``count`` images before a prompt without template."""
        mark = self.vlkeb_mark if self.prompt_format == "vlkeb" else self.image_mark
        return str(mark) * count

    def processed(self, query: Query) -> dict[str, Any]:
        """The model's inputs for a query by its own processor alone: a reference for tests."""
        text = self.render(query)
        options = {"add_special_tokens": False} if self.begun(text) else {}
        return dict(
            self.processor(images=nested(query.images), text=[text], return_tensors="pt", **options)
        )

    def image_tokens(self, input_ids: Tensor) -> Tensor:
        """The image tokens among the ids (B, T), as a boolean mask (B, T)."""
        return input_ids == self.image_token_id

    def expand_image_tokens(self, ids: list[int], counts: list[int]) -> list[int]:
        """Token ids of a rendered text, with each placeholder repeated for its image's tokens.

        ``counts`` holds the number of tokens of each image.
        """
        self.check_placeholders(ids, len(counts))
        image = self.image_token_id
        remaining = iter(counts)
        expanded: list[int] = []
        for token in ids:
            expanded += [token] * (next(remaining) if token == image else 1)
        return expanded

    def process_images(self, images: Sequence[Image]) -> ImageInputs:
        """The processor's inputs for the opened images of one query."""
        inputs = self.processor.image_processor(images=list(images), return_tensors="pt")
        texts = [self.processor.replace_image_token(inputs, index) for index in range(len(images))]
        return dict(inputs), [text.count(self.processor.image_token) for text in texts]

    def tokens_of(self, counted: Any) -> int:
        """The number of an image's tokens, given its entry in :meth:`process_images`'s result."""
        return int(counted)

    def encode_tokens(self, rows: Sequence[Sequence[int]]) -> Batch:
        """Texts without images, given as token ids, as one batch: all of a text is its prompt."""
        input_ids = pad_rows(rows, self.pad_token_id, "right")
        mask = pad_rows([[1] * len(row) for row in rows], 0, "right")
        spans = find_spans(torch.zeros_like(mask), mask)
        inputs = {"input_ids": input_ids, "attention_mask": mask, **self.join([])}
        inputs |= self.token_kinds(input_ids, spans) | self.also_read([Query("?")] * len(rows))
        labels = torch.full_like(input_ids, IGNORED)
        return Batch(
            {name: self.put(value) for name, value in inputs.items()}, labels.to(self.device), spans
        )

    def join(self, parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """The image inputs of a batch, joined from those of all rows that have images."""
        if not parts:
            return {}
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def token_kinds(self, input_ids: Tensor, spans: list[Spans]) -> dict[str, Tensor]:  # noqa: ARG002
        """Token-type ids (B, T), by the model's names for these arguments."""
        return {}

    def also_read(self, queries: Sequence[Query]) -> dict[str, Tensor]:  # noqa: ARG002
        """Inputs that the model needs for the queries besides tokens and images, by name."""
        return {}

    # Facts about model and processor

    @cached_property
    def template(self) -> ChatTemplate | None:
        """The chat template, if there is one."""
        return ChatTemplate.of(self.processor)

    @property
    def image_token_id(self) -> int:
        """The id of the image token, a placeholder for a piece of an image."""
        return int(self.model.config.image_token_id)

    @property
    def pad_token_id(self) -> int:
        """The token that pads short rows: the tokenizer's padding, else its end of text, else 0."""
        return int(self.tokenizer.pad_token_id or self.tokenizer.eos_token_id or 0)

    @property
    def stops(self) -> list[int]:
        """The tokens at which generation stops; the first ends an answer encoded with ``eos``.

        The tokenizer's own end of text comes first if it is one of them.
        """
        own = self.tokenizer.eos_token_id
        found = own
        for settings in (self.model.config.get_text_config(), self.model.generation_config):
            ends = getattr(settings, "eos_token_id", None)
            found = found if ends is None else ends
        tokens = found if isinstance(found, (list, tuple)) else [found]
        stops = [int(token) for token in tokens if token is not None]
        return sorted(stops, key=lambda token: token != own)

    @property
    def device(self) -> torch.device:
        """The device of the model's inputs and of all results, wherever its layers are."""
        embedding = self.model.get_input_embeddings()
        device: torch.device = embedding.weight.device
        offloaded = device.type == "meta" and hasattr(embedding, "_hf_hook")
        return torch.device(embedding._hf_hook.execution_device) if offloaded else device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype in which the text decoder computes; a Q-Former may stay in float32."""
        dtype: torch.dtype = self.model.get_input_embeddings().weight.dtype
        return dtype

    # Encoding

    def encode(
        self, queries: Sequence[Query], *, padding_side: PaddingSide = "right", eos: bool = False
    ) -> Batch:
        """The queries as one batch. Queries with and without images may be mixed.

        One space separates prompt and target, unless the prompt's format ends in white space or its
        template writes something else there. A prompt has the tokens that it has without target, so
        that generation continues where the answer begins. ``eos`` appends the token at which
        generation stops. A query without target has no answer. The image processor runs once for
        the same images.

        Raises :class:`BadInput` for no query, an empty one, a value of another type, a prompt that
        holds the image placeholder or is longer than the model's context, and an image that cannot
        be read; :class:`UnsupportedModel` for several images where the model takes one.
        """
        queries = checked(queries)
        if not queries:
            raise BadInput("there is no query to encode: give at least one")
        if padding_side not in get_args(PaddingSide):
            raise BadInput(f"rows are padded on the left or the right, not on {padding_side!r}")
        image_inputs = self.image_inputs(queries)
        rows, answers = self.tokenize(queries, [count for _, count in image_inputs], eos)
        input_ids = pad_rows(rows, self.pad_token_id, padding_side)
        mask = pad_rows([[1] * len(row) for row in rows], 0, padding_side)
        spans = find_spans(self.asked_about(input_ids, queries, image_inputs), mask, answers)
        labels = torch.full_like(input_ids, IGNORED)
        for row, span in enumerate(spans):
            labels[row, slice(*span.answer)] = input_ids[row, slice(*span.answer)]
        inputs = {
            "input_ids": input_ids,
            "attention_mask": mask,
            **self.join([part for part, _ in image_inputs if part]),
        }
        inputs |= self.token_kinds(input_ids, spans) | self.also_read(queries)
        batch = Batch(
            {name: self.put(value) for name, value in inputs.items()}, labels.to(self.device), spans
        )
        self.check_room(batch)
        return batch

    def check_texts(self, queries: Sequence[Query], counts: list[list[Any]] | None = None) -> None:
        """Raise :class:`BadInput` for texts that :meth:`encode` refuses with ``eos``.

        ``counts`` holds, for the images of each query, what :meth:`open_and_process` returns of
        them; without it the texts are checked alone.
        """
        queries = checked(queries)
        if counts is None:
            queries = [
                replace(query, image=None)
                for query in queries
                if query.prompt.strip() or query.target.strip()
            ]
            counts = [[] for _ in queries]
        if not queries:
            return
        rows, answers = self.tokenize(queries, counts, eos=True)
        ids = pad_rows(rows, self.pad_token_id, "right")
        mask = pad_rows([[1] * len(row) for row in rows], 0, "right")
        spans = find_spans(self.image_tokens(ids), mask, answers)
        inputs = {"input_ids": ids, "attention_mask": mask}
        self.check_room(Batch(inputs, torch.full_like(ids, IGNORED), spans))

    @property
    def room(self) -> int | None:
        """The text decoder's context length in tokens; ``None`` where its config does not say.

        Rotary positions have no limit, but beyond the length of its training a model gives
        meaningless answers.
        """
        text = self.model.config.get_text_config()
        longest = getattr(text, "max_position_embeddings", None)
        if longest is None:
            return None
        rope = getattr(text, "rope_parameters", None) or {}
        if rope.get("rope_type") not in ("linear", "dynamic", "yarn"):
            return int(longest)
        trained = rope.get("original_max_position_embeddings") or longest
        return max(int(longest), int(trained * rope.get("factor", 1)))

    def positions(self, batch: Batch) -> Tensor:
        """The number of positions that each row (B,) takes up."""
        return batch.inputs["attention_mask"].sum(1)

    def check_room(self, batch: Batch, more: int = 0) -> None:
        """Raise :class:`BadInput` if a row and ``more`` tokens after it exceed :attr:`room`."""
        room = self.room
        if room is None or self.device.type == "meta":  # where nothing is computed
            return
        positions = self.positions(batch)
        longest = int(positions.argmax())
        taken = int(positions[longest])
        if taken + more <= room:
            return
        start, stop = batch.spans[longest].answer
        has_target = start < stop
        text = "prompt with its target" if has_target else "prompt"
        shorten = "shorten one of them" if has_target else "shorten the prompt"
        message = f"the model has room for {room} tokens, and the {text} takes {taken}"
        if more and taken <= room:
            raise BadInput(
                f"{message}, and an answer up to {more} more: ask for a shorter one, or {shorten}"
            )
        raise BadInput(f"{message}: {shorten}")

    # Images

    def image_inputs(self, queries: Sequence[Query]) -> list[ImageInputs]:
        """The image inputs of each query, computed once for equal images; empty without one."""
        done: dict[tuple[int | str, ...], ImageInputs] = {(): ({}, [])}
        keys = [tuple(image_key(image) for image in query.images) for query in queries]
        for key, query in zip(keys, queries, strict=True):
            if len(key) > 1:
                self.check_several()
            if key not in done:
                done[key] = self.open_and_process(query.images)
        return [done[key] for key in keys]

    def open_and_process(self, images: Sequence[Image | str | Path]) -> ImageInputs:
        """The image inputs of one query, given as images or paths.

        Raises :class:`BadInput`, in one line that names the image, for an image that cannot be read
        or that the processor refuses.
        """
        opened = [with_clear_channels(open_image(image)) for image in images]
        try:
            return self.process_images(opened)
        except LiveEditError:
            raise
        except Exception as error:  # a processor may raise anything on an odd image
            raise self.refusal(images, reason(error)) from error

    def refusal(self, images: Sequence[Image | str | Path], reason: str) -> LiveEditError:
        """The error for images that the processor refuses, or for a processor that refuses all."""
        try:
            self.process_images([new("RGB", (336, 336))])
        except Exception:  # as in `look`
            return UnsupportedModel(
                f"the model's processor takes no image at all ({reason}): get all its files again"
            )
        if len(images) > 1:
            for image in images:
                self.open_and_process([image])  # raises an error that names the image at fault
            return self.refuse_several(f"its processor says '{reason}'")
        title = image_title(images[0])
        return BadInput(
            f"the model's processor refuses {title} ({reason}): cut or scale it to another shape"
        )

    def check_several(self) -> None:
        """Raise :class:`UnsupportedModel` if a prompt may hold one image only."""
        if self.single:
            raise self.refuse_several(self.single)
        if self.prompt_format == "vlkeb":
            raise self.refuse_several("VLKEB's prompt holds one")

    def refuse_several(self, reason: str) -> UnsupportedModel:
        """The error for several images in one prompt."""
        return UnsupportedModel(
            f"several images in one prompt: {reason}; ask about one image at a time"
        )

    def asked_about(
        self, input_ids: Tensor, queries: Sequence[Query], image_inputs: Sequence[ImageInputs]
    ) -> Tensor:
        """The tokens of the image that each row's query is about, as a boolean mask (B, T)."""
        marks = self.image_tokens(input_ids)
        for row, query, (_, counted) in zip(marks, queries, image_inputs, strict=True):
            if len(counted) > 1 and query.about is not None:
                places = row.nonzero().flatten().split([self.tokens_of(each) for each in counted])
                row[:] = False
                row[places[query.about]] = True
        return marks

    # Texts

    def check_target(self, target: str) -> None:
        """Raise :class:`BadInput` for a target with characters that the tokenizer does not know."""
        unknown = self.tokenizer.unk_token_id
        if unknown is None or unknown not in self.within(target.strip()):
            return
        characters = dict.fromkeys(target)
        lacking = [character for character in characters if unknown in self.within(character)]
        named = " ".join(lacking) or target.strip()
        raise BadInput(
            f"the model's tokenizer has no token for {named}: "
            f"the model cannot answer '{target.strip()}'"
        )

    def tokenize(
        self, queries: Sequence[Query], counts: list[list[Any]], eos: bool
    ) -> tuple[list[list[int]], list[int]]:
        """Each row's token ids, with image tokens, and its number of answer tokens at the end."""
        prompts = [self.render(self.flat(query)) for query in queries]
        rows, answers = self.join_texts(prompts, [query.target for query in queries], eos)
        placed = [
            self.expand_image_tokens(row, count) for row, count in zip(rows, counts, strict=True)
        ]
        return filled(placed), answers

    def join_texts(
        self, prompts: Sequence[str], targets: Sequence[str], eos: bool
    ) -> tuple[list[list[int]], list[int]]:
        """Each row's token ids, of rendered prompt and target, and its number of answer tokens."""
        endings = [
            self.said(prompt, target) for prompt, target in zip(prompts, targets, strict=True)
        ]
        whole = [prompt + ending for prompt, ending in zip(prompts, endings, strict=True)]
        ids = self.token_ids([*prompts, *whole])
        prompt_ids = ids[: len(prompts)]
        whole_ids = ids[len(prompts) :]
        rows = []
        answers = []
        for start, both, ending in zip(prompt_ids, whole_ids, endings, strict=True):
            answer = self.answer_ids(start, both, ending)
            if eos and answer:
                answer = [*answer, *self.stops[:1]]
            rows.append([*start, *answer])
            answers.append(len(answer))
        return rows, answers

    def answer_ids(self, prompt: list[int], whole: list[int], ending: str) -> list[int]:
        """Token ids of an answer, from those of its prompt and of prompt and answer together.

        Where a token of ``whole`` spans the end of the prompt, ``ending`` gets tokens of its own:
        generation, too, begins a token there.
        """
        if whole[: len(prompt)] == prompt:
            return whole[len(prompt) :]
        return self.within(ending)

    def said(self, prompt: str, target: str) -> str:
        """The text that follows a rendered prompt: the separator, if any, and the target."""
        answer = target.strip()
        if not answer:
            return ""
        ended = not prompt or prompt[-1].isspace()
        return answer if ended else f"{self.blank}{answer}"

    @property
    def blank(self) -> str:
        """The separator between a prompt that does not end in white space and its answer.

        In a chat it is the template's, if known; otherwise a space.
        """
        gap = None
        if self.template is not None and self.prompt_format == "chat":
            gap = self.template.gap
        return " " if gap is None else gap

    def within(self, text: str) -> list[int]:
        """Token ids of a text within a longer one, without a space that the tokenizer adds."""
        before, both = self.tokenizer(["\n", f"\n{text}"], add_special_tokens=False)["input_ids"]
        if both[: len(before)] == before:
            return list(both[len(before) :])
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def token_ids(self, texts: list[str]) -> list[list[int]]:
        """Token ids of rendered texts, after the special tokens that their template leaves out."""
        if not self.adds_special or self.begun(texts[0]):
            return list(self.tokenizer(texts, add_special_tokens=False)["input_ids"])
        return [ids[: len(ids) - self.appended] for ids in self.tokenizer(texts)["input_ids"]]

    @property
    def adds_special(self) -> bool:
        """Whether the tokenizer adds its special tokens to a text."""
        return True

    @cached_property
    def appended(self) -> int:
        """The number of special tokens that the tokenizer appends to a text.

        They are left out, because an answer could not follow them.
        """
        bare = self.tokenizer("?", add_special_tokens=False)["input_ids"]
        whole = self.tokenizer("?")["input_ids"]
        added = len(whole) - len(bare)
        starts = (at for at in range(len(whole)) if whole[at : at + len(bare)] == bare)
        return added - next(starts, added)

    def begun(self, text: str) -> bool:
        """Whether a rendered text begins with BOS, which its template has written."""
        bos = self.tokenizer.bos_token
        return self.prompt_format == "chat" and bool(bos) and text.startswith(bos)

    def check_placeholders(self, ids: list[int], wanted: int) -> None:
        """Raise :class:`BadInput` if the user's own text holds image placeholders."""
        self.check_count(ids.count(self.image_token_id), wanted)

    def check_count(self, found: int, wanted: int) -> None:
        """Raise unless ``found`` image placeholders equal those ``wanted``.

        :class:`BadInput` for too many, which are in the user's text; :class:`UnsupportedModel` for
        too few.
        """
        if found > wanted:
            raise BadInput(
                "the prompt or target holds the image placeholder: "
                "leave it out, it is put in automatically"
            )
        if found < wanted:
            writes = f"{found} image placeholders where the model wants {wanted}"
            if self.prompt_format == "chat":
                raise UnsupportedModel(
                    f"the chat template writes {writes}: ask in the prompt format 'raw'"
                )
            raise UnsupportedModel(
                f"the tokenizer makes {writes}: get tokenizer and config from one place"
            )

    def put(self, value: Tensor) -> Tensor:
        """The tensor on the model's device; of the model's dtype if it is floating-point."""
        return value.to(self.device, self.dtype if value.is_floating_point() else None)


def with_clear_channels(image: Image) -> Image:
    """The image; one of 1 or 3 rows is doubled in size, which looks alike.

    Processors would take such rows for colour channels.
    """
    if image.height not in (1, 3):
        return image
    return image.resize((2 * image.width, 2 * image.height), Resampling.NEAREST)


def nested(images: Sequence[Any]) -> list[Any] | None:
    """The images of one text in the form that processors take: opened, and several in a list."""
    opened = [open_image(image) for image in images]
    return [opened] if len(opened) > 1 else opened or None


def filled(rows: list[list[int]]) -> list[list[int]]:
    """The rows of token ids. Raises :class:`BadInput` for an empty one."""
    if not all(rows):
        raise BadInput("a query is empty: give it a prompt, a target or an image")
    return rows
