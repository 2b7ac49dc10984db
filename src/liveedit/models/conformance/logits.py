"""Checks of whole forward passes."""

from dataclasses import replace

from liveedit.models.conformance.assertions import expect, real, rows_close
from liveedit.models.conformance.queries import QUERIES, SIDES, SQUARE, WIDE
from liveedit.models.runner import ModelRunner
from liveedit.types import Query

__all__ = [
    "a_batch_may_be_text_alone",
    "rows_are_equal_alone_and_in_a_batch",
    "the_image_matters",
    "the_model_is_frozen",
]


def rows_are_equal_alone_and_in_a_batch(vlm: ModelRunner) -> None:
    """A row gives the same logits alone and in a padded batch, whatever the padding side."""
    alone = [vlm.logits(vlm.encode([query]))[0] for query in QUERIES]
    for side in SIDES:
        batch = vlm.encode(QUERIES, padding_side=side)
        logits = real(vlm.logits(batch), batch.spans)
        rows_close(logits, alone, f"a row padded on the {side} and alone", 10.0)


def a_batch_may_be_text_alone(vlm: ModelRunner) -> None:
    """Texts give the same logits in a batch of their own and beside an image."""
    texts = [QUERIES[1], Query("What is the name?", "film")]
    batch = vlm.encode(texts)
    mixed = vlm.encode([*texts, QUERIES[0]])
    beside = real(vlm.logits(mixed)[:2], mixed.spans[:2])
    rows_close(real(vlm.logits(batch), batch.spans), beside, "texts alone and beside an image")


def the_image_matters(vlm: ModelRunner) -> None:
    """Another image gives other logits."""
    one, other = (
        vlm.logits(vlm.encode([replace(QUERIES[0], image=image)]))[0, -1]
        for image in (WIDE, SQUARE)
    )
    expect(float((one - other).abs().max()) > 1e-3, "the logits do not depend on the image")


def the_model_is_frozen(vlm: ModelRunner) -> None:
    """No parameter requires a gradient, and the model is in evaluation mode."""
    expect(
        not any(parameter.requires_grad for parameter in vlm.model.parameters()),
        "a parameter asks for a gradient",
    )
    expect(not vlm.model.training, "the model is in training mode")
