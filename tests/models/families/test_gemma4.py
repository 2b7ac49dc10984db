"""Gemma 4: shared keys and values are kept with the rows, and computed anew above a patch."""

import pytest
import torch

from liveedit.models.conformance.assertions import close, real, rows_close
from liveedit.models.conformance.contract import CHECKS
from liveedit.models.conformance.queries import QUERIES
from liveedit.models.conformance.sample_patches import Routed, Weights
from liveedit.models.tiny import tiny
from liveedit.models.tiny.type_overrides import OVERRIDES
from liveedit.models.vlm import VLM

SLIDING = "carried.shared_kv_states.sliding_attention"
FULL = "carried.shared_kv_states.full_attention"


@pytest.fixture(scope="module")
def vlm():
    return tiny("gemma4")


def shared(hidden):
    return {name for name in hidden.extra if name.startswith("carried.")}


def test_only_keys_that_layers_above_read_are_kept(vlm):
    batch = vlm.encode(QUERIES)
    kinds = vlm.model.config.get_text_config().layer_types
    assert [kind.partition("_")[0] for kind in kinds] == [
        "sliding",
        "full",
        "sliding",
        "sliding",
        "full",
    ]
    kept = [shared(vlm.hidden(batch, layer)) for layer in range(-1, 5)]
    assert kept == [set(), {SLIDING}, {SLIDING, FULL}, {SLIDING, FULL}, {FULL}, set()]
    states = vlm.hidden(batch, 1).extra[FULL]
    assert states.shape[:4] == (*batch.labels.shape, 2, 1)  # keys and values of one head


@pytest.mark.parametrize("name", [SLIDING, FULL])
def test_layers_above_read_the_kept_keys(vlm, name):
    hidden = vlm.hidden(vlm.encode(QUERIES), 2)
    logits = vlm.resume(2, hidden)
    hidden.extra[name][:, :, 1] = 0
    assert not torch.allclose(vlm.resume(2, hidden), logits, atol=1e-2)


def test_a_patch_below_the_shared_keys_is_seen_by_the_layers_that_share_them(vlm):
    batch = vlm.encode(QUERIES)
    plain = vlm.hidden(batch, 0)
    logits = vlm.logits(batch)
    weight = vlm.decoder.layers[1].self_attn.k_proj.weight
    path = f"{vlm.decoder_path}.layers.1.self_attn.k_proj.weight"
    for patch in (Weights({path: weight.flip(0)}), Routed(1, site="layers.{}.self_attn.v_proj")):
        with vlm.patched(patch):
            patched = vlm.logits(batch)
            rows_close(
                real(vlm.resume(0, plain), batch.spans),
                real(patched, batch.spans),
                "resume from below",
            )
            at = vlm.hidden(batch, 2)
        assert not torch.allclose(patched, logits, atol=1e-2)
        rows_close(
            real(vlm.resume(2, at), batch.spans), real(patched, batch.spans), "resume from above"
        )


def test_a_patch_sees_the_whole_prompt_in_a_layer_that_shares(vlm):
    patch = Routed(4)
    with vlm.patched(patch):
        vlm.generate(QUERIES[:1], max_new_tokens=2)
    assert patch.seen[0][1] > patch.seen[1][1] == 1


@pytest.mark.slow
def test_resume_agrees_with_a_whole_pass_in_bfloat16():
    half = tiny("gemma4")
    half = VLM(half.model.bfloat16(), half.processor)
    batch = half.encode(QUERIES)
    for layer in range(4):
        close(
            half.resume(layer, half.hidden(batch, layer)),
            half.logits(batch),
            f"resume from layer {layer}",
        )


@pytest.mark.one_in(6)
@pytest.mark.parametrize(
    "name",
    [
        "resume_continues_where_hidden_stopped",
        "rows_of_hidden_can_be_mixed_anew",
        "generation_sees_a_patch",
    ],
)
def test_the_larger_models_share_nothing(monkeypatch, name):
    text = OVERRIDES["gemma4"]["config"]["text_config"]
    larger = {"num_kv_shared_layers": 0, "hidden_size_per_layer_input": 0}
    monkeypatch.setitem(OVERRIDES["gemma4"]["config"], "text_config", text | larger)
    vlm = tiny("gemma4")
    CHECKS[name](vlm)
    assert not shared(vlm.hidden(vlm.encode(QUERIES), 1))
