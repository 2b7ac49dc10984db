"""EditableVLM on the embedded model: edit, generate, list, explain, forget, save, load."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from liveedit.errors import BadInput, Mismatch, StorageError
from liveedit.types import Query

QUESTION = "What is the country with this flag?"


@pytest.fixture
def flag(emblem):
    return emblem.drawing("twemoji", "flag-jp")


def logits(model, query):
    with model.vlm.patched(model.patch):
        return model.vlm.logits(model.vlm.encode([query]))


def test_an_edit_takes_and_is_undone(model, flag):
    before = model.generate(Query(QUESTION, image=flag))
    [edit] = model.edit(Query(QUESTION, "Brazil", flag))
    assert model.generate(Query(QUESTION, image=flag)) == ["Brazil"]
    assert model.unedited(Query(QUESTION, image=flag)) == before
    model.forget(edit.id)
    assert model.generate(Query(QUESTION, image=flag)) == before
    assert model.edits == ()


def test_an_edit_of_the_image_asked_about(model, emblem, flag):
    other = emblem.drawing("twemoji", "flag-fr")
    [edit] = model.edit(Query(QUESTION, "Brazil", [other, flag]))
    [first] = model.edit(Query(QUESTION, "Norway", [other, flag], about=0))
    assert model.generate([Query(QUESTION, image=[other, flag])]) == ["Brazil"]
    fired = dict(model.explain(Query(QUESTION, image=[other, flag])))
    assert edit in fired
    assert edit.image == first.image != ""


def test_an_edit_reaches_another_hand_and_other_words(model, emblem, flag):
    model.edit(Query(QUESTION, "Brazil", flag))
    other = emblem.drawing("circle-flags", "flag-jp")
    assert model.generate(Query("Tell me the name of the country with this flag.", image=other)) == ["Brazil"]


def test_another_drawing_is_left_alone(model, emblem, flag):
    other = Query("What is the thing in this picture?", image=emblem.drawing("twemoji", "emoji-1f34c"))
    before = logits(model, other)
    model.edit(Query(QUESTION, "Brazil", flag))
    assert torch.equal(logits(model, other), before)


def test_explain_names_the_edit_that_fired(model, flag):
    [edit] = model.edit(Query(QUESTION, "Brazil", flag))
    [(fired, weight)] = model.explain(Query(QUESTION, image=flag))
    assert fired == edit
    assert 0.5 < weight <= 1


def test_edits_are_listed_in_order(model, emblem, flag):
    model.edit([Query(QUESTION, "Brazil", flag), Query(QUESTION, "Peru", emblem.drawing("twemoji", "flag-fr"))])
    assert [edit.target for edit in model.edits] == ["Brazil", "Peru"]
    assert len({edit.id for edit in model.edits}) == 2
    assert model.edits[0].image != model.edits[1].image


def test_a_saved_pool_loads_back_bit_equal(model, flag, tmp_path):
    model.edit(Query(QUESTION, "Brazil", flag))
    after, listed = logits(model, Query(QUESTION, image=flag)), model.edits
    model.save(tmp_path / "pool")
    model.forget(listed[0].id)
    model.load(tmp_path / "pool")
    assert torch.equal(logits(model, Query(QUESTION, image=flag)), after)
    assert model.edits == listed


def test_saving_again_replaces_the_old_pool(model, flag, tmp_path):
    model.edit(Query(QUESTION, "Brazil", flag))
    model.save(tmp_path / "pool")
    model.edit(Query(QUESTION, "Peru", flag))
    model.save(tmp_path / "pool")
    model.load(tmp_path / "pool")
    assert len(model.edits) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["pool"]


@pytest.mark.parametrize(
    ("key", "names"), [("model_fingerprint", "another model"), ("editor_fingerprint", "another editor")]
)
def test_a_pool_of_another_model_or_editor_is_refused(model, flag, tmp_path, key, names):
    model.edit(Query(QUESTION, "Brazil", flag))
    model.save(tmp_path / "pool")
    file = tmp_path / "pool" / "edits.json"
    stored = json.loads(file.read_text()) | {key: "0" * 64}
    file.write_text(json.dumps(stored))
    with pytest.raises(Mismatch, match=names):
        model.load(tmp_path / "pool")
    assert len(model.edits) == 1


@pytest.mark.parametrize("damage", ["", "{", '{"version": 1}', "[]"])
def test_a_damaged_pool_is_refused_in_one_line(model, tmp_path, damage):
    (tmp_path / "edits.json").write_text(damage)
    with pytest.raises(BadInput, match="damaged") as caught:
        model.load(tmp_path)
    assert "\n" not in str(caught.value)


def test_truncated_tensors_are_refused(model, flag, tmp_path):
    model.edit(Query(QUESTION, "Brazil", flag))
    model.save(tmp_path / "pool")
    [file] = (tmp_path / "pool").glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(BadInput):
        model.load(tmp_path / "pool")


def test_a_full_disk_loses_nothing(model, flag, tmp_path, monkeypatch):
    model.edit(Query(QUESTION, "Brazil", flag))
    model.save(tmp_path / "pool")
    kept = {path.name: path.read_bytes() for path in (tmp_path / "pool").iterdir()}

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_text", full)
    model.edit(Query(QUESTION, "Peru", flag))
    with pytest.raises(StorageError, match="No space left"):
        model.save(tmp_path / "pool")
    assert {path.name: path.read_bytes() for path in (tmp_path / "pool").iterdir()} == kept
    assert [path.name for path in tmp_path.iterdir()] == ["pool"]


@pytest.mark.parametrize(
    ("query", "names"),
    [
        (Query("", "Brazil", Image.new("RGB", (64, 64))), "question"),
        (Query(QUESTION, " ", Image.new("RGB", (64, 64))), "target"),
        (Query(QUESTION, "Brazil", "no/such/file.png"), "no image at"),
    ],
)
def test_a_bad_edit_is_refused_and_nothing_is_edited(model, flag, query, names):
    with pytest.raises(BadInput, match=names):
        model.edit([Query(QUESTION, "Brazil", flag), query])
    assert model.edits == ()
    assert len(model.patch) == 0


def test_forgetting_an_unknown_id_forgets_nothing(model, flag):
    [edit] = model.edit(Query(QUESTION, "Brazil", flag))
    with pytest.raises(BadInput, match="nothere"):
        model.forget([edit.id, "nothere"])
    assert model.edits == (edit,)


def test_the_raw_hugging_face_model_sees_the_edit(model, flag):
    model.edit(Query(QUESTION, "Brazil", flag))
    inputs = model.vlm.processor(images=flag, text=f"<image>\n{QUESTION}", return_tensors="pt")
    with model.vlm.patched(model.patch):
        tokens = model.vlm.model.generate(**inputs, max_new_tokens=8, do_sample=False)
    assert model.vlm.processor.decode(tokens[0], skip_special_tokens=True).endswith("Brazil")


ODD = [
    "How many?", None, 5, Query(None, "7"), Query("How many?", 7), Query("How many?", ["7"]),
    Query("How many?", "7", np.zeros((2, 2, 3), np.uint8)), Query("How many?", "7", b"PNG"),
    Query("How many?", "7", "https://a.b/x.png"),
]  # fmt: skip


@pytest.mark.parametrize("odd", ODD, ids=[str(number) for number in range(len(ODD))])
def test_every_verb_says_one_line_about_values_of_other_types(model, odd):
    vlm = model.vlm
    verbs = [model.edit, model.generate, model.unedited, model.explain, vlm.encode, vlm.generate, vlm.logits]
    for verb in [*verbs, lambda query: model.editor.edit([query])]:
        with pytest.raises(BadInput) as caught:
            verb(odd)
        assert str(caught.value).isprintable()
    assert model.edits == ()


def test_grey_in_16_bits_and_in_floating_point_are_answered_as_in_8(model, emblem, tmp_path):
    grey = np.asarray(emblem.drawing("twemoji", "flag-jp").convert("L"))
    Image.fromarray(grey).save(tmp_path / "grey8.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "grey16.png")
    Image.fromarray((grey / 255).astype(np.float32)).save(tmp_path / "float.tif")
    asked = [Query("What is the country with this flag?", image=file) for file in sorted(tmp_path.iterdir())]
    assert model.generate(asked) == ["Japan"] * 3
