"""Checks of encoding: spans, labels, prompts and image inputs."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import accumulate

import torch
from torch import Tensor

from liveedit.errors import BadInput
from liveedit.models.batch import Batch
from liveedit.models.conformance.assertions import expect, refused
from liveedit.models.conformance.queries import QUERIES, WIDE
from liveedit.models.conformance.reference import whole_prompt
from liveedit.models.runner import ModelRunner
from liveedit.types import Query

__all__ = [
    "a_prompt_is_kept_whole_before_an_answer",
    "an_image_is_processed_once",
    "answer_positions_are_one_to_the_left",
    "encodes_as_the_processor_does",
    "eos_is_part_of_the_answer",
    "image_span_holds_the_image",
    "images_of_a_batch_follow_one_another",
    "labels_cover_the_answer",
    "placeholder_in_a_prompt_is_refused",
    "prompt_ends_before_the_answer",
    "without_target_there_is_no_answer",
]

# Spans and labels


def image_span_holds_the_image(vlm: ModelRunner) -> None:
    """Every image token is in the image span, which begins and ends with one; a text has none."""
    batch = vlm.encode(QUERIES)
    marks = vlm.image_tokens(batch.inputs["input_ids"])
    for query, mark, span in zip(QUERIES, marks, batch.spans, strict=True):
        places = mark.nonzero().flatten().tolist()
        if query.image is None:
            empty = (span.start, span.start)
            expect(
                not places and span.before == span.image == empty,
                "a text has image tokens",
            )
        else:
            expect(bool(places), "an image has no image token")
            expect(
                (places[0], places[-1] + 1) == span.image,
                "the image span does not end with the image tokens",
            )


def labels_cover_the_answer(vlm: ModelRunner) -> None:
    """Labels are the answer's tokens there and nowhere else, and decode to the target."""
    batch = vlm.encode(QUERIES)
    for row, (query, span) in enumerate(zip(QUERIES, batch.spans, strict=True)):
        answer = slice(*span.answer)
        labelled = (batch.labels[row] != -100).nonzero().flatten().tolist()
        expect(labelled == [*range(*span.answer)], "labels elsewhere")
        labels = batch.labels[row, answer]
        expect(
            torch.equal(labels, batch.inputs["input_ids"][row, answer]), "labels are other tokens"
        )
        read = vlm.tokenizer.decode(labels).strip()
        expected = query.target.strip()
        expect(read == expected, f"the answer reads '{read}', not '{expected}'")


def prompt_ends_before_the_answer(vlm: ModelRunner) -> None:
    """A prompt keeps its tokens when a target follows; a space or the template separates them."""
    for query in QUERIES:
        full = whole_prompt(vlm, query)
        text = vlm.tokenizer.decode(full.inputs["input_ids"][0])
        joint = text.removesuffix(query.target.strip())
        expect(
            joint != text and (joint[-1].isspace() or joint[-1] == ">"),
            f"no space before the answer in '{text}'",
        )


def a_prompt_is_kept_whole_before_an_answer(vlm: ModelRunner) -> None:
    """A prompt keeps its tokens before a target, also where a token could span both."""
    own = vlm.render
    for ending in (" ", "\n", "\n\n ", " (", "Ca"):
        vlm.render = lambda query, ending=ending: own(query) + ending  # type: ignore[method-assign,misc]
        try:
            for query in QUERIES[:3]:
                full = whole_prompt(vlm, query)
                answer = vlm.tokenizer.decode(
                    full.inputs["input_ids"][0, slice(*full.spans[0].answer)]
                )
                expect(
                    answer.strip() == query.target.strip(),
                    f"the answer reads '{answer}' after '{ending}'",
                )
        finally:
            del vlm.render


def without_target_there_is_no_answer(vlm: ModelRunner) -> None:
    """A query without target has an empty answer span, no label and no answer position."""
    batch = vlm.encode([replace(QUERIES[0], target=""), QUERIES[1]], eos=True)
    span = batch.spans[0]
    expect(span.answer == (span.stop, span.stop), "a query without target has an answer")
    expect(bool((batch.labels[0] == -100).all()), "a query without target has labels")
    expect(not batch.answer_positions()[0].any(), "a query without target has answer positions")


def eos_is_part_of_the_answer(vlm: ModelRunner) -> None:
    """``eos`` makes the answer one token longer, one of those at which generation stops."""
    short = vlm.encode(QUERIES)
    long = vlm.encode(QUERIES, eos=True)
    for row, (one, other) in enumerate(zip(short.spans, long.spans, strict=True)):
        start, stop = one.answer
        expect(other.answer == (start, stop + 1), "the end of text is not in the answer")
        last = int(long.labels[row, other.answer[1] - 1])
        expect(last in vlm.stops, "another token ends the answer")


def answer_positions_are_one_to_the_left(vlm: ModelRunner) -> None:
    """The positions that predict the answer begin just before it."""
    batch = vlm.encode(QUERIES)
    for positions, span in zip(batch.answer_positions(), batch.spans, strict=True):
        expected = [*range(span.answer[0] - 1, span.answer[1] - 1)]
        expect(positions.nonzero().flatten().tolist() == expected, "answer positions are elsewhere")


# The processor's inputs


def encodes_as_the_processor_does(vlm: ModelRunner) -> None:
    """The inputs of a row equal those that the model's own processor makes of its prompt."""
    for query in QUERIES:
        encoded = vlm.encode([replace(query, target="")]).inputs
        try:
            processed = vlm.processed(query)
        except (TypeError, ValueError):  # some processors refuse a text without an image
            if query.image is not None:
                raise
            continue
        for name, value in processed.items():
            if isinstance(value, Tensor) and name in encoded:
                expect(
                    torch.equal(encoded[name], vlm.put(value)),
                    f"'{name}' is not as the processor makes it",
                )


def images_of_a_batch_follow_one_another(vlm: ModelRunner) -> None:
    """The image inputs of a batch are those of its rows, in their order."""
    pictured = [query for query in QUERIES if query.image is not None]
    parts = [vlm.encode([query]).inputs for query in pictured]
    for name, value in image_inputs(vlm.encode(QUERIES)):
        least = sum(part[name].numel() for part in parts if name in part)
        expect(value.numel() >= least, f"'{name}' has not every image's part")
    first_two = vlm.encode(pictured[:2])  # of different images, so that their order shows
    for name, value in image_inputs(first_two):
        if value.is_floating_point():  # integers may be counted on from one image to the next
            own = [part[name] for part in parts[:2] if name in part]
            expect(holds_in_order(value, own), f"'{name}' has the images' parts in another order")


def image_inputs(batch: Batch) -> Iterator[tuple[str, Tensor]]:
    """The inputs of a batch that are not per token, by name."""
    for name, value in batch.inputs.items():
        if value.shape[:2] != batch.labels.shape:
            yield name, value


def holds_in_order(value: Tensor, parts: Sequence[Tensor]) -> bool:
    """Whether ``value`` is the parts, padded to the largest, one after the other along an axis."""
    for axis in range(value.ndim):
        sizes = [part.shape[axis] for part in parts]
        if value.shape[axis] == sum(sizes):
            starts = [0, *accumulate(sizes)]
            placed = zip(parts, starts, strict=False)
            return all(holds(value, part, axis, start) for part, start in placed)
    return False


def holds(value: Tensor, part: Tensor, axis: int, start: int) -> bool:
    """Whether ``value`` holds ``part`` from ``start`` on along ``axis``, else from 0 on."""
    rest = value.narrow(axis, start, part.shape[axis])
    corner = tuple(slice(size) for size in part.shape)
    return torch.equal(rest[corner], part)


def an_image_is_processed_once(vlm: ModelRunner) -> None:
    """The processor sees each distinct image of a batch once."""
    own = vlm.process_images
    calls = []
    vlm.process_images = lambda images: calls.append(images) or own(images)  # type: ignore[method-assign,func-returns-value]
    try:
        vlm.encode(QUERIES)
    finally:
        del vlm.process_images
    expect(len(calls) == 2, f"two images were processed {len(calls)} times")


def placeholder_in_a_prompt_is_refused(vlm: ModelRunner) -> None:
    """A prompt or target that holds the image placeholder is refused in one line."""
    placeholder = getattr(vlm, "placeholder", None) or vlm.tokenizer.decode([vlm.image_token_id])
    for query in (Query(f"What is {placeholder}?"), Query("What?", f"a {placeholder}", WIDE)):
        refused(partial(vlm.encode, [query]), BadInput, "holds the image placeholder")
