"""FT-L: an edit takes, one goes on from the other, and nothing is left behind."""

import pytest
import torch
from PIL import Image

from liveedit.editors.ft import FTL, FTLConfig
from liveedit.errors import BadInput, Mismatch
from liveedit.models.tiny import tiny
from liveedit.types import Query

EDITS = [
    Query("What is the country with this flag?", "Japan", Image.new("RGB", (32, 32), "red")),
    Query("Which film is this?", "Casablanca", Image.new("RGB", (32, 32), "blue")),
]


@pytest.fixture(scope="module", params=["llava", "blip2", "qwen2_vl"])
def editor(request):
    return FTL(tiny(request.param), FTLConfig(lr=1e-2))


def loss(vlm, query):
    batch = vlm.encode([query])
    logits = vlm.logits(batch)[batch.answer_positions()]
    return float(torch.nn.functional.cross_entropy(logits, batch.labels[batch.labels >= 0]))


def test_an_edit_takes_and_leaves_no_trace(editor):
    state = {name: value.clone() for name, value in editor.vlm.model.state_dict().items()}
    before = loss(editor.vlm, EDITS[0])
    patch = editor.edit(EDITS[:1])
    with editor.vlm.patched(patch):
        after = loss(editor.vlm, EDITS[0])
    assert after < 0.5 * before
    assert all(torch.equal(value, state[name]) for name, value in editor.vlm.model.state_dict().items())


def test_edits_follow_one_another(editor):
    together = editor.edit(EDITS)
    apart = editor.edit(EDITS[1:], editor.edit(EDITS[:1]))
    assert len(together) == len(apart) == 2
    for name, value in together.weights().items():
        assert torch.equal(value, apart.weights()[name])


def test_it_stops_when_the_loss_is_small(editor):
    lazy = FTL(editor.vlm, FTLConfig(stop=1e9))
    for name, value in lazy.edit(EDITS).weights().items():
        assert torch.equal(value, lazy.empty().weights()[name])


def test_only_the_last_layers_matrices_are_tuned(editor):
    last = f"layers.{editor.vlm.num_layers - 1}."
    down, mlp = editor.empty().weights(), FTL(editor.vlm, FTLConfig(weights="mlp")).empty().weights()
    assert len(down) == 1
    assert len(mlp) in (2, 3)
    assert all(last in name for name in [*down, *mlp])


def test_the_first_step_is_adamw_by_hand(editor):
    one = FTL(editor.vlm, FTLConfig(lr=1e-3, steps=1))
    [(name, new)] = one.edit(EDITS[:1]).weights().items()
    parameter = dict(editor.vlm.model.named_parameters())[name]
    parameter.requires_grad_()
    batch = editor.vlm.encode(EDITS[:1])
    logits = editor.vlm.logits(batch)[batch.answer_positions()]
    torch.nn.functional.cross_entropy(logits, batch.labels[batch.labels >= 0]).backward()
    gradient = parameter.grad
    parameter.requires_grad_(False)
    parameter.grad = None
    expected = parameter - 1e-3 * gradient / (gradient.abs() + 1e-8)
    clear = gradient.abs() > 1e-5 * gradient.abs().max()
    torch.testing.assert_close(new[clear], expected[clear], rtol=1e-4, atol=1e-6)


def test_an_empty_target_and_another_patch_are_refused(editor):
    with pytest.raises(BadInput, match="target"):
        editor.edit([Query("What?", "", EDITS[0].image)])
    with pytest.raises(Mismatch):
        editor.edit(EDITS[:1], FTL(editor.vlm, FTLConfig(lr=0.5)).empty())
