"""Encoder: how queries become a batch. The half of a VLM that knows its processor; families differ
mostly here.
"""

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
from liveedit.types import Query, checked

__all__ = ["Encoder", "Picture", "PromptFormat", "filled", "nested"]

PromptFormat = Literal["raw", "chat", "vlkeb"]
"""``raw`` is the bare prompt, as LiveEdit feeds it; ``vlkeb`` what VLKEB feeds; ``chat`` the
model's own template.
"""

Picture = tuple[dict[str, Tensor], list[Any]]
"""The model's inputs for the images of one query, batched along their first axis; and of each, how
many image tokens it takes, or what else :meth:`Encoder.tokenize` needs to know of it."""

TOO_LONG = "sequence-length-is-longer-than-the-specified-maximum"
"""What a tokenizer warns of once: a text longer than it knows the model to read, for which we raise
an error.
"""


class Encoder:
    """A processor and what it takes to use it. Shapes: B rows, T tokens, padding included."""

    image_mark: ClassVar[str] = "<image>\n"
    """What stands for the image in a raw prompt."""
    vlkeb_mark: ClassVar[str | None] = None
    """What stands for the image in VLKEB's prompt; ``None`` where VLKEB does not have the model."""
    single: ClassVar[str] = ""
    """Why the model reads one image a prompt; empty where it reads several."""

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
        self.model, self.processor, self.tokenizer = model, processor, processor.tokenizer
        self.tokenizer.deprecation_warnings[TOO_LONG] = True
        chat = self.template is not None
        if prompt_format not in (None, *get_args(PromptFormat)):
            raise BadInput(
                f"there is no prompt format {prompt_format!r}: choose {', '.join(get_args(PromptFormat))}"
            )
        if prompt_format == "chat" and not chat:
            raise BadInput("this model has no chat template: use the prompt format 'raw'")
        if prompt_format == "vlkeb" and self.vlkeb_mark is None:
            raise BadInput("VLKEB does not ask this model: use the prompt format 'raw' or 'chat'")
        self.prompt_format = prompt_format or ("chat" if chat else "raw")

    # What a family may say differently

    def render(self, query: Query) -> str:
        """The text of a query up to where the answer begins, with one placeholder for each image."""
        prompt, marks = query.prompt.rstrip(), self.marks(len(query.images))
        if self.prompt_format != "chat" or self.template is None:
            return f"{marks}{prompt}"
        return self.template.render(prompt, marks, len(query.images))

    def marks(self, count: int) -> str:
        """What stands for ``count`` images before a prompt without template."""
        return str(self.vlkeb_mark if self.prompt_format == "vlkeb" else self.image_mark) * count

    def processed(self, query: Query) -> dict[str, Any]:
        """What the model's own processor makes of the query's prompt, as it would be asked without
        LiveEdit.
        """
        images, text = nested(query.images), self.render(query)
        options = {"add_special_tokens": False} if self.begun(text) else {}
        return dict(self.processor(images=images, text=[text], return_tensors="pt", **options))

    def image_tokens(self, input_ids: Tensor) -> Tensor:
        """Which of the tokens (B, T) stand for the image, boolean (B, T)."""
        return input_ids == self.image_token_id

    def place(self, ids: list[int], counts: list[int]) -> list[int]:
        """Token ids of a rendered text, each placeholder replaced by as many image tokens as
        ``counts`` says.
        """
        self.check_placeholders(ids, len(counts))
        left = iter(counts)
        return [
            token
            for each in ids
            for token in [each] * (next(left) if each == self.image_token_id else 1)
        ]

    def picture(self, images: Sequence[Image]) -> Picture:
        """What the processor makes of the images of one query, which :meth:`look` has opened."""
        inputs = self.processor.image_processor(images=list(images), return_tensors="pt")
        texts = [self.processor.replace_image_token(inputs, place) for place in range(len(images))]
        return dict(inputs), [text.count(self.processor.image_token) for text in texts]

    def tokens_of(self, counted: Any) -> int:
        """How many image tokens an image takes, from what :meth:`picture` says of it."""
        return int(counted)

    def join(self, parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """The image inputs of all rows that have images, one after the other, as the model takes
        them.
        """
        return (
            {name: torch.cat([part[name] for part in parts]) for name in parts[0]} if parts else {}
        )

    def token_kinds(self, input_ids: Tensor, spans: list[Spans]) -> dict[str, Tensor]:  # noqa: ARG002
        """What the model is told of the kind of each token (B, T), by the name it takes it by."""
        return {}

    def also_read(self, queries: Sequence[Query]) -> dict[str, Tensor]:  # noqa: ARG002
        """What the model reads of the queries besides the tokens of its text decoder and the
        images.
        """
        return {}

    # What all families share

    @cached_property
    def template(self) -> ChatTemplate | None:
        """The chat template, if there is one."""
        return ChatTemplate.of(self.processor)

    @property
    def image_token_id(self) -> int:
        """The token that stands for a piece of the image."""
        return int(self.model.config.image_token_id)

    @property
    def pad_token_id(self) -> int:
        """What fills up short rows: the tokenizer's padding, else its end of text, else 0. The mask
        hides it.
        """
        return int(self.tokenizer.pad_token_id or self.tokenizer.eos_token_id or 0)

    @property
    def stops(self) -> list[int]:
        """The tokens that end an answer, where generation stops; the tokenizer's own first if it is
        one of them.
        """
        own = self.tokenizer.eos_token_id
        settings = (self.model.generation_config, self.model.config.get_text_config())
        known = [
            each.eos_token_id
            for each in settings
            if getattr(each, "eos_token_id", None) is not None
        ]
        found = known[0] if known else own
        tokens = found if isinstance(found, (list, tuple)) else [found]
        return sorted(
            [int(token) for token in tokens if token is not None], key=lambda token: token != own
        )

    @property
    def device(self) -> torch.device:
        """Where the model takes its inputs, and where all is that goes in or comes out, whatever
        its layers are on.
        """
        embedding = self.model.get_input_embeddings()
        device: torch.device = embedding.weight.device
        off_loaded = device.type == "meta" and hasattr(embedding, "_hf_hook")
        return torch.device(embedding._hf_hook.execution_device) if off_loaded else device

    @property
    def dtype(self) -> torch.dtype:
        """The floating-point type the text decoder computes in; a Q-Former beside it may stay in
        float32.
        """
        dtype: torch.dtype = self.model.get_input_embeddings().weight.dtype
        return dtype

    def encode(
        self, queries: Sequence[Query], *, padding_side: PaddingSide = "right", eos: bool = False
    ) -> Batch:
        """The queries as one batch; text-only ones and ones with an image or several may be mixed.

        Exactly one blank separates prompt and target, unless the prompt's format ends in white
        space or its template says otherwise. The prompt's tokens are those that it has without
        target, so that generation goes on where the answer begins; ``eos`` appends the token at
        which generation stops. A query without target has no answer. The image processor runs once
        for the same images. Raises :class:`BadInput` for no query, an empty one, a value of another
        type, a prompt that holds the image placeholder or is longer than the model reads, or an
        image that cannot be read, and :class:`UnsupportedModel` for several images where the model
        reads one.
        """
        queries = checked(queries)
        if not queries:
            raise BadInput("there is no query to encode: give at least one")
        if padding_side not in get_args(PaddingSide):
            raise BadInput(f"rows are padded on the left or the right, not on {padding_side!r}")
        pictures = self.pictures(queries)
        rows, answers = self.tokenize(queries, [count for _, count in pictures], eos)
        input_ids = pad_rows(rows, self.pad_token_id, padding_side)
        mask = pad_rows([[1] * len(row) for row in rows], 0, padding_side)
        spans = find_spans(self.asked_about(input_ids, queries, pictures), mask, answers)
        labels = torch.full_like(input_ids, IGNORED)
        for row, span in enumerate(spans):
            labels[row, slice(*span.answer)] = input_ids[row, slice(*span.answer)]
        inputs = {
            "input_ids": input_ids,
            "attention_mask": mask,
            **self.join([part for part, _ in pictures if part]),
        }
        inputs |= self.token_kinds(input_ids, spans) | self.also_read(queries)
        batch = Batch(
            {name: self.put(value) for name, value in inputs.items()}, labels.to(self.device), spans
        )
        self.check_room(batch)
        return batch

    def check_texts(self, queries: Sequence[Query], counts: list[list[Any]] | None = None) -> None:
        """Raise :class:`BadInput` for texts that :meth:`encode` refuses, or behind which no end of
        the answer fits.

        ``counts`` says of the images of each query what :meth:`look` does; without it the texts are
        looked at alone.
        """
        queries = checked(queries)
        if counts is None:
            queries = [
                replace(query, image=None)
                for query in queries
                if query.prompt.strip() or query.target.strip()
            ]
            counts = [[] for _ in queries]
        if queries:
            rows, answers = self.tokenize(queries, counts, eos=True)
            ids = pad_rows(rows, self.pad_token_id, "right")
            mask = pad_rows([[1] * len(row) for row in rows], 0, "right")
            spans = find_spans(self.image_tokens(ids), mask, answers)
            self.check_room(
                Batch(
                    {"input_ids": ids, "attention_mask": mask}, torch.full_like(ids, IGNORED), spans
                )
            )

    @property
    def room(self) -> int | None:
        """For how many tokens the text decoder has positions; ``None`` where its config does not
        say.

        Rotary positions have no end, but a model that was trained up to there answers anything
        beyond.
        """
        text = self.model.config.get_text_config()
        if (longest := getattr(text, "max_position_embeddings", None)) is None:
            return None
        rope = getattr(text, "rope_parameters", None) or {}
        trained = rope.get("original_max_position_embeddings") or longest
        stretched = rope.get("rope_type") in ("linear", "dynamic", "yarn")
        return (
            max(int(longest), int(trained * rope.get("factor", 1))) if stretched else int(longest)
        )

    def positions(self, batch: Batch) -> Tensor:
        """How many positions each row (B,) takes."""
        return batch.inputs["attention_mask"].sum(1)

    def check_room(self, batch: Batch, more: int = 0) -> None:
        """Raise :class:`BadInput` unless the model has positions for every row and ``more`` tokens
        behind it.
        """
        room = self.room
        if room is None or self.device.type == "meta":  # where nothing is computed
            return
        positions = self.positions(batch)
        longest = int(positions.argmax())
        taken, (start, stop) = int(positions[longest]), batch.spans[longest].answer
        if taken + more <= room:
            return
        answer = (
            f", and an answer up to {more} more: ask for a shorter one, or"
            if more and taken <= room
            else ":"
        )
        what, which = (
            ("prompt with its target", "one of them") if start < stop else ("prompt", "the prompt")
        )
        raise BadInput(
            f"the model has room for {room} tokens, and the {what} takes {taken}{answer} shorten {which}"
        )

    def pictures(self, queries: Sequence[Query]) -> list[Picture]:
        """The picture of each query; an empty one of no tokens where it has no image."""
        done: dict[tuple[int | str, ...], Picture] = {(): ({}, [])}
        keys = [tuple(image_key(image) for image in query.images) for query in queries]
        for key, query in zip(keys, queries, strict=True):
            if len(key) > 1:
                self.check_several()
            if key not in done:
                done[key] = self.look(query.images)
        return [done[key] for key in keys]

    def look(self, images: Sequence[Image | str | Path]) -> Picture:
        """The picture of the images of one query, given as pictures or paths.

        Raises :class:`BadInput`, in one line that names the image, for one that cannot be read, or
        that the processor does not take.
        """
        opened = [told_apart(open_image(image)) for image in images]
        try:
            return self.picture(opened)
        except LiveEditError:
            raise
        except Exception as error:  # a processor may raise anything on an odd image
            raise self.refusal(images, reason(error)) from error

    def refusal(self, images: Sequence[Image | str | Path], reason: str) -> LiveEditError:
        """The error for images that the processor does not take, or for a processor that takes
        none.
        """
        try:
            self.picture([new("RGB", (336, 336))])
        except Exception:  # as above
            return UnsupportedModel(
                f"the model's processor takes no image at all ({reason}): get all its files anew"
            )
        if len(images) > 1:
            for image in images:
                self.look([image])  # which names the one at fault
            return self.refuse_several(f"its processor says '{reason}'")
        title = image_title(images[0])
        return BadInput(
            f"the model's processor refuses {title} ({reason}): cut or scale it to another shape"
        )

    def check_target(self, target: str) -> None:
        """Raise :class:`BadInput` for a target with characters for which the tokenizer has no
        token.
        """
        unknown = self.tokenizer.unk_token_id
        if unknown is None or unknown not in self.within(target.strip()):
            return
        lacking = [
            character for character in dict.fromkeys(target) if unknown in self.within(character)
        ]
        named = " ".join(lacking) or target.strip()
        raise BadInput(
            f"the model's tokenizer has no token for {named}: the model cannot answer '{target.strip()}'"
        )

    def check_several(self) -> None:
        """Raise :class:`UnsupportedModel` if the model reads one image a prompt."""
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
        self, input_ids: Tensor, queries: Sequence[Query], pictures: Sequence[Picture]
    ) -> Tensor:
        """Which of the tokens (B, T) stand for the image that a row's query is about, boolean (B,
        T).
        """
        marks = self.image_tokens(input_ids)
        for row, query, (_, counted) in zip(marks, queries, pictures, strict=True):
            if len(counted) > 1 and query.about is not None:
                places = row.nonzero().flatten().split([self.tokens_of(each) for each in counted])
                row[:] = False
                row[places[query.about]] = True
        return marks

    def tokenize(
        self, queries: Sequence[Query], counts: list[list[Any]], eos: bool
    ) -> tuple[list[list[int]], list[int]]:
        """Token ids of each row, image tokens in place, and the number of answer tokens at its end."""
        prompts = [self.render(query) for query in queries]
        rows, answers = self.join_texts(prompts, [query.target for query in queries], eos)
        return filled(
            [self.place(row, count) for row, count in zip(rows, counts, strict=True)]
        ), answers

    def join_texts(
        self, prompts: Sequence[str], targets: Sequence[str], eos: bool
    ) -> tuple[list[list[int]], list[int]]:
        """Token ids of rendered prompts and their targets, and the number of the latter's at the
        end of each row.
        """
        said = [self.said(prompt, target) for prompt, target in zip(prompts, targets, strict=True)]
        ids = self.token_ids(
            [*prompts, *(prompt + text for prompt, text in zip(prompts, said, strict=True))]
        )
        rows, answers = [], []
        for asked, whole, text in zip(ids[: len(said)], ids[len(said) :], said, strict=True):
            kept = (
                whole[: len(asked)] == asked
            )  # or a token reaches across the boundary, where no generation puts one
            answer = whole[len(asked) :] if kept else self.within(text)
            answer = [*answer, *(self.stops[:1] if eos and answer else [])]
            rows.append([*asked, *answer])
            answers.append(len(answer))
        return rows, answers

    def said(self, prompt: str, target: str) -> str:
        """What follows a rendered prompt: the target and what separates them, or nothing where
        there is no target.
        """
        ended = not prompt or prompt[-1].isspace()
        return f"{'' if ended else self.blank}{answer}" if (answer := target.strip()) else ""

    @property
    def blank(self) -> str:
        """What separates an answer from a prompt that does not end in white space: the template's
        way, or a blank.
        """
        gap = (
            self.template.gap
            if self.template is not None and self.prompt_format == "chat"
            else None
        )
        return " " if gap is None else gap

    def within(self, text: str) -> list[int]:
        """Token ids of a text that others precede: without the blank that some tokenizers put
        before all texts.
        """
        before, both = self.tokenizer(["\n", f"\n{text}"], add_special_tokens=False)["input_ids"]
        if both[: len(before)] == before:
            return list(both[len(before) :])
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def token_ids(self, texts: list[str]) -> list[list[int]]:
        """Token ids of rendered texts, with the special tokens before them that the template has
        not written itself.
        """
        if not self.adds_special or self.begun(texts[0]):
            return list(self.tokenizer(texts, add_special_tokens=False)["input_ids"])
        return [ids[: len(ids) - self.appended] for ids in self.tokenizer(texts)["input_ids"]]

    @property
    def adds_special(self) -> bool:
        """Whether the tokenizer adds its special tokens to a text."""
        return True

    @cached_property
    def appended(self) -> int:
        """How many special tokens the tokenizer puts behind a text by itself; an answer could not
        follow them.
        """
        bare, whole = (
            self.tokenizer("?", add_special_tokens=False)["input_ids"],
            self.tokenizer("?")["input_ids"],
        )
        starts = (at for at in range(len(whole)) if whole[at : at + len(bare)] == bare)
        return len(whole) - len(bare) - next(starts, len(whole) - len(bare))

    def begun(self, text: str) -> bool:
        """Whether the template has written the first special token itself."""
        bos = self.tokenizer.bos_token
        return self.prompt_format == "chat" and bool(bos) and text.startswith(bos)

    def check_placeholders(self, ids: list[int], wanted: int) -> None:
        """Raise :class:`BadInput` if the user's own text holds image placeholders."""
        self.check_count(ids.count(self.image_token_id), wanted)

    def check_count(self, found: int, wanted: int) -> None:
        """Raise unless as many image placeholders were ``found`` as are ``wanted``.

        :class:`BadInput` for too many, which are the user's own, :class:`UnsupportedModel` for too
        few.
        """
        if found > wanted:
            raise BadInput(
                "the prompt or target holds the image placeholder: leave it out, it is put in automatically"
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
        """The tensor where the model takes it, floating-point ones in the model's type."""
        return value.to(self.device, self.dtype if value.is_floating_point() else None)


def told_apart(image: Image) -> Image:
    """A picture whose rows no processor takes for its colours: one of 1 or 3 rows twice as large,
    which looks alike.
    """
    return (
        image.resize((2 * image.width, 2 * image.height), Resampling.NEAREST)
        if image.height in (1, 3)
        else image
    )


def nested(images: Sequence[Any]) -> list[Any] | None:
    """The images of one text as processors take them."""
    opened = [open_image(image) for image in images]
    return [opened] if len(opened) > 1 else opened or None


def filled(rows: list[list[int]]) -> list[list[int]]:
    """The rows of token ids. Raises :class:`BadInput` for an empty one."""
    if not all(rows):
        raise BadInput("a query is empty: give it a prompt, a target or an image")
    return rows
