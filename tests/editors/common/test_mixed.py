"""The edits of several editors in one patch: in each row the newest edit that fires has its way."""

from itertools import permutations

import pytest
import torch

from helpers.samples import BLUE, EDITS, GREEN, QUESTION, RED, noise
from helpers.tiny_settings import small_settings
from liveedit.editors import EDITORS, new_editor
from liveedit.editors.common.mixed import MixedEditor, mixes
from liveedit.errors import BadInput
from liveedit.models.tiny import tiny
from liveedit.types import Query

MIXING = ["direct", "grace", "horen", "liveedit", "pinpoint", "serac"]
QUERIES = [Query(QUESTION, image=RED), Query(QUESTION, image=BLUE), Query("Why?", image=noise(1))]


@pytest.fixture(scope="module")
def eager(vlm):
    """A function that makes an editor whose edits fire on every query about an image."""

    def make(seed=0, **settings):
        return new_editor(
            vlm, "liveedit", {**small_settings("liveedit"), "margin": -1e9, **settings}, seed
        )

    return make


@pytest.fixture(scope="module")
def grace(vlm):
    """An editor whose edits fire on their own queries alone."""
    return new_editor(vlm, "grace", {"steps": 5})


def mixed_patch(*editors, edits):
    """The editor and the patch of edits, each given as the index of its editor and its query."""
    editor = MixedEditor(editors)
    patch = editor.empty()
    for number, query in edits:
        order = [editors[number], *(each for each in editors if each is not editors[number])]
        patch = moved(patch, MixedEditor(order))
        patch = patch.editor.edit([query], patch)
    return patch


def moved(patch, editor):
    """The patch with its parts in the order of an editor's."""
    places = [patch.editor.editors.index(each) for each in editor.editors]
    numbers = [places.index(part) for part in patch.bank["part"].tolist()]
    parts = [patch.parts[place] for place in places]
    return editor.of_parts(parts, numbers).with_ledger(patch.ledger)


@torch.no_grad()
def logits(vlm, patch, queries=QUERIES):
    with vlm.patched(patch):
        return [vlm.logits(vlm.encode([query])) for query in queries]


def same(first, second):
    return [torch.equal(one, other) for one, other in zip(first, second, strict=True)]


def fired(vlm, patch, query):
    with vlm.patched(patch):
        [reply] = vlm.answers([query], max_new_tokens=1)
    return [edit for edit, _ in reply.fired]


def test_methods_that_mix_are_those_that_act_on_states_alone(vlm, sentence_encoder):
    editors = {
        name: new_editor(vlm, name, small_settings(name, sentence_encoder)) for name in EDITORS
    }
    assert [name for name, editor in sorted(editors.items()) if mixes(type(editor))] == MIXING


@pytest.mark.parametrize("layers", [(2, 2), (1, 2), (2, 1)])
def test_of_two_editors_that_fire_the_one_with_the_newest_edit_acts(vlm, eager, layers):
    first, second = (eager(seed, layer=layer) for seed, layer in enumerate(layers))
    one, other = Query(QUESTION, "Japan", RED), Query("Which film is this?", "Rain", BLUE)
    unedited = logits(vlm, first.empty())
    alone = [logits(vlm, first.edit([one])), logits(vlm, second.edit([other]))]
    assert not any(same(*alone))
    assert not any(same(alone[0], unedited))
    patch = mixed_patch(first, second, edits=[(0, one), (1, other)])
    assert all(same(logits(vlm, patch), alone[1]))
    assert fired(vlm, patch, QUERIES[2]) == [1]
    patch = mixed_patch(first, second, edits=[(1, other), (0, one)])
    assert all(same(logits(vlm, patch), alone[0]))
    assert fired(vlm, patch, QUERIES[2]) == [1]


def test_the_rows_of_a_batch_are_decided_one_by_one(vlm, eager, grace):
    """And the edits of an editor act together as they do alone."""
    wide = eager()
    edits = [(0, EDITS[0]), (0, EDITS[1]), (1, Query(QUESTION, "Peru", GREEN))]
    patch = mixed_patch(wide, grace, edits=edits)
    queries = [Query(QUESTION, image=GREEN), Query(QUESTION, image=RED)]
    expected = [
        logits(vlm, grace.edit([edits[2][1]]), queries[:1])[0],
        logits(vlm, wide.edit(EDITS[1:2], wide.edit(EDITS[:1])), queries[1:])[0],
    ]
    assert all(same(logits(vlm, patch, queries), expected))
    with torch.no_grad(), vlm.patched(patch):
        together = vlm.logits(vlm.encode(queries))
        replies = vlm.answers(queries, max_new_tokens=4, scores=True)
    assert all(torch.allclose(together[row], expected[row][0], atol=1e-5) for row in range(2))
    assert [sorted(edit for edit, _ in reply.fired) for reply in replies] == [[2], [0, 1]]
    assert [len(reply.scores.above) for reply in replies] == [3, 3]
    for reply, (number, query) in zip(replies, [(2, queries[0]), (0, queries[1])], strict=True):
        part, _ = patch.row(number)
        with vlm.patched(part):
            [alone] = vlm.answers([query], max_new_tokens=4, scores=True)
        assert reply.text == alone.text


def test_where_no_edit_fires_the_model_is_unedited_to_the_bit(vlm, grace):
    other = new_editor(vlm, "grace", {"steps": 3})
    patch = mixed_patch(grace, other, edits=[(0, EDITS[0]), (1, EDITS[1])])
    assert all(same(logits(vlm, patch), logits(vlm, grace.empty())))
    assert fired(vlm, patch, QUERIES[0]) == []


def test_a_later_edit_of_a_question_supersedes_in_every_part(vlm, eager, grace):
    first, later = Query(QUESTION, "Japan", RED), Query(QUESTION, "Peru", RED)
    wide = eager()
    patch = mixed_patch(wide, grace, edits=[(0, first), (1, later)])
    assert fired(vlm, patch, QUERIES[0]) == [1]
    assert fired(vlm, patch, QUERIES[1]) == []  # where the superseded edit fired
    left = patch.editor.select(patch, [0])
    assert fired(vlm, left, QUERIES[1]) == [0]
    assert all(same(logits(vlm, left), logits(vlm, wide.edit([first]))))
    gone = patch.editor.select(patch, [])
    assert all(same(logits(vlm, gone), logits(vlm, wide.empty())))


@pytest.mark.parametrize("options", [{"num_beams": 3}, {"use_cache": False}])
def test_a_raw_generate_goes_on_with_the_part_that_acts(vlm, eager, options):
    first, second = eager(0), eager(1)
    edits = [Query("Why?", "so", BLUE), Query(QUESTION, "Peru", RED)]
    patch = mixed_patch(first, second, edits=[(0, edits[0]), (1, edits[1])])
    batch = vlm.encode([Query("Who sang?"), *QUERIES[:2]], padding_side="left")
    found = []
    for each in (patch, second.edit(edits[1:])):
        with vlm.patched(each):
            found.append(vlm.model.generate(**batch.inputs, max_new_tokens=6, **options))
    assert torch.equal(*found)


def test_a_raw_call_about_images_is_refused_only_where_parts_act_at_several_layers(vlm, eager):
    edits = [(0, EDITS[0]), (1, EDITS[1])]
    inputs = dict(vlm.encode([QUERIES[0]]).inputs)
    with torch.no_grad(), vlm.patched(mixed_patch(eager(0), eager(1), edits=edits)):
        edited = vlm.model(**inputs).logits
    with torch.no_grad(), vlm.patched(eager(1).edit([EDITS[1]])):
        assert torch.equal(vlm.model(**inputs).logits, edited)
    direct = new_editor(vlm, "direct", small_settings("direct") | {"layer": 2})
    with torch.no_grad(), vlm.patched(mixed_patch(direct, eager(1), edits=edits)):
        assert torch.equal(vlm.model(**inputs).logits, edited)  # it reads below the layer
    several = mixed_patch(eager(0, layer=1), eager(1), edits=edits)
    with vlm.patched(several), pytest.raises(BadInput, match=r"^edits of .* or VLM.logits$"):
        vlm.model(**inputs)
    with torch.no_grad(), vlm.patched(several):
        vlm.model(**vlm.encode([Query("Who sang?")]).inputs)


def test_it_is_not_saved_to_a_folder(vlm, eager, grace, tmp_path):
    patch = mixed_patch(eager(), grace, edits=[(0, EDITS[0]), (1, EDITS[1])])
    with pytest.raises(BadInput, match="keep them in a store"):
        patch.save(tmp_path / "tensors")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llava", "qwen2_vl", "blip2"])
@pytest.mark.parametrize("pair", [*permutations(MIXING, 2)], ids="-".join)
def test_any_two_methods_act_in_turn(pair, family):
    """Each of two edits acts on its own query as its editor's patch does; undo is exact."""
    vlm = tiny(family)
    editors = [new_editor(vlm, name, small_settings(name)) for name in pair]
    for editor in editors:
        if hasattr(editor, "input_features"):
            with torch.no_grad():
                editor.input_features.sentinel.zero_()
    patch = mixed_patch(*editors, edits=[(0, EDITS[0]), (1, EDITS[1])])
    parts = [patch.made_by(editor) for editor in editors]
    for query in [*EDITS[:2], *QUERIES]:
        newest = max(fired(vlm, patch, query), default=None)
        by_part = [bool(fired(vlm, part, query)) for part in parts]
        expected = next((number for number in (1, 0) if by_part[number]), None)
        assert newest == expected
        alone = logits(vlm, parts[0].editor.empty() if newest is None else parts[newest], [query])
        assert same(logits(vlm, patch, [query]), alone) == [True]
    left = patch.editor.select(patch, [0])
    assert all(same(logits(vlm, left), logits(vlm, editors[0].edit(EDITS[:1]))))
