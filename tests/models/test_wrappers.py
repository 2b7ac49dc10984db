"""Wrappers around a model, PEFT's adapters above all: they work, or are refused at once."""

import copy

import pytest
import torch
from torch import nn

from liveedit.editable import EditableVLM
from liveedit.editors import EDITORS, load_editor, new_editor
from liveedit.editors.base import TrainableEditor
from liveedit.errors import BadInput, Mismatch, UnsupportedModel
from liveedit.models.conformance.contract import CHECKS
from liveedit.models.conformance.queries import QUERIES
from liveedit.models.tiny import tiny
from liveedit.models.vlm import VLM

peft = pytest.importorskip("peft")

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")


def lora(model, **settings):
    """The model with adapters that change its answers."""
    torch.manual_seed(0)
    options = {
        "r": 4,
        "target_modules": ["q_proj", "v_proj"],
        "init_lora_weights": False,
    } | settings
    return peft.get_peft_model(model, peft.LoraConfig(**options))


@pytest.fixture
def made():
    return tiny("llava")


@pytest.mark.parametrize("family", ["llava", "blip2", "git", "qwen2_5_vl"])
def test_a_model_with_adapters_computes_what_peft_does(family):
    made = tiny(family)
    batch = made.encode(QUERIES)
    plain = made.logits(batch)
    wrapped = lora(made.model)
    vlm = VLM(wrapped, made.processor)
    assert type(vlm) is type(made)
    assert not torch.equal(vlm.logits(batch), plain)
    with wrapped.disable_adapter():
        assert torch.equal(vlm.logits(batch), plain)
    vlm.model.requires_grad_(False)  # which PEFT asks for when it switches adapters on
    for name in (
        "resume_continues_where_hidden_stopped",
        "generation_sees_a_patch",
        "a_patch_acts_and_leaves_nothing",
    ):
        CHECKS[name](vlm)


def test_the_fingerprint_is_of_the_weights_in_use(made):
    plain = made.fingerprint
    wrapped = lora(made.model, modules_to_save=["multi_modal_projector"])
    vlm = VLM(wrapped, made.processor)
    on = vlm.fingerprint
    assert on != plain
    with wrapped.disable_adapter():
        assert vlm.fingerprint == plain
    assert vlm.fingerprint == on
    wrapped.add_adapter(
        "other", peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    )
    assert vlm.fingerprint == on, "an adapter that is not in use changes nothing"
    wrapped.set_adapter("other")
    assert vlm.fingerprint not in (on, plain)


def test_the_fingerprint_changes_with_the_adapters(made):
    plain = made.fingerprint
    vlm = VLM(wrapped := lora(made.model), made.processor)
    found = [plain, vlm.fingerprint]
    for parameter in (
        parameter for name, parameter in wrapped.named_parameters() if "lora_B" in name
    ):
        parameter.data.mul_(2)
    found.append(vlm.fingerprint)
    wrapped.merge_adapter()
    found.append(vlm.fingerprint)
    wrapped.unmerge_adapter()
    wrapped.delete_adapter("default")
    wrapped.add_adapter(
        "default", peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    )
    found.append(vlm.fingerprint)
    assert len(set(found)) == len(found)


@pytest.mark.parametrize("form", ["wrapped", "base", "merged"])
def test_edits_on_a_model_with_adapters(form, made):
    wrapped = lora(made.model)
    model = {"wrapped": wrapped, "base": wrapped.get_base_model()}.get(form)
    vlm = VLM(wrapped.merge_and_unload() if model is None else model, made.processor)
    edited = EditableVLM(vlm, new_editor(vlm, "grace", {"eos": True}))
    before = edited.generate(QUERIES[0])
    edited.edit(QUERIES[0])
    [after] = edited.generate(QUERIES[0])
    assert after.startswith("Japan")
    assert not before[0].startswith("Japan")


@pytest.mark.parametrize(
    "config",
    [
        lambda: peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2),
        lambda: peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2),
    ],
)
def test_prompt_learning_is_refused(config, made):
    wrapped = peft.get_peft_model(made.model, config(), autocast_adapter_dtype=False)
    with pytest.raises(UnsupportedModel, match="prompt learning") as caught:
        VLM(wrapped, made.processor)
    assert "\n" not in str(caught.value)


def test_other_wrappers_are_unwrapped_or_refused(made):
    assert VLM(nn.DataParallel(made.model), made.processor).model is made.model
    assert VLM(torch.compile(made.model), made.processor).model is made.model
    with pytest.raises(UnsupportedModel, match="Linear is no Hugging Face model"):
        VLM(nn.Linear(2, 2), made.processor)
    made.model.model.language_model = torch.compile(made.model.model.language_model)
    with pytest.raises(UnsupportedModel, match=r"around a part of the model.*`compile\(\)`"):
        VLM(made.model, made.processor)


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
@pytest.mark.parametrize("editor", ["ft-l", "grace"])
def test_an_edit_within_a_mode_without_gradients(mode, editor, made):
    edited = EditableVLM(made, new_editor(made, editor, {"eos": True}))
    other = copy.copy(edited)
    with mode():
        edited.edit(QUERIES[0])
        answer = edited.generate(QUERIES[0])
    other.edit(QUERIES[0])
    assert other.generate(QUERIES[0]) == answer
    with torch.inference_mode(), pytest.raises(BadInput, match=r"leave torch\.inference_mode"):
        edited.editor.edit(QUERIES[:1])


def test_a_model_that_was_made_without_gradients_is_refused():
    with torch.inference_mode(), pytest.raises(BadInput, match="made within"):
        tiny("llava")


def adapters(kind, *names):
    """The settings of adapters of a kind, around layers of these names or all linear ones."""
    targets = [*names] or "all-linear"
    if kind == "ia3":
        return peft.IA3Config(
            target_modules=targets, feedforward_modules=targets, init_ia3_weights=False
        )
    return peft.LoraConfig(
        r=4, target_modules=targets, init_lora_weights=False, use_dora=kind == "dora"
    )


@pytest.mark.one_in(40)
@pytest.mark.parametrize("family", ["llava", "blip2"])
@pytest.mark.parametrize("editor", [name for name in EDITORS if name not in ("ike", "scr")])
def test_every_editor_edits_beside_adapters_on_all_layers(editor, family):
    """Editors train the layer within the adapters, by its name in PEFT, and no adapter."""
    made = tiny(family)
    vlm = VLM(peft.get_peft_model(made.model, adapters("lora")), made.processor)
    edited = EditableVLM(vlm, new_editor(vlm, editor, {}))
    edited.edit(QUERIES[0])
    weights = edited.patch.weights()
    with vlm.patched(edited.patch):
        state = vlm.model.state_dict()
        assert [
            name for name, value in weights.items() if not torch.equal(state[name], value)
        ] == []
    assert all("lora_" not in name for name in weights)


@pytest.mark.parametrize("kind", ["lora", "dora", "ia3"])
def test_the_gradient_is_that_of_the_layer_within_adapters(kind, made):
    """Whatever the adapters change in the layer's input and output."""
    names = ["down_proj"] if kind == "ia3" else []
    wrapped = peft.get_peft_model(made.model, adapters(kind, *names))
    vlm = VLM(wrapped, made.processor)
    editor = new_editor(vlm, "mend", {"layers": 1})
    batch = vlm.encode(QUERIES[:1])
    found = editor.gradients(vlm.hidden(batch, editor.below))
    matrix = editor.matrices[-1]
    weight = vlm.model.get_parameter(matrix.name).requires_grad_()
    positions = batch.answer_positions()
    targets = batch.labels.roll(-1, 1)
    loss = nn.functional.cross_entropy(vlm.logits(batch)[positions], targets[positions])
    [expected] = torch.autograd.grad(loss, [weight])
    torch.testing.assert_close(found[matrix.site].product()[0], expected, rtol=1e-3, atol=1e-6)


@pytest.mark.one_in(3)
@pytest.mark.parametrize("editor", ["ft-l", "ft-m", "lora", "lte", "mend", "wise"])
def test_edits_fit_the_same_model_with_adapters_that_are_off(editor, made, tmp_path):
    """Where the adapters are on, the edits are refused in one line."""

    def opened(model, edits):
        vlm = VLM(model, made.processor)
        trained = (tmp_path / "editor").exists()
        found = EditableVLM(
            vlm, load_editor(vlm, tmp_path / "editor") if trained else new_editor(vlm, editor, {})
        )
        found.load(tmp_path / edits)
        return found

    torch.manual_seed(0)
    edited = EditableVLM(made, new_editor(made, editor, {}))
    edited.edit(QUERIES[0])
    edited.save(tmp_path / "edits")
    if isinstance(edited.editor, TrainableEditor):
        edited.editor.save_pretrained(tmp_path / "editor")
    answers = edited.generate(QUERIES)
    wrapped = peft.get_peft_model(made.model, adapters("lora"))
    with pytest.raises(Mismatch, match=r"another model") as caught:
        opened(wrapped, "edits")
    assert "\n" not in str(caught.value)
    with wrapped.disable_adapter():
        again = opened(wrapped, "edits")
        assert again.generate(QUERIES) == answers
        again.save(tmp_path / "back")
    assert opened(wrapped.unload(), "back").generate(QUERIES) == answers
