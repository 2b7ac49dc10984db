"""Checks of patches: that they act where they should, and leave nothing behind."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from liveedit.errors import UnsupportedModel
from liveedit.models.batch import Batch, HiddenBatch
from liveedit.models.conformance.assertions import (
    NotApplicable,
    expect,
    real,
    refused,
    rows_close,
    unchanged,
)
from liveedit.models.conformance.logits import rows_are_equal_alone_and_in_a_batch
from liveedit.models.conformance.queries import QUERIES
from liveedit.models.conformance.reference import middle
from liveedit.models.conformance.sample_patches import Prefix, Routed, Weights
from liveedit.models.patch import Patch, Rewritten, SiteFn
from liveedit.models.runner import ModelRunner
from liveedit.types import Query

__all__ = [
    "a_patch_acts_and_leaves_nothing",
    "a_patch_is_bound_once_a_batch",
    "a_patch_sees_padded_rows_as_alone",
    "a_site_that_does_not_exist_is_refused",
    "an_empty_patch_leaves_logits_bit_equal",
    "an_exception_leaves_nothing",
    "gradients_reach_what_a_patch_brings_in",
    "hidden_and_resume_under_a_patch",
    "patches_can_be_nested",
    "rewriting_queries",
    "vectors_before_a_text_are_like_tokens_there",
    "weights_are_put_on_and_taken_off",
]

# Functions at sites


def a_patch_acts_and_leaves_nothing(vlm: ModelRunner) -> None:
    """A patch changes the logits; leaving it restores every parameter and hook bit for bit."""
    batch = vlm.encode(QUERIES)
    logits = vlm.logits(batch)
    with unchanged(vlm, batch), vlm.patched(Routed(middle(vlm))):
        expect(float((vlm.logits(batch) - logits).abs().max()) > 1e-3, "the patch does nothing")


def a_patch_is_bound_once_a_batch(vlm: ModelRunner) -> None:
    """A method binds a patch once in a call, however many tokens are generated."""
    patch = Routed(middle(vlm))
    with vlm.patched(patch):
        vlm.logits(vlm.encode(QUERIES))
        expect(patch.bound == 1, f"a batch binds {patch.bound} times")
        vlm.generate(QUERIES[:2], max_new_tokens=4)
        expect(patch.bound == 2, "generation binds more than once")


def a_patch_sees_padded_rows_as_alone(vlm: ModelRunner) -> None:
    """Under a patch, too, a row gives the same logits alone and padded on either side."""
    with vlm.patched(Routed(middle(vlm))):
        rows_are_equal_alone_and_in_a_batch(vlm)


def an_empty_patch_leaves_logits_bit_equal(vlm: ModelRunner) -> None:
    """An empty patch, and one whose functions change nothing, leave the logits bit for bit."""

    class Silent(Patch):
        def bind(self, batch: Batch) -> dict[str, SiteFn]:  # noqa: ARG002
            return {
                "layers.0": lambda states: states,
                f"layers.{middle(vlm)}": lambda states: states,
            }

    batch = vlm.encode(QUERIES)
    logits = vlm.logits(batch)
    for patch in (Patch(), Silent()):
        with unchanged(vlm, batch), vlm.patched(patch):
            expect(torch.equal(vlm.logits(batch), logits), "the logits differ")


def an_exception_leaves_nothing(vlm: ModelRunner) -> None:
    """A patch that raises leaves neither hook nor parameter behind."""

    class Faulty(Routed):
        def bind(self, batch: Batch) -> dict[str, SiteFn]:
            return {**super().bind(batch), f"layers.{middle(vlm)}": fail}

        def weights(self) -> dict[str, Tensor]:
            name, value = next(vlm.model.named_parameters())
            return {name: torch.zeros_like(value)}

    def patched(call: Callable[[], Any]) -> None:
        with vlm.patched(Faulty(0)):
            call()

    batch = vlm.encode(QUERIES)
    with unchanged(vlm, batch):
        for call in (
            partial(vlm.logits, batch),
            partial(vlm.generate, QUERIES[:2], max_new_tokens=2),
            partial(vlm.hidden, batch, middle(vlm)),
        ):
            refused(partial(patched, call), ZeroDivisionError, "faulty")


def fail(_states: Tensor) -> Tensor:
    """A function at a site that always raises."""
    raise ZeroDivisionError("the patch is faulty")


def a_site_that_does_not_exist_is_refused(vlm: ModelRunner) -> None:
    """A patch on a module that is not there is refused in one line."""
    batch = vlm.encode(QUERIES[:1])

    def astray() -> None:
        with vlm.patched(Routed(9999)):
            vlm.logits(batch)

    with unchanged(vlm, batch):
        refused(astray, UnsupportedModel, "layers.9999")


def hidden_and_resume_under_a_patch(vlm: ModelRunner) -> None:
    """A patch on a layer changes its ``hidden``; in ``resume`` only patches above it act."""
    layer = middle(vlm)
    batch = vlm.encode(QUERIES)
    plain = vlm.hidden(batch, layer)
    resumed = vlm.resume(layer, plain)
    with vlm.patched(Routed(layer)):
        at = vlm.hidden(batch, layer)
        expect(
            not torch.equal(at.hidden, plain.hidden), "what acts on the layer is not in its output"
        )
        logits = real(vlm.logits(batch), batch.spans)
        again = real(vlm.resume(layer, at), batch.spans)
        rows_close(again, logits, "resume under a patch on the layer")
        expect(
            torch.equal(vlm.resume(layer, plain), resumed),
            "what acts on the layer acts a second time",
        )
    with vlm.patched(Routed(layer + 1)):
        logits = real(vlm.logits(batch), batch.spans)
        above = real(vlm.resume(layer, plain), batch.spans)
        rows_close(above, logits, "resume under a patch above")
        stacked = HiddenBatch.stack(plain.rows()[::-1])
        mixed = real(vlm.resume(layer, stacked), stacked.spans)[::-1]
        rows_close(mixed, logits, "rows mixed again under a patch above")


def gradients_reach_what_a_patch_brings_in(vlm: ModelRunner) -> None:
    """The logits are differentiable with respect to the tensors of a patch."""
    batch = vlm.encode(QUERIES)
    scale = torch.tensor(0.5, device=vlm.device, requires_grad=True)
    with vlm.patched(Routed(middle(vlm), scale)):
        logits = vlm.logits(batch)[batch.answer_positions()].float()
        torch.autograd.backward(logits.logsumexp(-1).sum())
    expect(scale.grad is not None and bool(scale.grad.abs() > 0), "no gradient reaches the patch")


def patches_can_be_nested(vlm: ModelRunner) -> None:
    """Two patches act together, and the inner one leaves the outer as it was."""
    batch = vlm.encode(QUERIES)
    with unchanged(vlm, batch), vlm.patched(Routed(0)):
        one = vlm.logits(batch)
        with vlm.patched(Routed(middle(vlm) + 1)):
            both = vlm.logits(batch)
        expect(torch.equal(vlm.logits(batch), one), "leaving the inner patch changes the outer")
    expect(not torch.equal(one, both), "the second patch does nothing")


# Weights


def weights_are_put_on_and_taken_off(vlm: ModelRunner) -> None:
    """A patch of weights acts in all calls, takes gradients, and is removed bit for bit."""
    batch = vlm.encode(QUERIES)
    name = matrix_of_last_layer(vlm)
    old = vlm.model.get_parameter(name)
    noise = torch.randn(old.shape, generator=torch.Generator().manual_seed(0)).to(old)
    value = (old + 0.2 * noise).requires_grad_()
    logits = vlm.logits(batch)
    fingerprint = vlm.fingerprint
    with unchanged(vlm, batch), vlm.patched(Weights({name: value})):
        changed = vlm.logits(batch)
        expect(not torch.equal(changed, logits), "the weights do nothing")
        raw = vlm.model(**batch.inputs).logits
        expect(torch.equal(raw, changed), "a raw call does not see the weights")
        torch.autograd.backward(changed.float().sum())
        expect(
            value.grad is not None and float(value.grad.abs().max()) > 0,
            "no gradient reaches the weights",
        )
        expect(vlm.fingerprint == fingerprint, "the fingerprint is of the edited weights")


def matrix_of_last_layer(vlm: ModelRunner) -> str:
    """The name of the first matrix in the decoder's last layer."""
    last = f"layers.{vlm.num_layers - 1}."
    for name, value in vlm.decoder.named_parameters():
        if last in name and value.ndim == 2:
            return f"{vlm.decoder_path}.{name}"
    raise LookupError(f"there is no matrix in {last}")


# Questions and vectors before a text


def rewriting_queries(vlm: ModelRunner) -> None:
    """A patch that rewrites queries acts as if they had been given in that form."""

    class Context(Patch):
        def rewrite(self, query: Query) -> Rewritten:
            return Rewritten(replace(query, prompt=f"film? {query.prompt}"))

    batch = vlm.encode(QUERIES)
    rewritten = [Context().rewrite(query).query for query in QUERIES]
    expected = vlm.encode(rewritten).inputs["input_ids"]
    answers = vlm.generate(rewritten, max_new_tokens=3)
    with unchanged(vlm, batch), vlm.patched(Context()):
        ids = vlm.encode(QUERIES).inputs["input_ids"]
        expect(torch.equal(ids, expected), "the queries are not rewritten")
        expect(
            vlm.generate(QUERIES, max_new_tokens=3) == answers,
            "generation does not rewrite the queries",
        )


def vectors_before_a_text_are_like_tokens_there(vlm: ModelRunner) -> None:
    """Vectors that a patch puts before a text act as embeddings of tokens there would.

    A model may refuse them in one line; then the check does not apply.
    """
    batch = vlm.encode(QUERIES)
    token = int(vlm.encode([QUERIES[1]]).inputs["input_ids"][0, -1])
    patch = Prefix(vlm, token, (0, 1, 3))
    longer, places = batch.prefixed(patch.vectors, token)
    rows = torch.arange(len(QUERIES), device=vlm.device)[:, None]
    expected = vlm.logits(replace(longer, prefix={}))[rows, places]
    with unchanged(vlm, batch), vlm.patched(patch):
        try:
            logits = vlm.logits(batch)
        except UnsupportedModel as error:
            raise NotApplicable(str(error)) from error
        expect(logits.shape[:2] == batch.labels.shape, "the vectors' positions are in the logits")
        rows_close(
            real(logits, batch.spans),
            real(expected, batch.spans),
            "vectors and tokens before a text",
        )
