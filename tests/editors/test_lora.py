"""LoRA: what the weights become, and that one adapter goes from edit to edit."""

import pytest
import torch

from helpers.measures import target_loss
from helpers.samples import EDITS
from liveedit.editors.lora import LoRA, LoRAConfig
from liveedit.errors import UnsupportedModel
from liveedit.models.tiny import tiny

pytestmark = pytest.mark.families


@pytest.mark.parametrize("query", EDITS, ids=lambda query: query.target)
def test_an_edit_takes(vlm, query):
    before = target_loss(vlm, [query])
    with vlm.patched(LoRA(vlm, LoRAConfig(lr=1e-2)).edit([query])):
        assert target_loss(vlm, [query]) < 0.75 * before


def slow_product(b, a):
    """B A as a sum of outer products."""
    return sum(torch.outer(column, row) for column, row in zip(b.T, a, strict=True))


def test_the_weights_are_the_old_ones_plus_a_product_of_low_rank(vlm):
    editor = LoRA(vlm, LoRAConfig(rank=3, alpha=6.0, lr=1e-2, steps=4))
    patch = editor.edit(EDITS[:2])
    assert len(patch.weights()) == 2 * vlm.num_layers
    for name, value in patch.weights().items():
        change = value - vlm.model.get_parameter(name)
        expected = slow_product(patch.values[f"{name}.B"], patch.values[f"{name}.A"])
        torch.testing.assert_close(change, 2.0 * expected, rtol=1e-4, atol=1e-5)
        assert torch.linalg.matrix_rank(change, atol=1e-4) <= 3
    assert any(bool(value.any()) for name, value in patch.values.items() if name.endswith(".B"))


def test_before_the_first_step_nothing_changes(vlm):
    patch = LoRA(vlm, LoRAConfig(steps=0)).edit(EDITS[:1])
    for name, value in patch.weights().items():
        assert torch.equal(value, vlm.model.get_parameter(name))


def test_one_adapter_goes_from_edit_to_edit(vlm):
    editor = LoRA(vlm, LoRAConfig(steps=3))
    first = editor.edit(EDITS[:1])
    both = editor.edit(EDITS[1:2], first)
    assert both.values.keys() == first.values.keys()
    assert both.nbytes == first.nbytes
    for name, value in editor.edit(EDITS[:2]).values.items():
        assert torch.equal(both.values[name], value)
        if name.endswith(".B"):
            assert not torch.equal(first.values[name], value)


@pytest.mark.parametrize(
    ("family", "expected"),
    [
        ("kimi_k25", {"self_attn.q_b_proj", "self_attn.kv_b_proj"}),
        ("fuyu", {"self_attn.query_key_value"}),
        ("nemotron_h_omni", {"mixer.q_proj", "mixer.v_proj"}),
    ],
)
def test_latent_fused_and_hybrid_attention(family, expected):
    names = [name.removesuffix(".weight").split(".") for name in LoRA(tiny(family)).names]
    assert {".".join(parts[-2:]) for parts in names} == expected


def test_attention_without_such_projections_is_refused():
    vlm = tiny("llava")
    for layer in vlm.layers:
        layer.self_attn = torch.nn.Identity()
    with pytest.raises(UnsupportedModel, match="q_proj"):
        LoRA(vlm)
