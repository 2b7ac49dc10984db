"""Layers below the edits run once for the same prompts, and give the same bits again."""

from contextlib import nullcontext

import pytest
import torch
from PIL import Image

from liveedit.editors.common.branch import Recorder
from liveedit.models.lower_layers import LowerLayers
from liveedit.models.patch import Patch
from liveedit.models.tiny import tiny
from liveedit.types import Query

COUNT = 2


class Shift(Patch):
    """Adds a constant to the output of a layer."""

    def __init__(self, layer, size):
        self.site = f"layers.{layer}"
        self.size = size

    def __len__(self):
        return 1

    def bind(self, batch):
        return {self.site: lambda states: states + self.size}


class Rewriting(Shift):
    """Rewrites the question as well."""

    def rewrite(self, query):
        return super().rewrite(query)


@pytest.fixture(scope="module", params=["llava", "blip2", "qwen2_vl"])
def vlm(request):
    return tiny(request.param)


@pytest.fixture
def runs(vlm):
    """The layers that have run, in turn."""
    seen = []
    handles = []
    for number, layer in enumerate(vlm.layers):
        note = lambda *_, number=number: seen.append(number)  # noqa: E731
        inner = next(layer.children())
        handles.append(inner.register_forward_hook(note))
    yield seen
    for handle in handles:
        handle.remove()


def asked(*prompts):
    image = Image.new("RGB", (30, 30), (200, 40, 90))
    return [Query(prompt, "Japan", image) for prompt in prompts]


def answers(vlm, queries, patch, below=None):
    with vlm.patched(patch), below.reused() if below else nullcontext():
        return vlm.generate(queries, max_new_tokens=5)


@torch.no_grad()
def logits(vlm, queries, patch, below=None):
    batch = vlm.encode(queries)
    with vlm.patched(patch), below.reused() if below else nullcontext():
        return vlm.logits(batch)


@pytest.mark.parametrize("ask", [answers, logits])
def test_other_edits_above_get_the_same_bits(vlm, ask):
    queries = asked("Which country is it?", "Which film?")
    below = LowerLayers(vlm.layers[:COUNT])
    for size in (0.0, 3.0, -2.0):
        patch = Shift(COUNT, size)
        found = ask(vlm, queries, patch, below)
        wanted = ask(vlm, queries, patch)
        assert torch.equal(found, wanted) if ask is logits else found == wanted


def test_the_layers_run_once(vlm, runs):
    queries = asked("Which country is it?")
    below = LowerLayers(vlm.layers[:COUNT])
    logits(vlm, queries, Shift(COUNT, 1.0), below)
    assert set(range(COUNT)) <= set(runs)
    runs.clear()
    logits(vlm, queries, Shift(COUNT, 2.0), below)
    assert not set(range(COUNT)) & set(runs)
    assert set(range(COUNT, vlm.num_layers)) <= set(runs)


@pytest.mark.parametrize("prompt", ["Which film is it?", "Which countr"])
def test_other_prompts_run_the_layers(vlm, prompt):
    below = LowerLayers(vlm.layers[:COUNT])
    patch = Shift(COUNT, 1.0)
    logits(vlm, asked("Which country is it?"), patch, below)
    other = asked(prompt)
    assert torch.equal(logits(vlm, other, patch, below), logits(vlm, other, patch))
    assert answers(vlm, other, patch, below) == answers(vlm, other, patch)


def test_what_a_patch_leaves_as_it_is(vlm):
    batch = vlm.encode(asked("Which country is it?"))
    assert vlm.unchanged_layers(Shift(2, 1.0), batch) == 2
    assert vlm.unchanged_layers(Recorder("layers.3.mlp", "layers.1"), batch) == 1
    assert vlm.unchanged_layers(Recorder("layers.3", "norm"), batch) == 0
    assert vlm.unchanged_layers(Rewriting(2, 1.0), batch) == 0
    assert vlm.unchanged_layers(Patch(), batch) == 0
