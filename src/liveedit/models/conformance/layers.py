"""Checks of ``hidden`` and ``resume``: a forward pass up to a layer, and from there on."""

from dataclasses import replace
from functools import partial
from typing import Any

import torch

from liveedit.errors import BadInput
from liveedit.models.batch import HiddenBatch
from liveedit.models.conformance.assertions import (
    close,
    expect,
    real,
    refused,
    rows_close,
    running,
)
from liveedit.models.conformance.queries import QUERIES, SQUARE, WIDE
from liveedit.models.conformance.reference import middle
from liveedit.models.patch import main_output, side_by_side
from liveedit.models.runner import EMBEDDINGS, ModelRunner
from liveedit.types import Query

__all__ = [
    "a_layer_that_does_not_exist_is_refused",
    "hidden_stops_at_its_layer",
    "resume_at_positions",
    "resume_is_differentiable",
    "resume_runs_only_what_is_above",
    "rows_of_hidden_can_be_mixed_anew",
    "what_goes_into_the_first_layer",
]


def hidden_stops_at_its_layer(vlm: ModelRunner) -> None:
    """``hidden`` is the layer's output, and no layer above it runs."""
    layer = middle(vlm)
    batch = vlm.encode(QUERIES)
    outputs: list[Any] = []
    with vlm.layers[layer].register_forward_hook(lambda _m, _a, output: outputs.append(output)):
        vlm.logits(batch)
    with running(vlm.model) as names:
        hidden = vlm.hidden(batch, layer)
    output = side_by_side(main_output(outputs[0]))
    expect(torch.equal(hidden.hidden, output), "hidden is not the layer's output")
    expect(
        hidden.hidden.shape == (*batch.labels.shape, vlm.state_size),
        f"hidden is {tuple(hidden.hidden.shape)}",
    )
    ran = [f"{vlm.decoder_path}.layers.{number}" in names for number in range(vlm.num_layers)]
    expect(ran == [number <= layer for number in range(vlm.num_layers)], "other layers run")


def what_goes_into_the_first_layer(vlm: ModelRunner) -> None:
    """The first layer's input is the embedding of a text, and ``image_states`` for an image."""
    batch = vlm.encode(QUERIES)
    ids = batch.inputs["input_ids"]
    embedded = vlm.hidden(batch, EMBEDDINGS)
    for row, span in enumerate(batch.spans):
        answer = slice(*span.answer)
        close(
            embedded.hidden[row, answer],
            vlm.embedding(ids[row, answer]),
            "an answer and its embeddings",
        )
    batch = vlm.encode([Query("?", image=image) for image in (WIDE, SQUARE)])
    embedded = vlm.hidden(batch, EMBEDDINGS)
    for row, (image, span) in enumerate(zip((WIDE, SQUARE), batch.spans, strict=True)):
        close(
            vlm.image_states(image),
            embedded.hidden[row, slice(*span.image)],
            "an image's states alone and in a batch",
        )


def resume_runs_only_what_is_above(vlm: ModelRunner) -> None:
    """``resume`` runs neither the vision tower nor a layer below."""
    layer = middle(vlm)
    hidden = vlm.hidden(vlm.encode(QUERIES), layer)
    with running(vlm.model) as names:
        vlm.resume(layer, hidden)
    below = [f"{vlm.decoder_path}.layers.{number}" for number in range(layer + 1)]
    vision = [path for path in (vlm.tower_path, vlm.connector_path) if path]
    for path in (*below, *vision):
        expect(not any(name.startswith(f"{path}.") for name in names), f"resume runs {path}")
    above = f"{vlm.decoder_path}.layers.{layer + 1}."
    expect(any(name.startswith(above) for name in names), "resume skips a layer")


def resume_at_positions(vlm: ModelRunner) -> None:
    """``resume`` with positions gives the logits at these positions only."""
    batch = vlm.encode(QUERIES)
    hidden = vlm.hidden(batch, middle(vlm))
    positions = batch.answer_positions()
    close(
        vlm.resume(middle(vlm), hidden, positions),
        vlm.logits(batch)[positions],
        "resume at positions and logits",
    )


def resume_is_differentiable(vlm: ModelRunner) -> None:
    """Gradients of the logits that predict an answer reach every token of its row but the last."""
    batch = vlm.encode(QUERIES)
    hidden = vlm.hidden(batch, middle(vlm))
    leaf = hidden.hidden.clone().requires_grad_()
    states = replace(hidden, hidden=leaf)
    logits = vlm.resume(middle(vlm), states, batch.answer_positions()).float()
    torch.autograd.backward(logits.logsumexp(-1).sum())
    expect(leaf.grad is not None and bool(leaf.grad.isfinite().all()), "a gradient is not finite")
    for gradient, span in zip(leaf.grad if leaf.grad is not None else (), batch.spans, strict=True):
        before_last = gradient[span.prompt[0] : span.answer[1] - 1]
        expect(bool(before_last.abs().sum() > 0), "no gradient reaches a row")


def rows_of_hidden_can_be_mixed_anew(vlm: ModelRunner) -> None:
    """Rows of ``hidden``, stacked in another order and padded again, resume to the same logits."""
    order = [2, 0, 3, 1]
    for layer in (middle(vlm), EMBEDDINGS):
        batch = vlm.encode(QUERIES)
        rows = vlm.hidden(batch, layer).rows()
        stacked = HiddenBatch.stack([rows[index] for index in order])
        logits = real(vlm.logits(batch), batch.spans)
        resumed = real(vlm.resume(layer, stacked), stacked.spans)
        rows_close(resumed, [logits[index] for index in order], f"rows of layer {layer}, remixed")
        close(vlm.resume(layer, rows[1])[0], logits[1], "a row alone")


def a_layer_that_does_not_exist_is_refused(vlm: ModelRunner) -> None:
    """``hidden`` and ``resume`` refuse a layer that is not there."""
    batch = vlm.encode(QUERIES[:1])
    hidden = vlm.hidden(batch, 0)
    for layer in (-2, vlm.num_layers):
        refused(partial(vlm.hidden, batch, layer), BadInput, f"no layer {layer}")
        refused(partial(vlm.resume, layer, hidden), BadInput, f"no layer {layer}")
