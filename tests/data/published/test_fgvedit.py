"""FGVEdit, on records of the published form: the fields are the authors', all contents invented."""

import json

import pytest
from PIL import Image

from liveedit.data import load_cases
from liveedit.data.published.checks import check
from liveedit.data.published.locations import add_location, locate
from liveedit.data.published.sources import source

SOURCE = source("fgvedit")


def record(number):
    return {
        "image": f"val2014/COCO_val2014_{number:012}.jpg", "src": f"What flies in {number}?",
        "alt": f"kite {number}", "rephrase": f"Name what flies in {number}.",
        "loc": "who sang it", "loc_ans": "Elvis", "fg_gen_q": "Is it alive?", "fg_gen_a": "no",
        "fg_loc_q": "What is on the ground?", "fg_loc_a": "a dog",
    }  # fmt: skip


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("LIVEEDIT_HOME", str(tmp_path / "home"))
    for name, numbers in (("train", range(4)), ("test", range(3, 6))):
        rows = [record(number) for number in numbers]
        (tmp_path / f"{name}_data.json").write_text(json.dumps(rows), encoding="utf-8")
        for row in rows:
            (tmp_path / row["image"]).parent.mkdir(exist_ok=True)
            Image.new("RGB", (24, 24)).save(tmp_path / row["image"])
    return tmp_path


@pytest.fixture
def located(folder):
    return locate(SOURCE, [folder], folder)


def test_files_of_the_published_form_are_sound(located):
    found = check(SOURCE, located)
    assert found.problems == []
    assert found.records == {"train_data.json": 4, "test_data.json": 3}
    assert found.images == 6


@pytest.mark.parametrize("split", ["paper", "clean"])
def test_everything_is_asked_about_one_photo(folder, located, split):
    add_location("fgvedit", located)
    case = load_cases("fgvedit", "test", split=split)[0]
    photo = folder / record(3)["image"]
    hard = [("question_alone", "before", None), ("image_alone", "before", photo)]
    assert [(probe.metric, probe.wanted, probe.query.image) for probe in case.probes] == [
        ("reliability", "target", photo),
        ("text_generality", "target", photo),
        ("text_locality", "before", None),
        ("same_image_other_question", "before", photo),
        *(hard if split == "clean" else []),
        ("fine_generality", "target", photo),
    ]
    asked = {probe.metric: probe.query for probe in case.probes}
    other, fine = asked["same_image_other_question"], asked["fine_generality"]
    assert (other.prompt, other.target) == ("What is on the ground?", "a dog")
    assert (fine.prompt, fine.target) == ("Is it alive?", "no")


def test_clean_training_has_no_photo_of_the_test(located):
    add_location("fgvedit", located)
    ids = [case.id for case in load_cases("fgvedit", "train", split="paper")]
    assert ids == [f"train_data:{number}" for number in range(4)]
    rows = [record(number) | {"loc": f"who sang {number}"} for number in range(4)]
    located.files["train"].write_text(json.dumps(rows), encoding="utf-8")
    cases = load_cases("fgvedit", "train")
    assert [case.id for case in cases] == ids[:3]
    assert "image_locality" not in {probe.metric for probe in cases[0].probes}


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"alt": ""}, "'alt' is empty"),
        ({"fg_loc_q": None}, "'fg_loc_q' is NoneType, not text"),
        ({"fg_gen_a": "\ud800"}, "'fg_gen_a' holds characters that are not Unicode"),
    ],
)
def test_a_fault_is_named_with_its_record(folder, located, change, fault):
    rows = [record(3), record(4) | change]
    (folder / "test_data.json").write_text(json.dumps(rows), encoding="utf-8")
    assert check(SOURCE, located).problems == [f"test_data.json, record 1: {fault}"]


def test_a_missing_image_is_named(folder, located):
    (folder / record(5)["image"]).unlink()
    [line] = check(SOURCE, located).problems
    assert line.startswith("test_data.json, record 2: 'image': no image at")
