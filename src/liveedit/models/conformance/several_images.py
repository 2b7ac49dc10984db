"""Checks of several images in one prompt. A model may refuse them; then they do not apply."""

from dataclasses import replace

import torch
from torch import Tensor

from liveedit.errors import UnsupportedModel
from liveedit.models.conformance.assertions import (
    NotApplicable,
    close,
    expect,
    real,
    rows_close,
)
from liveedit.models.conformance.queries import SEVERAL, SIDES, SQUARE, WIDE, random_image
from liveedit.models.conformance.reference import cut, greedy, middle
from liveedit.models.runner import EMBEDDINGS, ModelRunner
from liveedit.types import Query

__all__ = [
    "each_of_several_images_has_its_span",
    "reads_several",
    "several_images_are_read_as_by_the_processor",
    "several_images_in_a_batch",
]


def reads_several(vlm: ModelRunner) -> bool:
    """Whether the model reads several images in one prompt.

    Raises :class:`Broken` where it does not, and refuses them in more than one line.
    """
    try:
        require_several(vlm)
    except NotApplicable:
        return False
    return True


def require_several(vlm: ModelRunner) -> None:
    """Raise :class:`NotApplicable` where the model refuses several images in one prompt."""
    try:
        vlm.encode(SEVERAL)
    except UnsupportedModel as error:
        reason = str(error)
        expect(
            "several images" in reason and len(reason.splitlines()) == 1,
            "refused, but not in one line",
        )
        raise NotApplicable(reason) from error


def each_of_several_images_has_its_span(vlm: ModelRunner) -> None:
    """Replacing one image changes embeddings only in the span of a query about that image."""
    require_several(vlm)
    shown = [WIDE, SQUARE, WIDE]
    queries = [
        Query("Which film is this?", "Casablanca", shown, about=about) for about in (0, 1, 2, None)
    ]
    batch = vlm.encode(queries)
    *spans, whole = [span.image for span in batch.spans]
    expect(spans[0][1] <= spans[1][0] and spans[1][1] <= spans[2][0], f"the spans {spans} overlap")
    expect(whole == (spans[0][0], spans[2][1]), "the span of all is not from the first to the last")
    spans_hold_image_tokens(spans, vlm.image_tokens(batch.inputs["input_ids"])[0])

    exchanged = replace(queries[0], image=[WIDE, random_image(2, 30, 30), WIDE])
    one, another = (
        vlm.hidden(vlm.encode([query]), EMBEDDINGS).hidden[0] for query in (queries[0], exchanged)
    )
    places = (one != another).any(-1).nonzero().flatten().tolist()
    expect(bool(places), "another image changes nothing")
    start, stop = spans[1]
    expect(start <= places[0] and places[-1] < stop, f"an image of {spans[1]} is in {places}")


def spans_hold_image_tokens(spans: list[tuple[int, int]], marks: Tensor) -> None:
    """Raise :class:`Broken` unless the spans hold all image tokens, and begin and end with one."""
    within = sum(int(marks[start:stop].sum()) for start, stop in spans)
    expect(int(marks.sum()) == within, "image tokens in no span")
    expect(
        all(bool(marks[start] & marks[stop - 1]) for start, stop in spans),
        "a span ends without an image token",
    )


def several_images_are_read_as_by_the_processor(vlm: ModelRunner) -> None:
    """Several images give the logits that the inputs of the model's own processor give."""
    require_several(vlm)
    for query in (replace(query, target="") for query in SEVERAL if len(query.images) > 1):
        batch = vlm.encode([query])
        processed = {
            name: vlm.put(value)
            for name, value in vlm.processed(query).items()
            if isinstance(value, Tensor)
        }
        ids = batch.inputs["input_ids"]
        expect(
            torch.equal(processed.get("input_ids", ids), ids),
            "the tokens are not as the processor makes them",
        )
        raw = vlm.model(**batch.inputs | processed, use_cache=False).logits
        close(vlm.logits(batch), raw, "logits and those of its own")


def several_images_in_a_batch(vlm: ModelRunner) -> None:
    """Rows of several images, of one and of none give the same together and alone."""
    require_several(vlm)
    loose = 5.0  # linear attention sums its decays over the padding, which is long here, in float32
    alone = [vlm.logits(vlm.encode([query]))[0] for query in SEVERAL]
    for side in SIDES:
        batch = vlm.encode(SEVERAL, padding_side=side)
        logits = real(vlm.logits(batch), batch.spans)
        rows_close(logits, alone, f"several images alone and padded on the {side}", loose)
        resumed = vlm.resume(middle(vlm), vlm.hidden(batch, middle(vlm)))
        rows_close(real(resumed, batch.spans), alone, "several images resumed", loose)
    expected = [cut(vlm, greedy(vlm, query, 3)) for query in SEVERAL]
    expect(
        vlm.generate(SEVERAL, max_new_tokens=3) == expected,
        "several images are answered otherwise in a batch",
    )
