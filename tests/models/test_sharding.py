"""A model whose layers are spread over memory and disk gives what the model in memory gives."""

from functools import partial

import pytest
import torch

from liveedit.editable import load_vlm
from liveedit.editors import new_editor
from liveedit.models.patch import Patch
from liveedit.models.tiny import tiny
from liveedit.models.vlm import EMBEDDINGS, VLM

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*do not match any submodules"
)  # BLIP-2's query tokens are in none
FAMILIES = ("llava", "blip2", "minigpt4", "mplug_owl2", "qwen2_vl", "qwen_vl")


@pytest.fixture(scope="module", params=FAMILIES)
def pair(request, tmp_path_factory, save_checkpoint):
    """The model in memory, and spread: four fifths of its size may stay in memory."""
    full = tiny(request.param)
    folder = save_checkpoint(full, tmp_path_factory.mktemp(request.param))
    most = {"cpu": full.model.get_memory_footprint() * 4 // 5}
    return full, VLM.load(
        folder, device_map="auto", max_memory=most, prompt_format=full.prompt_format
    )


def hooks(model):
    kinds = ("_forward_hooks", "_forward_pre_hooks")
    return {
        name: ([list(getattr(module, kind)) for kind in kinds], vars(module).get("forward"))
        for name, module in model.named_modules()
    }


class Shift(Patch):
    """Rotates the outputs of two layers."""

    def bind(self, batch):
        turn = partial(torch.roll, shifts=1, dims=-1)
        return {"layers.0": turn, "layers.3": turn}


def test_many_weights_are_on_the_disk(pair):
    vlm = pair[1]
    assert any(parameter.is_meta for parameter in vlm.layers.parameters())
    assert not all(parameter.is_meta for parameter in vlm.model.parameters())
    assert vlm.device.type == "cpu"


def test_every_method_gives_what_the_model_in_memory_gives(pair, queries):
    full, vlm = pair
    batch = full.encode(queries)
    logits = full.logits(batch)
    torch.testing.assert_close(vlm.logits(vlm.encode(queries)), logits)
    for layer in (EMBEDDINGS, 0, 3):
        hidden = vlm.hidden(batch, layer)
        assert hidden.hidden.device == vlm.device
        torch.testing.assert_close(hidden.hidden, full.hidden(batch, layer).hidden)
        torch.testing.assert_close(vlm.resume(layer, hidden), full.resume(layer, hidden))
    assert vlm.generate(queries, max_new_tokens=4) == full.generate(queries, max_new_tokens=4)
    torch.testing.assert_close(vlm.unembedding, full.unembedding)


def test_gradients_pass_through_layers_on_the_disk(pair, queries):
    slopes = []
    for model in pair:
        hidden = model.hidden(model.encode(queries), 1)
        hidden.hidden = hidden.hidden.clone().requires_grad_()
        model.resume(1, hidden, hidden.answer_positions()).logsumexp(-1).sum().backward()
        slopes.append(hidden.hidden.grad)
    torch.testing.assert_close(*slopes)


def test_a_patch_acts_and_leaves_accelerates_hooks(pair, queries):
    full, vlm = pair
    batch = vlm.encode(queries)
    before = hooks(vlm.model)
    plain = vlm.logits(batch)
    with vlm.patched(Shift()), full.patched(Shift()):
        torch.testing.assert_close(vlm.logits(batch), full.logits(batch))
        assert vlm.generate(queries, max_new_tokens=4) == full.generate(queries, max_new_tokens=4)
    assert hooks(vlm.model) == before
    assert torch.equal(vlm.logits(batch), plain)


def test_it_has_the_fingerprint_of_the_model_in_memory(pair):
    full, vlm = pair
    assert vlm.fingerprint == full.fingerprint


def test_an_edit_made_in_memory_opens_on_the_spread_model(pair, tmp_path, queries):
    full, vlm = pair
    settings = {"layer": 2, "steps": 2}
    made = new_editor(full, "grace", settings).edit(queries)
    made.save(tmp_path)
    opened = new_editor(vlm, "grace", settings).load_patch(tmp_path)
    batch = full.encode(queries)
    with full.patched(made), vlm.patched(opened):
        torch.testing.assert_close(vlm.logits(batch), full.logits(batch))


def test_the_embedded_model_may_be_spread(embedded_vlm, queries):
    spread = load_vlm("emblem", device_map="auto", max_memory={"cpu": "8MB"})
    assert any(parameter.is_meta for parameter in spread.model.parameters())
    assert spread.generate(queries, max_new_tokens=4) == embedded_vlm.generate(
        queries, max_new_tokens=4
    )
