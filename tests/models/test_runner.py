"""Forward passes: resuming from a layer, and the logits."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import transformers
from accelerate.hooks import ModelHook, add_hook_to_module

from liveedit.editors.common.branch import Recorder
from liveedit.models.runner import scaled
from liveedit.models.tiny import tiny
from liveedit.models.vlm import VLM
from liveedit.types import Query


def test_resume_where_embeddings_are_narrower_than_the_decoder(flag):
    """OPT-350m projects its embeddings up, and its states down before the output embedding."""
    vlm = tiny("blip2")
    config = vlm.model.config
    config.text_config.word_embed_proj_dim = 16
    torch.manual_seed(0)
    model = transformers.Blip2ForConditionalGeneration(config)
    model.language_projection = torch.nn.Linear(32, 16)
    narrow = VLM(model, vlm.processor)
    batch = narrow.encode([Query("Which flag?", "Japan", flag)])
    torch.testing.assert_close(narrow.resume(1, narrow.hidden(batch, 1)), narrow.logits(batch))


def test_resume_gives_accelerates_forward_back(flag):
    vlm = tiny("llava")
    batch = vlm.encode([Query("Which flag?", "Japan", flag)])
    logits = vlm.logits(batch)
    add_hook_to_module(vlm.layers[0], ModelHook())
    held = vars(vlm.layers[0])["forward"]
    torch.testing.assert_close(vlm.resume(1, vlm.hidden(batch, 1)), logits)
    assert vars(vlm.layers[0])["forward"] is held
    assert "forward" not in vars(vlm.layers[1])


def test_the_last_network_runs_where_logits_are_wanted_and_nowhere_else(flag):
    """Logits and gradients are those of the whole forward pass, up to rounding."""
    vlm = tiny("llava")
    batch = vlm.encode(
        [Query("Which flag?", "Japan", flag), Query("And this?", "Peru or so", flag)]
    )
    hidden = vlm.hidden(batch, 1)
    wanted = batch.answer_positions()
    seen = []
    network = vlm.layers[-1].mlp.down_proj
    handle = network.register_forward_hook(lambda _module, args, _: seen.append(args[0].shape[:-1]))
    found = []
    for positions in (None, wanted):
        states = hidden.hidden.clone().requires_grad_()
        logits = vlm.resume(1, replace(hidden, hidden=states), positions)
        answer = logits[wanted] if positions is None else logits
        answer.logsumexp(-1).sum().backward()
        found.append((answer.detach(), states.grad))
    handle.remove()
    assert seen == [wanted.shape, (1, int(wanted.sum()))]
    torch.testing.assert_close(found[0], found[1])
    assert "forward" not in vars(vlm.layers[-1].mlp)


def test_a_patch_at_the_last_network_sees_all_its_tokens(flag):
    vlm = tiny("llava")
    batch = vlm.encode([Query("Which flag?", "Japan", flag)])
    recorder = Recorder(f"layers.{vlm.num_layers - 1}.mlp.down_proj")
    with vlm.patched(recorder):
        vlm.resume(1, vlm.hidden(batch, 1), batch.answer_positions())
    [seen] = recorder.seen.values()
    assert seen.shape[:2] == batch.labels.shape


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ({}, 2.0),
        ({"logit_scale": 0.5}, 1.0),
        ({"logits_scaling": 4.0}, 0.5),
        ({"logits_scaling": 4.0, "model_type": "hyperclovax"}, 8.0),
        ({"final_logit_softcapping": 1.0}, float(torch.tanh(torch.tensor(2.0)))),
    ],
)
def test_logits_are_scaled_as_the_config_says(setting, expected):
    assert scaled(torch.tensor(2.0), SimpleNamespace(**setting)) == expected
