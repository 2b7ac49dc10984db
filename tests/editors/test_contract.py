"""The contract of every registered editor. A new one is tested by being registered."""

import json
from dataclasses import asdict, replace
from itertools import product

import pytest
import torch

from helpers.measures import Snapshot, fired_under, logits_under
from helpers.samples import BLUE, GREEN, RED, picture
from helpers.tiny_settings import TRAINABLE, has_setting, small_settings
from liveedit.editors import EDITORS, load_editor, new_editor
from liveedit.editors.base import Editor, TrainableEditor
from liveedit.errors import BadInput, Mismatch, UnknownName
from liveedit.models.conformance.reference import cut, greedy
from liveedit.models.patch import Patch
from liveedit.models.tiny import tiny
from liveedit.types import Query

EDITS = [
    Query("What is the country with this flag?", "Japan", RED),
    Query("Which film is this?", "Rain", BLUE),
    Query("What is the name of this thing?", "a cup", GREEN),
]
OTHERS = [
    Query("Who sang the song?", "nobody"),
    Query("Which film is this?", "Japan", picture("yellow")),
]
ALL = EDITS + OTHERS

FAMILIES = ("llava", "blip2", "qwen2_vl")
PAIRS = list(product(sorted(EDITORS), FAMILIES))
PAIRS += product(("liveedit", "lora", "pinpoint"), ("minigpt4", "mplug_owl2"))
"""Editors and families; experts and weights also on two families of this package's own classes."""


def marks(editor, family):
    """By default an editor keeps the contract on one family; on the others ``make test-all``."""
    by_default = FAMILIES[sorted(EDITORS).index(editor) % len(FAMILIES)]
    if family == by_default:
        return []
    return [pytest.mark.slow, pytest.mark.xdist_group(f"contract-{editor}-{family}")]


PARAMETERS = [pytest.param(pair, id="-".join(pair), marks=marks(*pair)) for pair in PAIRS]


@pytest.fixture(scope="module", params=PARAMETERS)
def pair(request):
    """The name of an editor, and that of a family."""
    return request.param


@pytest.fixture(scope="module")
def settings(pair, sentence_encoder):
    """Settings that make the editor fit a tiny model."""
    return small_settings(pair[0], sentence_encoder)


@pytest.fixture(scope="module")
def editor(pair, settings):
    """An editor on a tiny model, whose edits fire even if its networks are untrained."""
    name, family = pair
    return with_low_threshold(new_editor(tiny(family), name, settings))


def with_low_threshold(editor):
    """Set the threshold of an untrained router so low that an edit is seen."""
    features = getattr(editor, "input_features", None)
    if features is not None:
        with torch.no_grad():
            features.sentinel.zero_()
    return editor


@pytest.fixture(scope="module")
def patch(editor):
    """All edits, made together; no test may change it."""
    return editor.edit(EDITS)


@pytest.fixture(scope="module")
def first(editor):
    """The first edit alone; no test may change it."""
    return editor.edit(EDITS[:1])


@pytest.fixture(scope="module")
def edited(editor, patch):
    """The logits of the edits' own queries under all edits."""
    return logits_under(patch, editor.vlm, EDITS)


def test_its_names_agree(editor):
    assert EDITORS[editor.name].where.endswith(f":{type(editor).__name__}")
    assert EDITORS[editor.name].paper


def test_its_settings_survive_json(editor):
    settings = json.loads(json.dumps(asdict(editor.config)))
    assert editor.settings(settings) == editor.config


def test_an_editor_of_the_same_settings_and_seed_has_the_same_fingerprint(editor, settings):
    again = with_low_threshold(new_editor(editor.vlm, editor.name, settings))
    assert again is not editor
    assert again.fingerprint == editor.fingerprint


def test_another_setting_makes_another_fingerprint(editor):
    settings = asdict(editor.config)
    setting = changeable(editor, settings)
    number = settings[setting]
    changed = replace(editor.config, **{setting: type(number)(number / 2)})
    assert type(editor)(editor.vlm, changed).fingerprint != fingerprint_of(editor)


def fingerprint_of(editor):
    """The fingerprint of a fresh editor of the same settings, with networks of torch's seed."""
    torch.manual_seed(0)
    return type(editor)(editor.vlm, editor.config).fingerprint


def changeable(editor, settings):
    """A setting with a number that shapes edits, a fraction if there is one."""
    fixed = getattr(editor, "inference_settings", frozenset())
    numbers = [
        name
        for name, value in settings.items()
        if name not in fixed and type(value) in (int, float)
    ]
    return next((name for name in numbers if type(settings[name]) is float), numbers[0])


def test_an_editor_comes_back_from_its_folder(editor, patch, edited, tmp_path):
    if isinstance(editor, TrainableEditor):
        editor.save_pretrained(tmp_path / "editor")
    else:
        (tmp_path / "editor").mkdir()
        about = {"editor": editor.name, "config": asdict(editor.config)}
        (tmp_path / "editor" / "config.json").write_text(json.dumps(about))
    patch.save(tmp_path / "patch")
    again = load_editor(editor.vlm, tmp_path / "editor")
    assert again.fingerprint == editor.fingerprint
    opened = again.load_patch(tmp_path / "patch")
    assert torch.equal(logits_under(opened, editor.vlm, EDITS), edited)


def test_an_editor_saved_in_half_precision_has_rounded_weights(editor, tmp_path):
    if not isinstance(editor, TrainableEditor):
        pytest.skip("has no networks")
    editor.save_pretrained(tmp_path, torch.float16)
    half = load_editor(editor.vlm, tmp_path)
    pairs = zip(half.networks().parameters(), editor.networks().parameters(), strict=True)
    for value, kept in pairs:
        assert torch.equal(value, kept.half().float())


def test_only_a_method_without_networks_is_loaded_by_its_name(editor, pair):
    if isinstance(editor, TrainableEditor):
        with pytest.raises(BadInput, match="has to be trained"):
            load_editor(editor.vlm, pair[0])
    else:
        default = type(editor)(editor.vlm)
        assert load_editor(editor.vlm, pair[0]).fingerprint == default.fingerprint


def test_an_empty_patch_changes_nothing(editor):
    vlm = editor.vlm
    empty = editor.empty()
    assert len(empty) == 0
    assert torch.equal(logits_under(empty, vlm, ALL), vlm.logits(vlm.encode(ALL)))
    answers = vlm.generate(ALL, max_new_tokens=4)
    with vlm.patched(empty):
        assert vlm.generate(ALL, max_new_tokens=4) == answers


def test_without_queries_a_patch_stays_as_it_is(editor, first):
    same = editor.edit([], first)
    assert len(same) == 1
    vlm = editor.vlm
    assert torch.equal(logits_under(same, vlm, EDITS), logits_under(first, vlm, EDITS))


def test_editing_leaves_the_model_and_the_former_patch_as_they_were(editor):
    vlm = editor.vlm
    vlm.logits(vlm.encode(EDITS))  # transformers registers hooks of its own in a model's first call
    before = Snapshot(vlm.model)
    first = editor.edit(EDITS[:1])
    seen = logits_under(first, vlm, EDITS)
    all_three = editor.edit(EDITS[1:], first)
    two = editor.edit(EDITS[2:], first)
    assert (len(first), len(all_three), len(two)) == (1, 3, 2)
    assert torch.equal(logits_under(first, vlm, EDITS), seen)
    again = editor.edit(EDITS[2:], first)
    assert torch.equal(logits_under(again, vlm, EDITS), logits_under(two, vlm, EDITS))
    before.assert_unchanged()


def test_an_edit_changes_the_logits_and_leaving_restores_them_bit_for_bit(editor, patch, edited):
    vlm = editor.vlm
    batch = vlm.encode(EDITS)
    plain = vlm.logits(batch)
    before = Snapshot(vlm.model)
    assert not torch.equal(edited, plain)
    with pytest.raises(ZeroDivisionError), vlm.patched(patch):
        _ = 1 / 0
    assert torch.equal(vlm.logits(batch), plain)
    before.assert_unchanged()


def test_a_patch_says_how_many_bytes_it_has(editor, first, patch):
    assert editor.empty().nbytes == 0
    assert 0 < first.nbytes <= patch.nbytes


def test_the_edits_that_fired_are_one_list_a_row(editor, patch):
    fired = fired_under(patch, editor.vlm, ALL)
    assert len(fired) in (0, len(ALL))
    for row in fired:
        assert all(0 <= edit < len(patch) for edit, _ in row)


def test_editing_does_not_depend_on_gradients_being_on(editor, edited):
    with torch.no_grad():
        made = editor.edit(EDITS)
    assert torch.equal(logits_under(made, editor.vlm, EDITS), edited)


def test_a_patched_model_is_not_edited(editor, first):
    with editor.vlm.patched(first), pytest.raises(BadInput, match="leave `patched`"):
        editor.edit(EDITS[1:])


def test_editing_is_deterministic(editor, edited):
    torch.manual_seed(7)  # the caller's random state plays no part
    assert torch.equal(logits_under(editor.edit(EDITS), editor.vlm, EDITS), edited)


def test_edits_made_one_by_one_are_those_made_together(editor, edited):
    patch = None
    for query in EDITS:
        patch = editor.edit([query], patch)
    found = logits_under(patch, editor.vlm, EDITS)
    torch.testing.assert_close(found, edited, rtol=1e-4, atol=1e-4)


def test_generation_agrees_with_the_logits(editor, patch):
    vlm = editor.vlm
    with vlm.patched(patch), torch.no_grad():
        for query in EDITS:
            expected = cut(vlm, greedy(vlm, query, 4))
            assert vlm.generate([query], max_new_tokens=4) == [expected]


def test_a_saved_patch_loads_back_bit_equal(editor, patch, tmp_path):
    patch.save(tmp_path)
    again = editor.load_patch(tmp_path)
    assert len(again) == len(patch)
    expected = logits_under(patch, editor.vlm, ALL)
    assert torch.equal(logits_under(again, editor.vlm, ALL), expected)


def test_a_patch_of_another_editor_is_refused(editor, first, tmp_path, sentence_encoder):
    first.save(tmp_path)
    name = next(name for name in EDITORS if name != editor.name)
    other = new_editor(editor.vlm, name, small_settings(name, sentence_encoder))
    with pytest.raises(Mismatch, match="another editor"):
        other.edit(EDITS[:1], first)
    with pytest.raises((BadInput, Mismatch)):
        other.load_patch(tmp_path)
    with pytest.raises(Mismatch, match="another editor"):
        editor.edit(EDITS[:1], Patch())


def test_a_patch_of_another_model_is_refused(pair, settings, first, tmp_path):
    name, family = pair
    first.save(tmp_path)
    with pytest.raises(Mismatch, match="another model"):
        new_editor(tiny(family, seed=1), name, settings).load_patch(tmp_path)


@pytest.mark.parametrize("content", [None, b"", b"x" * 64], ids=["missing", "empty", "text"])
def test_a_folder_without_a_patch_is_refused(editor, first, tmp_path, content):
    if content is not None:
        first.save(tmp_path)
        for file in tmp_path.iterdir():
            file.write_bytes(content)
    with pytest.raises(BadInput):
        editor.load_patch(tmp_path)


def takes_back(editor):
    """Whether single edits can be taken back."""
    return type(editor).select is not Editor.select


def test_taking_back_an_edit_gives_the_patch_without_it(editor, patch, edited):
    if not takes_back(editor):
        pytest.skip("cannot take back single edits")
    vlm = editor.vlm
    assert len(editor.select(patch, [0, 2])) == 2
    assert torch.equal(logits_under(editor.select(patch, [0, 1, 2]), vlm, EDITS), edited)
    kept = [0, 2] if editor.independent else [0, 1]
    without = editor.edit([EDITS[index] for index in kept])
    found = logits_under(editor.select(patch, kept), vlm, EDITS)
    expected = logits_under(without, vlm, EDITS)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_a_method_that_cannot_take_back_an_edit_says_so(editor, patch):
    if takes_back(editor):
        pytest.skip("can take back single edits")
    with pytest.raises(BadInput, match="take back"):
        editor.select(patch, [0, 2])


def test_an_edit_without_target_is_refused(editor):
    with pytest.raises(BadInput, match="target"):
        editor.edit([Query("What is this?", " ", RED)])


def test_an_unknown_setting_is_named(editor):
    with pytest.raises(BadInput, match="colour is not a setting"):
        new_editor(editor.vlm, editor.name, {"colour": 1})


def test_an_unknown_editor_is_named_with_the_nearest(vlm):
    with pytest.raises(UnknownName, match="did you mean liveedit"):
        new_editor(vlm, "livedit")


@pytest.mark.parametrize("name", TRAINABLE)
def test_its_networks_are_drawn_by_the_seed_alone(name, vlm, sentence_encoder):
    settings = small_settings(name, sentence_encoder)
    torch.manual_seed(3)
    made = new_editor(vlm, name, settings)
    drawn = torch.rand(1)
    torch.manual_seed(3)
    assert torch.equal(torch.rand(1), drawn)
    assert new_editor(vlm, name, settings, seed=0).fingerprint == made.fingerprint
    other = new_editor(vlm, name, settings, seed=1)
    assert (other.fingerprint == made.fingerprint) == starts_from_the_model(made)


def starts_from_the_model(editor):
    """Whether the untrained networks are copies of the model's own parameters."""
    own = list(editor.vlm.model.parameters())
    return all(is_any_of(value, own) for value in editor.networks().parameters())


def is_any_of(value, tensors):
    """Whether a tensor equals one of others."""
    return any(torch.equal(value, tensor) for tensor in tensors)


@pytest.mark.parametrize(("layers", "layer"), [(4, 2), (32, 21)])
@pytest.mark.parametrize("name", [name for name in TRAINABLE if has_setting(name, "layer")])
def test_the_layer_is_after_two_thirds_unless_it_is_named(name, layers, layer, monkeypatch):
    """Of LLaVA's 32 it is the released one; a saved editor names it as a number."""
    monkeypatch.setattr("liveedit.models.tiny.families.LAYERS", layers)
    vlm = tiny("llava")
    settings = small_settings(name) | {"layer": None}
    editor = new_editor(vlm, name, settings)
    assert editor.layer == editor.config.layer == layer
    named = new_editor(vlm, name, settings | {"layer": layer})
    assert editor.fingerprint == named.fingerprint
    assert new_editor(vlm, name, settings | {"layer": 1}).layer == 1
