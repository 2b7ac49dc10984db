"""Where the feed-forward network is: in decoders of experts, and in hybrids, where not every layer
has one.
"""

import pytest
import torch

from liveedit.editors.ft import FTL
from liveedit.errors import UnsupportedModel
from liveedit.models.feed_forward import (
    down_projection,
    feed_forward,
    highest_layer,
    inner_width,
    matrices,
    stacked_down_projections,
)
from liveedit.models.patch import INPUT
from liveedit.models.tiny import tiny
from liveedit.types import Query


def test_a_hybrid_has_it_in_some_of_its_layers():
    vlm = tiny("nemotron_h_omni")  # a state space, experts, attention, a perceptron
    assert [highest_layer(vlm, limit) for limit in range(4)] == [0, 1, 1, 3]
    assert feed_forward(vlm, 3).reads == f"layers.3.mixer{INPUT}"
    assert down_projection(vlm, 1) == "layers.1.mixer.shared_experts.down_proj"
    for refused in (feed_forward, down_projection, inner_width):
        with pytest.raises(UnsupportedModel, match="no feed-forward network"):
            refused(vlm, 2)


def test_latent_experts_have_a_last_matrix_for_all_tokens():
    vlm = tiny("muse_spark")
    assert down_projection(vlm, 3) == "layers.3.mlp.post_expert_proj"
    assert inner_width(vlm, 3) == vlm.hidden_size // 2


def test_routed_experts_alone_have_none():
    vlm = tiny("qwen3_vl_moe")
    assert matrices(vlm, 3, vlm.module_names.down) == []
    assert stacked_down_projections(vlm, 3) == ["layers.3.mlp.experts.down_proj"]
    assert inner_width(vlm, 3) == 64
    with pytest.raises(UnsupportedModel, match="linear layers for every token"):
        down_projection(vlm, 3)
    assert FTL(vlm).names == [f"{vlm.decoder_path}.layers.3.mlp.experts.down_proj"]


def test_a_gate_of_attention_is_not_the_networks():
    vlm = tiny("muse_glimmer")
    names = ("gate_proj", *vlm.module_names.down)
    assert matrices(vlm, 3, names) == [
        "layers.3.mlp.gate_proj",
        "layers.3.mlp.down_proj",
    ]


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_row_s_prompt_is_the_same_alone_and_beside_a_longer_one(side):
    vlm = tiny("llava")
    queries = [Query("Who?", "Ann"), Query("Which of these is the longer question?", "this one")]
    batch = vlm.encode(queries, padding_side=side)
    for query, row, tokens in zip(
        queries, batch.inputs["input_ids"], batch.prompt_tokens(), strict=True
    ):
        alone = vlm.encode([query])
        assert torch.equal(row[tokens], alone.inputs["input_ids"][alone.prompt_tokens()])
