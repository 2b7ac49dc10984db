"""MMKE-Bench, on records of the published form: a few of VLKEB's, whose additions are invented."""

import json

import pytest
from PIL import Image

from liveedit.data import load_cases
from liveedit.data.published.checks import check
from liveedit.data.published.locations import add_location, locate
from liveedit.data.published.sources import source
from liveedit.errors import BadInput

TYPES = {"entity": "entity_level", "visual": "visual_knowledge", "user": "user_specific"}
NUMBERED = {
    "rel_1": "text one?", "rel_ans_1": "T1", "rel_2": "text two?", "rel_2_ans": "T2",
    "m_rel_1": "photo one?", "m_rel_1_ans": "P1", "m_rel_2": "photo two?", "m_rel_ans_2": "P2",
}  # fmt: skip
ONE = {
    "rel": "text?", "rel_ans": "T", "m_rel": "photo?", "m_rel_ans": "P",
    "image_rephrase_question": "other photo?",
}  # fmt: skip
FOLLOWS = [{"port_type": "1-hop", "Q&A": {"Question": "what follows?", "Answer": "this"}}]


def addition(kind):
    """The fields that a record of a kind has besides VLKEB's."""
    row = {"knowledge_type": TYPES[kind]} | (ONE if kind == "visual" else NUMBERED)
    return row | ({} if kind == "entity" else {"one_hop_img": "elsewhere.jpg"})


@pytest.fixture(params=TYPES)
def kind(request):
    return request.param


@pytest.fixture
def folder(published, kind):
    """The files of a kind in a folder of their own; in the first of the test something follows."""
    images = published / "vlkeb" / "images"
    Image.new("RGB", (24, 24)).save(images / "elsewhere.jpg")
    folder = published / "data_json" / kind
    folder.mkdir(parents=True)
    for name in ("train", "eval"):
        former = published / "vlkeb" / f"{name}.json"
        rows = json.loads(former.read_text(encoding="utf-8"))
        rows = [row | addition(kind) for row in rows]
        rows[0] |= {"port_new": FOLLOWS}
        (folder / f"{name}.json").write_text(json.dumps(rows), encoding="utf-8")
    return folder


@pytest.fixture
def located(published, folder, kind):
    return locate(source(f"mmke-{kind}"), [folder], published / "vlkeb" / "images")


def test_files_of_the_published_form_are_sound(located, kind):
    found = check(source(f"mmke-{kind}"), located)
    assert found.problems == []
    assert found.records == {"train.json": 5, "eval.json": 3}


def test_files_have_the_names_of_the_readme_or_of_the_program(published, folder, kind):
    for name in ("train", "eval"):
        (folder / f"{name}.json").rename(folder.parent / f"{kind}_{name}.json")
    found = locate(source(f"mmke-{kind}"), [folder.parent], published)
    assert found.files["test"].name == f"{kind}_eval.json"
    for name in ("train", "eval"):
        (folder.parent / f"another_{name}.json").write_text("[]", encoding="utf-8")
    with pytest.raises(BadInput, match=r"train\.json was found more than once, .*name one of them"):
        locate(source(f"mmke-{kind}"), [folder.parent], published)


def test_questions_about_the_new_text_are_asked_where_the_record_says(located, kind):
    add_location(f"mmke-{kind}", located)
    case, *others = load_cases(f"mmke-{kind}", "test", split="paper")
    [edit] = case.edits
    five, further = case.probes[:5], case.probes[5:]
    assert [probe.metric for probe in five] == [
        "reliability", "text_generality", "image_generality", "text_locality", "image_locality",
    ]  # fmt: skip
    asked = [
        (probe.metric, probe.query.prompt, probe.query.target, probe.query.image and
         probe.query.image.name) for probe in further
    ]  # fmt: skip
    photo, other = edit.image.name, five[2].query.image.name
    text = [
        ("detail_text", "text one?", "T1", None),
        ("detail_text", "text two?", "T2", None),
        ("detail_image", "photo one?", "P1", photo),
        ("detail_other_image", "photo one?", "P1", other),
        ("detail_image", "photo two?", "P2", photo),
        ("detail_other_image", "photo two?", "P2", other),
    ]
    if kind == "visual":
        text = [
            ("detail_text", "text?", "T", None),
            ("detail_image", "photo?", "P", photo),
            ("detail_other_image", "other photo?", "P", other),
        ]
    place = photo if kind == "entity" else "elsewhere.jpg"
    assert asked == [("portability_1hop", "what follows?", "this", place), *text]
    assert {probe.wanted for probe in further} == {"target"}
    for case in others:
        assert "portability_1hop" not in {probe.metric for probe in case.probes}


def test_the_clean_split_has_hard_probes_and_a_training_part(located, kind):
    add_location(f"mmke-{kind}", located)
    case = load_cases(f"mmke-{kind}", "test")[0]
    assert {"question_alone", "image_alone"} <= {probe.metric for probe in case.probes}
    assert load_cases(f"mmke-{kind}", "train", split="paper")


def change_first(file, change):
    rows = json.loads(file.read_text(encoding="utf-8"))
    change(rows[0])
    file.write_text(json.dumps(rows), encoding="utf-8")


def test_a_fault_is_named_with_its_record(folder, located, kind):
    name = "rel" if kind == "visual" else "rel_1"
    change_first(folder / "eval.json", lambda row: row.update({name: 3}))
    expected = f"eval.json, record 0: '{name}' is int, not text"
    assert check(source(f"mmke-{kind}"), located).problems == [expected]


def test_files_of_another_kind_are_told_apart(folder, located, kind):
    change_first(folder / "train.json", lambda row: row.update(knowledge_type="other"))
    expected = f"train.json, record 0: 'knowledge_type' is 'other', not '{TYPES[kind]}'"
    assert check(source(f"mmke-{kind}"), located).problems == [expected]


def test_a_missing_image_is_named(published, located, kind):
    rows = json.loads(located.files["test"].read_text(encoding="utf-8"))
    (published / "vlkeb" / "images" / rows[0]["image_rephrase"]).unlink()
    [line] = check(source(f"mmke-{kind}"), located).problems
    assert "'image_rephrase': no image at" in line
