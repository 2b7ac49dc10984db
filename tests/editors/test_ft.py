"""FT-L and FT-M: against training the whole model; an edit continues from the one before."""

import copy
import math

import pytest
import torch
from torch.nn import functional as F

from helpers.measures import target_loss
from helpers.samples import EDITS
from liveedit.editors.common.fine_tuning import WeightsPatch
from liveedit.editors.ft import FTL, FTM, FTLConfig, FTMConfig
from liveedit.errors import BadInput, Mismatch, StorageError, UnsupportedModel
from liveedit.models.tiny import tiny
from liveedit.types import Query

pytestmark = pytest.mark.families

DOWN = {
    "llava": ["model.language_model.layers.3.mlp.down_proj.weight"],
    "blip-2": ["language_model.model.decoder.layers.3.fc2.weight"],
    "qwen2_vl": ["model.language_model.layers.3.mlp.down_proj.weight"],
}


@pytest.fixture(scope="module")
def editor(vlm):
    return FTL(vlm, FTLConfig(lr=3e-2))


def loss(vlm, query, model):
    """Mean NLL of the target's tokens, by one whole forward pass of the model."""
    batch = vlm.encode([query])
    logits = model(**batch.inputs, use_cache=False).logits
    return F.cross_entropy(logits[batch.answer_positions()], batch.labels[batch.labels >= 0])


def probability(vlm, query):
    """The probability of the whole target."""
    tokens = len(vlm.encode([query]).answer_tokens())
    return math.exp(-tokens * target_loss(vlm, [query]))


@pytest.mark.parametrize("query", EDITS, ids=lambda query: query.target)
def test_an_edit_takes(vlm, editor, query):
    before = probability(vlm, query)
    with vlm.patched(editor.edit([query])):
        after = probability(vlm, query)
    assert after > 50 * before


def test_matrices_by_name(vlm, editor):
    family = vlm.model.config.model_type
    assert editor.names == DOWN[family]
    names = FTL(vlm, FTLConfig(weights="mlp")).names
    assert len(names) == (2 if family == "blip-2" else 3)
    assert all("layers.3." in name and ("mlp" in name or "fc" in name) for name in names)
    assert set(editor.edit(EDITS[:1]).weights()) == set(DOWN[family])


@pytest.mark.parametrize("weights", ["down", "mlp"])
def test_against_training_the_whole_model(vlm, weights):
    """The same steps by whole forward passes on a copy of the model, all else frozen."""
    config = FTLConfig(lr=1e-3, steps=4, weights=weights)
    made = FTL(vlm, config).edit(EDITS[:2])
    model = copy.deepcopy(vlm.model)
    tuned = [model.get_parameter(name).requires_grad_() for name in made.weights()]
    for query in EDITS[:2]:
        optimizer = torch.optim.AdamW(tuned, lr=config.lr, weight_decay=0.0)
        for _ in range(config.steps):
            optimizer.zero_grad()
            loss(vlm, query, model).backward()
            optimizer.step()
    for name, value in made.weights().items():
        start = vlm.model.get_parameter(name)
        torch.testing.assert_close(
            value - start, model.get_parameter(name) - start, rtol=2e-2, atol=2e-5
        )


def test_the_first_step_is_that_of_adamw(vlm):
    [(name, new)] = FTL(vlm, FTLConfig(lr=1e-3, steps=1)).edit(EDITS[:1]).weights().items()
    parameter = vlm.model.get_parameter(name)
    parameter.requires_grad_()
    loss(vlm, EDITS[0], vlm.model).backward()
    gradient = parameter.grad
    parameter.requires_grad_(False)
    parameter.grad = None
    expected = parameter - 1e-3 * gradient / (gradient.abs() + 1e-8)
    clear = gradient.abs() > 1e-5 * gradient.abs().max()
    torch.testing.assert_close(new[clear], expected[clear], rtol=1e-4, atol=1e-6)


def test_edits_follow_one_another(editor):
    together, first = editor.edit(EDITS), editor.edit(EDITS[:1])
    held = {name: value.clone() for name, value in first.weights().items()}
    apart = editor.edit(EDITS[1:], first)
    assert (len(first), len(apart), len(together)) == (1, 3, 3)
    for name, value in together.weights().items():
        assert torch.equal(value, apart.weights()[name])
        assert torch.equal(first.weights()[name], held[name])
        assert not torch.equal(value, held[name])


def test_training_stops_when_the_loss_is_small(vlm, editor):
    for name, value in FTL(vlm, FTLConfig(stop=1e9)).edit(EDITS).weights().items():
        assert torch.equal(value, vlm.model.get_parameter(name))
    enough = editor.edit(EDITS[:1])
    with vlm.patched(enough):
        reached = target_loss(vlm, EDITS[:1])
    lazy = FTL(vlm, FTLConfig(lr=3e-2, stop=1.001 * reached, steps=1000)).edit(EDITS[:1])
    for name, value in lazy.weights().items():
        assert torch.equal(value, enough.weights()[name])


def test_the_layers_below_run_once_an_edit(vlm):
    """Counted where the feed-forward network ends, since layers that are skipped are called as
    well.
    """
    counts = [0] * vlm.num_layers
    ends = [layer.mlp if hasattr(layer, "mlp") else layer.fc2 for layer in vlm.layers]

    def count(module, *_):
        counts[ends.index(module)] += 1

    handles = [end.register_forward_hook(count) for end in ends]
    FTL(vlm, FTLConfig(steps=5)).edit(EDITS[:1])
    for handle in handles:
        handle.remove()
    assert counts == [1, 1, 1, 5]


def test_the_end_of_text_is_learnt_if_asked(vlm):
    end = FTL(vlm, FTLConfig(lr=3e-2, eos=True))
    batch = vlm.encode(EDITS[:1], eos=True)
    position = int(batch.answer_positions()[0].nonzero()[-1])
    with torch.no_grad():
        before = vlm.logits(batch)[0, position].log_softmax(-1)[vlm.tokenizer.eos_token_id]
        with vlm.patched(end.edit(EDITS[:1])):
            after = vlm.logits(batch)[0, position].log_softmax(-1)[vlm.tokenizer.eos_token_id]
    assert after > before + 1


def test_half_precision_is_trained_in_full():
    vlm = tiny("llava")
    vlm.model.bfloat16()
    before = probability(vlm, EDITS[0])
    patch = FTL(vlm, FTLConfig(lr=3e-2)).edit(EDITS[:1])
    assert all(value.dtype == torch.float32 for value in patch.weights().values())
    with vlm.patched(patch):
        assert probability(vlm, EDITS[0]) > 50 * before
        assert vlm.dtype == torch.bfloat16


def test_a_saved_patch_goes_on_bit_for_bit(editor, tmp_path):
    first = editor.edit(EDITS[:2])
    first.save(tmp_path / "patch")
    again = editor.load_patch(tmp_path / "patch")
    assert len(again) == 2
    for name, value in editor.edit(EDITS[2:], first).weights().items():
        assert torch.equal(again.weights()[name], first.weights()[name])
        assert torch.equal(editor.edit(EDITS[2:], again).weights()[name], value)


def test_an_empty_patch_is_saved_too(editor, tmp_path):
    editor.empty().save(tmp_path)
    again = editor.load_patch(tmp_path)
    assert len(again) == again.nbytes == 0


def test_its_size_is_that_of_the_matrices(editor, vlm):
    sizes = [vlm.model.get_parameter(name).numel() for name in editor.names]
    assert editor.edit(EDITS).nbytes == editor.edit(EDITS[:1]).nbytes == 4 * sum(sizes)


def test_a_folder_that_cannot_be_written(editor, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot write"):
        editor.edit(EDITS[:1]).save(tmp_path / "file" / "patch")


def test_edits_patches_and_settings_that_do_not_fit_are_refused(vlm, editor):
    with pytest.raises(BadInput, match="target"):
        editor.edit([Query("What?", "", EDITS[0].image)])
    with pytest.raises(Mismatch):
        editor.edit(EDITS[:1], FTL(vlm, FTLConfig(lr=0.5)).edit(EDITS[:1]))
    with pytest.raises(Mismatch):
        editor.edit(EDITS[:1], WeightsPatch(FTL(tiny("llava", seed=1), editor.config), {}, 0))
    with pytest.raises(BadInput, match="it should be 'down' or 'mlp'"):
        FTL(vlm, FTLConfig(weights="attention"))
    with pytest.raises(BadInput, match="take back"):
        editor.select(editor.edit(EDITS), [0])


def test_a_model_without_an_mlp_is_refused():
    vlm = tiny("llava")
    vlm.layers[-1].mlp = torch.nn.Identity()
    with pytest.raises(UnsupportedModel, match="MLP"):
        FTL(vlm)


IMAGES = [query for query in EDITS if query.image is not None]


@pytest.fixture(scope="module")
def connector(vlm):
    return FTM(vlm, FTMConfig(lr=3e-2))


@pytest.mark.parametrize("query", IMAGES, ids=lambda query: query.target)
def test_the_connector_learns_an_edit(vlm, connector, query):
    before = target_loss(vlm, [query])
    with vlm.patched(connector.edit([query])):
        assert target_loss(vlm, [query]) < 0.75 * before


def test_the_connector_against_training_the_whole_model(vlm):
    config = FTMConfig(lr=1e-3, steps=3)
    made = FTM(vlm, config).edit(IMAGES)
    model = copy.deepcopy(vlm.model)
    tuned = [model.get_parameter(name).requires_grad_() for name in made.weights()]
    for query in IMAGES:
        optimizer = torch.optim.AdamW(tuned, lr=config.lr, weight_decay=0.0)
        for _ in range(config.steps):
            optimizer.zero_grad()
            loss(vlm, query, model).backward()
            optimizer.step()
    moved = 0
    for name, value in made.weights().items():
        start = vlm.model.get_parameter(name)
        end = model.get_parameter(name)
        close = (value - end).abs() <= 2e-4 + 2e-2 * (end - start).abs()
        assert close.float().mean() > 0.97, name  # elsewhere the gradient is only noise
        moved += int((value != start).sum())
    assert moved


def test_the_connector_leaves_questions_without_image_alone(vlm, connector):
    batch = vlm.encode(EDITS[2:])
    plain = vlm.logits(batch)
    with vlm.patched(connector.edit(IMAGES)):
        assert torch.equal(vlm.logits(batch), plain)
    with pytest.raises(BadInput, match="give the image"):
        connector.edit(EDITS[2:])


def test_the_vision_tower_runs_once_an_edit(vlm):
    if not vlm.tower_path:
        pytest.skip("the vision tower of this family cannot be passed over")
    counts = []
    tower = vlm.model.get_submodule(vlm.tower_path)
    deep = next(module for name, module in tower.named_modules() if name.endswith("layers.0"))
    handle = deep.register_forward_hook(lambda *_: counts.append(1))
    FTM(vlm, FTMConfig(steps=5, stop=0.0)).edit(IMAGES[:1])
    handle.remove()
    assert counts == [1]
    assert "forward" not in vars(tower)
