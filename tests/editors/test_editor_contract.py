"""What every registered editor promises. A new one is tested by being registered."""

import pytest
import torch
from PIL import Image, ImageDraw

from liveedit.editors import EDITORS, PAPERS, new_editor
from liveedit.errors import BadInput, Mismatch, UnknownName
from liveedit.models.tiny import tiny
from liveedit.types import Query

SMALL = {"liveedit": {"module_dim": 16, "heads": 2, "layer": 2, "rank": 4}}
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
OTHERS = [Query("Who sang the song?", "nobody"), Query("Which film is this?", "Japan", picture("yellow"))]


def open_filter(editor):
    """Let every expert of an untrained router pass, so that there is something to see."""
    for name, parameter in getattr(editor, "networks", dict)().items() if hasattr(editor, "networks") else []:
        if name == "input_features":
            with torch.no_grad():
                parameter.sentinel.zero_()
    return editor


@pytest.fixture(
    scope="module", params=[(e, f) for e in sorted(EDITORS) for f in ("llava", "blip2", "qwen2_vl")], ids="-".join
)
def editor(request):
    name, family = request.param
    torch.manual_seed(0)
    return open_filter(new_editor(tiny(family), name, SMALL.get(name, {})))


def logits(editor, patch, queries):
    with editor.vlm.patched(patch), torch.no_grad():
        return editor.vlm.logits(editor.vlm.encode(queries))


def test_it_names_its_paper(editor):
    assert PAPERS[editor.name] == editor.paper


def test_an_empty_patch_changes_nothing(editor):
    patch = editor.empty()
    assert len(patch) == 0
    plain = editor.vlm.logits(editor.vlm.encode(EDITS + OTHERS))
    assert torch.equal(logits(editor, patch, EDITS + OTHERS), plain)


def test_edit_is_pure_and_counts(editor):
    state = {name: value.clone() for name, value in editor.vlm.model.state_dict().items()}
    first = editor.edit(EDITS[:1])
    seen = logits(editor, first, EDITS)
    both = editor.edit(EDITS[1:], first)
    assert (len(first), len(both)) == (1, 3)
    assert torch.equal(logits(editor, first, EDITS), seen)
    assert all(torch.equal(value, state[name]) for name, value in editor.vlm.model.state_dict().items())


def test_an_edit_is_seen_and_leaving_restores_bit_for_bit(editor):
    plain = editor.vlm.logits(editor.vlm.encode(EDITS))
    patch = editor.edit(EDITS)
    assert not torch.equal(logits(editor, patch, EDITS), plain)
    assert torch.equal(editor.vlm.logits(editor.vlm.encode(EDITS)), plain)


def test_editing_is_deterministic(editor):
    assert torch.equal(logits(editor, editor.edit(EDITS), EDITS), logits(editor, editor.edit(EDITS), EDITS))


def test_one_by_one_is_as_good_as_together(editor):
    patch = None
    for query in EDITS:
        patch = editor.edit([query], patch)
    torch.testing.assert_close(
        logits(editor, patch, EDITS), logits(editor, editor.edit(EDITS), EDITS), rtol=1e-4, atol=1e-4
    )


def test_generate_agrees_with_logits(editor):
    patch = editor.edit(EDITS)
    with editor.vlm.patched(patch), torch.no_grad():
        for query in EDITS:
            [answer] = editor.vlm.generate([query], max_new_tokens=1)
            batch = editor.vlm.encode([Query(query.prompt, image=query.image)])
            token = editor.vlm.logits(batch)[0, -1].argmax()
            assert answer == editor.vlm.tokenizer.decode([int(token)], skip_special_tokens=True).strip()


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


def test_taking_back_an_edit_gives_the_patch_without_it(editor):
    patch = editor.edit(EDITS)
    try:
        rest = editor.select(patch, [0, 2])
    except BadInput as refusal:
        assert "take back" in str(refusal)
        return
    without = editor.edit([EDITS[0], EDITS[2]])
    torch.testing.assert_close(logits(editor, rest, EDITS), logits(editor, without, EDITS), rtol=1e-5, atol=1e-5)


def test_an_edit_without_target_is_refused(editor):
    with pytest.raises(BadInput, match="target"):
        editor.edit([Query("What is this?", " ", picture("red"))])


def test_an_unknown_setting_is_named(editor):
    with pytest.raises(BadInput, match="no setting colour"):
        new_editor(editor.vlm, editor.name, {"colour": 1})


def test_an_unknown_editor_is_named_with_the_nearest(editor):
    with pytest.raises(UnknownName, match="did you mean liveedit"):
        new_editor(editor.vlm, "livedit")
