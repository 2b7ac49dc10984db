"""What every registered editor promises. A new one is tested by being registered."""

import json
from dataclasses import asdict

import pytest
import torch
from PIL import Image, ImageDraw

from liveedit.editors import EDITORS, load_editor, new_editor
from liveedit.editors.base import Editor
from liveedit.errors import BadInput, Mismatch, UnknownName
from liveedit.models.conformance.reference import cut, greedy
from liveedit.models.patch import Patch
from liveedit.models.tiny import tiny
from liveedit.types import Query

SMALL = {
    "lemoe": {"batch": 2, "rank": 4, "steps": 4, "lr": 1e-2},
    "liveedit": {"module_dim": 16, "heads": 2, "layer": 2, "rank": 4},
    "pinpoint": {"module_dim": 16, "heads": 2, "layer": 2, "rank": 24},
    "recipe": {"key_dim": 16, "layer": 2},
    "serac": {"module_dim": 16, "heads": 2, "layer": 2, "width": 16, "depth": 1},
    "wise": {"shard": 1, "merge": 2, "steps": 4},
}
RETRIEVING = ("ike", "lte")
"""Settings that make a method fit a tiny model."""


def picture(colour):
    image = Image.new("RGB", (32, 32), colour)
    ImageDraw.Draw(image).ellipse((8, 8, 24, 24), fill="white")
    return image


EDITS = [
    Query("What is the country with this flag?", "Japan", picture("red")),
    Query("Which film is this?", "Rain", picture("blue")),
    Query("What is the name of this thing?", "a cup", picture("green")),
]
OTHERS = [
    Query("Who sang the song?", "nobody"),
    Query("Which film is this?", "Japan", picture("yellow")),
]


def open_filter(editor):
    """Let every expert of an untrained router pass, so that there is something to see."""
    for name, parameter in (
        getattr(editor, "networks", dict)().items() if hasattr(editor, "networks") else []
    ):
        if name == "input_features":
            with torch.no_grad():
                parameter.sentinel.zero_()
    return editor


FAMILIES = ("llava", "blip2", "qwen2_vl")
PAIRS = [(name, family) for name in sorted(EDITORS) for family in FAMILIES]
PAIRS += [
    (name, family)
    for name in ("liveedit", "lora", "pinpoint")
    for family in ("minigpt4", "mplug_owl2")
]


@pytest.fixture(scope="module", params=PAIRS, ids="-".join)
def editor(request, sentence_encoder):
    name, family = request.param
    settings = SMALL.get(name, {}) | ({"retriever": sentence_encoder} if name in RETRIEVING else {})
    return open_filter(new_editor(tiny(family), name, settings))


def logits(editor, patch, queries):
    with editor.vlm.patched(patch), torch.no_grad():
        return editor.vlm.logits(editor.vlm.encode(queries))


def same(one, other):
    """Whether two parameters are one object of the same bits."""
    return one[0] is other[0] and torch.equal(one[1], other[1])


def parameters(model):
    return {
        name: (value, value.clone())
        for name, value in model.named_parameters(remove_duplicate=False)
    }


def hooks(model):
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return [
        (name, [list(getattr(module, kind)) for kind in kinds])
        for name, module in model.named_modules()
    ]


def test_its_names_agree(editor):
    assert EDITORS[editor.name].where.endswith(f":{type(editor).__name__}")
    assert EDITORS[editor.name].paper


def test_its_settings_survive_json_and_shape_its_fingerprint(editor):
    settings = asdict(editor.config)
    assert editor.settings(json.loads(json.dumps(settings))) == editor.config
    assert editor.fingerprint == editor.fingerprint
    fixed = getattr(editor, "inference_settings", frozenset())
    numbers = {
        name: n for name, n in settings.items() if name not in fixed and type(n) in (int, float)
    }
    name = next(
        (name for name, number in numbers.items() if type(number) is float), next(iter(numbers))
    )
    changed = new_editor(
        editor.vlm, editor.name, settings | {name: type(numbers[name])(numbers[name] / 2)}
    )
    assert changed.fingerprint != editor.fingerprint


def test_a_trained_editor_comes_back_from_its_folder(editor, tmp_path):
    if not hasattr(editor, "save_pretrained"):
        assert (
            load_editor(editor.vlm, editor.name).fingerprint == type(editor)(editor.vlm).fingerprint
        )
        (tmp_path / "config.json").write_text(
            json.dumps({"editor": editor.name, "config": asdict(editor.config)})
        )
        assert load_editor(editor.vlm, tmp_path).fingerprint == editor.fingerprint
        return
    patch = editor.edit(EDITS)
    editor.save_pretrained(tmp_path / "editor")
    patch.save(tmp_path / "patch")
    again = load_editor(editor.vlm, tmp_path / "editor")
    assert again.fingerprint == editor.fingerprint
    assert torch.equal(
        logits(again, again.load_patch(tmp_path / "patch"), EDITS), logits(editor, patch, EDITS)
    )
    editor.save_pretrained(tmp_path / "half", torch.float16)
    half = load_editor(editor.vlm, tmp_path / "half")
    for value, kept in zip(
        half.networks().parameters(), editor.networks().parameters(), strict=True
    ):
        assert torch.equal(value, kept.half().float())


def test_an_empty_patch_changes_nothing(editor):
    patch = editor.empty()
    assert len(patch) == 0
    plain = editor.vlm.logits(editor.vlm.encode(EDITS + OTHERS))
    assert torch.equal(logits(editor, patch, EDITS + OTHERS), plain)
    answers = editor.vlm.generate(EDITS + OTHERS, max_new_tokens=4)
    with editor.vlm.patched(patch):
        assert editor.vlm.generate(EDITS + OTHERS, max_new_tokens=4) == answers


def test_nothing_to_edit_leaves_a_patch_as_it_is(editor):
    patch = editor.edit(EDITS[:1])
    same = editor.edit([], patch)
    assert len(same) == 1
    assert torch.equal(logits(editor, same, EDITS), logits(editor, patch, EDITS))


def test_edit_is_pure_and_counts(editor):
    model = editor.vlm.model
    held, hooked = parameters(model), hooks(model)
    first = editor.edit(EDITS[:1])
    seen = logits(editor, first, EDITS)
    both, other = editor.edit(EDITS[1:], first), editor.edit(EDITS[2:], first)
    found = logits(editor, other, EDITS)
    assert (len(first), len(both), len(other)) == (1, 3, 2)
    assert torch.equal(logits(editor, first, EDITS), seen)
    assert torch.equal(logits(editor, editor.edit(EDITS[2:], first), EDITS), found)
    assert all(same(held[name], value) for name, value in parameters(model).items())
    assert hooks(model) == hooked
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_an_edit_is_seen_and_leaving_restores_bit_for_bit(editor):
    model, batch = editor.vlm.model, editor.vlm.encode(EDITS)
    plain, held, hooked = editor.vlm.logits(batch), parameters(model), hooks(model)
    patch = editor.edit(EDITS)
    assert not torch.equal(logits(editor, patch, EDITS), plain)
    with pytest.raises(ZeroDivisionError), editor.vlm.patched(patch):
        _ = 1 / 0
    assert torch.equal(editor.vlm.logits(batch), plain)
    assert all(same(held[name], value) for name, value in parameters(model).items())
    assert hooks(model) == hooked


def test_a_patch_says_what_it_takes(editor):
    assert editor.edit(EDITS).nbytes > 0


def test_who_fired_is_one_list_a_row(editor):
    patch = editor.edit(EDITS)
    with editor.vlm.patched(patch):
        batch = editor.vlm.encode(EDITS + OTHERS)
        editor.vlm.logits(batch)
    fired = batch.fired_by(patch)
    assert len(fired) in (0, len(EDITS + OTHERS))
    assert all(0 <= expert < len(patch) for row in fired for expert, _ in row)


def test_editing_does_not_depend_on_gradients_being_on(editor):
    with torch.no_grad():
        patch = editor.edit(EDITS)
    assert torch.equal(logits(editor, patch, EDITS), logits(editor, editor.edit(EDITS), EDITS))


def test_a_patched_model_is_not_edited(editor):
    with (
        editor.vlm.patched(editor.edit(EDITS[:1])),
        pytest.raises(BadInput, match="leave `patched`"),
    ):
        editor.edit(EDITS[1:])


def test_editing_is_deterministic(editor):
    assert torch.equal(
        logits(editor, editor.edit(EDITS), EDITS), logits(editor, editor.edit(EDITS), EDITS)
    )


def test_one_by_one_is_as_good_as_together(editor):
    patch = None
    for query in EDITS:
        patch = editor.edit([query], patch)
    torch.testing.assert_close(
        logits(editor, patch, EDITS),
        logits(editor, editor.edit(EDITS), EDITS),
        rtol=1e-4,
        atol=1e-4,
    )


def test_generate_agrees_with_logits(editor):
    patch = editor.edit(EDITS)
    with editor.vlm.patched(patch), torch.no_grad():
        for query in EDITS:
            assert editor.vlm.generate([query], max_new_tokens=4) == [
                cut(editor.vlm, greedy(editor.vlm, query, 4))
            ]


def test_a_saved_patch_loads_back_bit_equal(editor, tmp_path):
    patch = editor.edit(EDITS)
    patch.save(tmp_path)
    again = editor.load_patch(tmp_path)
    assert len(again) == len(patch)
    assert torch.equal(logits(editor, again, EDITS + OTHERS), logits(editor, patch, EDITS + OTHERS))


def test_a_patch_of_another_editor_is_refused(editor, tmp_path):
    patch = editor.edit(EDITS[:1])
    patch.save(tmp_path)
    other = next(name for name in EDITORS if name != editor.name)
    stranger = new_editor(editor.vlm, other, SMALL.get(other, {}))
    with pytest.raises(Mismatch):
        stranger.edit(EDITS[:1], patch)
    with pytest.raises((BadInput, Mismatch)):
        stranger.load_patch(tmp_path)
    with pytest.raises(Mismatch):
        editor.edit(EDITS[:1], Patch())


def test_a_patch_of_another_model_is_refused(editor, tmp_path):
    editor.edit(EDITS[:1]).save(tmp_path)
    family = editor.vlm.model.config.model_type.replace("blip-2", "blip2")
    with pytest.raises(Mismatch, match="another model"):
        new_editor(tiny(family, seed=1), editor.name, SMALL.get(editor.name, {})).load_patch(
            tmp_path
        )


@pytest.mark.parametrize("content", [None, b"", b"x" * 64])
def test_what_is_no_patch_is_refused(editor, tmp_path, content):
    if content is not None:
        editor.edit(EDITS[:1]).save(tmp_path)
        for file in tmp_path.iterdir():
            file.write_bytes(content)
    with pytest.raises(BadInput):
        editor.load_patch(tmp_path)


def test_taking_back_an_edit_gives_the_patch_without_it(editor):
    patch = editor.edit(EDITS)
    if type(editor).select is Editor.select:
        with pytest.raises(BadInput, match="take back"):
            editor.select(patch, [0, 2])
        return
    rest = editor.select(patch, [0, 2])
    assert len(rest) == 2
    assert torch.equal(
        logits(editor, editor.select(patch, [0, 1, 2]), EDITS), logits(editor, patch, EDITS)
    )
    kept = [0, 2] if editor.independent else [0, 1]
    rest, without = editor.select(patch, kept), editor.edit([EDITS[index] for index in kept])
    torch.testing.assert_close(
        logits(editor, rest, EDITS), logits(editor, without, EDITS), rtol=1e-5, atol=1e-5
    )


def test_an_edit_without_target_is_refused(editor):
    with pytest.raises(BadInput, match="target"):
        editor.edit([Query("What is this?", " ", picture("red"))])


def test_an_unknown_setting_is_named(editor):
    with pytest.raises(BadInput, match="colour is no setting"):
        new_editor(editor.vlm, editor.name, {"colour": 1})


def test_an_unknown_editor_is_named_with_the_nearest(editor):
    with pytest.raises(UnknownName, match="did you mean liveedit"):
        new_editor(editor.vlm, "livedit")


@pytest.mark.parametrize("name", ["ke", "liveedit", "mend", "pinpoint", "recipe", "serac"])
def test_its_networks_are_drawn_by_the_seed_alone(name):
    vlm, settings = tiny("llava"), SMALL.get(name, {})
    torch.manual_seed(3)
    made = new_editor(vlm, name, settings)
    drawn = torch.rand(1)
    torch.manual_seed(3)
    assert torch.equal(torch.rand(1), drawn)
    assert new_editor(vlm, name, settings, seed=0).fingerprint == made.fingerprint
    assert new_editor(vlm, name, settings, seed=1).fingerprint != made.fingerprint


@pytest.mark.parametrize(("layers", "layer"), [(4, 2), (32, 21)])
def test_the_layer_is_after_two_thirds_unless_it_is_named(layers, layer, monkeypatch):
    """Of LLaVA's 32 it is the released one; what is stored has it as a number."""
    monkeypatch.setattr("liveedit.models.tiny.families.LAYERS", layers)
    vlm = tiny("llava")
    for name in ("liveedit", "pinpoint", "recipe", "serac"):
        small = {"recipe": {"key_dim": 8}}.get(name, {"module_dim": 16, "heads": 2})
        small |= {"width": 16, "depth": 1} if name == "serac" else {}
        editor = new_editor(vlm, name, small)
        assert editor.layer == editor.config.layer == layer
        assert editor.fingerprint == new_editor(vlm, name, small | {"layer": layer}).fingerprint
        assert new_editor(vlm, name, small | {"layer": 1}).layer == 1
