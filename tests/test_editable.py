"""EditableVLM on the embedded model: edit, generate, list, explain, forget, save, load."""

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.samples import QUESTION
from liveedit.editable import EditableVLM, load
from liveedit.editors import load_editor
from liveedit.errors import BadInput
from liveedit.types import Query


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
    explanation = model.explain(Query(QUESTION, image=[other, flag]))
    assert edit in [firing.edit for firing in explanation.fired]
    assert edit.image == first.image != ""


def test_an_edit_reaches_other_drawings_and_wordings(model, emblem, flag):
    model.edit(Query(QUESTION, "Brazil", flag))
    other = emblem.drawing("circle-flags", "flag-jp")
    assert model.generate(
        Query("Tell me the name of the country with this flag.", image=other)
    ) == ["Brazil"]


def test_another_drawing_is_left_alone(model, emblem, flag):
    other = Query(
        "What is the thing in this picture?", image=emblem.drawing("twemoji", "emoji-1f34c")
    )
    before = logits(model, other)
    model.edit(Query(QUESTION, "Brazil", flag))
    assert torch.equal(logits(model, other), before)


def test_explain_names_the_edit_that_fired(model, flag):
    [edit] = model.edit(Query(QUESTION, "Brazil", flag))
    explanation = model.explain(Query(QUESTION, image=flag))
    [firing] = explanation.fired
    assert firing.edit == edit
    assert 0.5 < firing.weight <= 1


def test_edits_are_listed_in_order(model, emblem, flag):
    model.edit(
        [
            Query(QUESTION, "Brazil", flag),
            Query(QUESTION, "Peru", emblem.drawing("twemoji", "flag-fr")),
        ]
    )
    assert [edit.target for edit in model.edits] == ["Brazil", "Peru"]
    assert len({edit.id for edit in model.edits}) == 2
    assert model.edits[0].image != model.edits[1].image


def test_a_saved_pool_loads_back_bit_equal(model, flag, tmp_path):
    model.edit(Query(QUESTION, "Brazil", flag))
    after = logits(model, Query(QUESTION, image=flag))
    listed = model.edits
    model.save(tmp_path / "pool")
    model.forget(listed[0].id)
    model.load(tmp_path / "pool")
    assert torch.equal(logits(model, Query(QUESTION, image=flag)), after)
    assert model.edits == listed


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


def test_an_image_is_read_from_its_file_once_per_edit(model, flag, tmp_path, monkeypatch):
    flag.save(tmp_path / "flag.png")
    read = []
    original = Image.open
    monkeypatch.setattr(Image, "open", lambda file: (read.append(file), original(file))[1])
    model.edit(Query(QUESTION, "Brazil", tmp_path / "flag.png"))
    assert read == [tmp_path / "flag.png"]


def test_forgetting_an_unknown_id_forgets_nothing(model, flag):
    [edit] = model.edit(Query(QUESTION, "Brazil", flag))
    with pytest.raises(BadInput, match="nothere"):
        model.forget([edit.id, "nothere"])
    assert model.edits == (edit,)


def test_an_id_may_be_shortened_while_it_is_clear(model, flag, monkeypatch):
    [first, second] = model.edit(
        [Query(QUESTION, "Brazil", flag), Query("What is this?", "a flag", flag)]
    )
    with pytest.raises(BadInput, match="no edit ''"):
        model.forget("")
    assert model.forget([first.id[:7], first.id]) == [first]
    assert model.edits == (second,)


def test_a_beginning_that_edits_share_is_refused(model, flag):
    ids = [
        edit.id
        for edit in model.edit(
            [Query(f"question {number}", "Brazil", flag) for number in range(17)]
        )
    ]
    [shared, *_] = [id[0] for id in ids if sum(other[0] == id[0] for other in ids) > 1]
    with pytest.raises(BadInput, match="give more of the id"):
        model.forget(shared)
    assert len(model.edits) == 17


def test_an_edit_remembers_its_images_and_which_it_is_about(model, flag, tmp_path):
    flag.save(tmp_path / "flag.png")
    [edit] = model.edit(Query(QUESTION, "Brazil", [flag, tmp_path / "flag.png"], about=0))
    assert (edit.names[1], edit.about) == (str(tmp_path / "flag.png"), 0)


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
def test_every_method_refuses_values_of_other_types_in_one_line(model, odd):
    vlm = model.vlm
    verbs = [
        model.edit,
        model.generate,
        model.unedited,
        model.explain,
        model.try_edit,
        vlm.encode,
        vlm.generate,
        vlm.logits,
    ]
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
    asked = [
        Query("What is the country with this flag?", image=file)
        for file in sorted(tmp_path.iterdir())
    ]
    assert model.generate(asked) == ["Japan"] * 3


def test_made_or_opened_within_inference_mode(emblem, flag, tmp_path):
    """A model loaded there can be edited there and outside."""
    with torch.inference_mode():
        made = load(editor="serac")
        made.edit(Query(QUESTION, "Brazil", flag))
    made.edit(Query(QUESTION, "Canada", emblem.drawing("twemoji", "flag-fr")))
    made.save(tmp_path / "edits")
    with torch.inference_mode():
        opened = load(editor="serac")
        opened.load(tmp_path / "edits")
    opened.edit(Query(QUESTION, "Peru", emblem.drawing("twemoji", "flag-de")))
    assert opened.generate(Query(QUESTION, image=flag)) == ["Brazil"]


def test_pictures_of_the_same_pixels_in_another_shape_are_others(model):
    wide, high = (Image.new("RGB", size, "red") for size in ((64, 32), (32, 64)))
    model.edit([Query(QUESTION, "Brazil", wide), Query(QUESTION, "Peru", high)])
    assert [edit.target for edit in model.edits] == ["Brazil", "Peru"]


def test_more_than_ten_images_keep_their_order(embedded_vlm, tmp_path):
    """For methods that make the edits left anew from their images."""
    asked = Query(
        QUESTION, "Brazil", [Image.new("RGB", (32, 32), (20 * shade, 0, 0)) for shade in range(12)]
    )
    made, opened, alone = (
        EditableVLM(embedded_vlm, load_editor(embedded_vlm, "ft-l")) for _ in range(3)
    )
    made.edit(asked)
    [other] = made.edit(Query(QUESTION, "Peru", Image.new("RGB", (32, 32), "blue")))
    opened.load(made.save(tmp_path / "edits"))
    opened.forget(other.id)
    alone.edit(asked)
    assert torch.equal(logits(opened, asked), logits(alone, asked))


def test_an_answer_that_goes_on_behind_the_target_is_another(embedded_vlm, emblem):
    model = EditableVLM(embedded_vlm, load_editor(embedded_vlm, "grace"))
    [edit] = model.edit(Query(QUESTION, "New", emblem.drawing("twemoji", "flag-nz")))
    assert model.generate(Query(QUESTION, image=emblem.drawing("twemoji", "flag-nz"))) == [
        "New Zealand"
    ]
    assert not edit.took
