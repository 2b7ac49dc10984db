"""ComprehendEdit, on records of the published form: the fields are the authors', all contents
invented.
"""

import json

import pytest
from PIL import Image

from liveedit.data import load_cases
from liveedit.data.published.checks import check
from liveedit.data.published.locations import add_location, locate
from liveedit.data.published.sources import source
from liveedit.errors import BadInput

SOURCE = source("comprehendedit")


def record(number):
    return {
        "image": f"GQA/images/{number}.jpg", "question": f"What is {number}?",
        "rephrase": f"Name {number}.", "answer": f"thing {number}", "source": "GQA",
        "Category": "object recognition", "pid": number, "img_topk": [0], "ori_rt_img_topk": [0],
        "locality_prompt": "who sang it", "locality_ground_truth": "Elvis",
        "multimodal_locality_image": f"val2014/{number}.jpg",
        "multimodal_locality_prompt": "What sport?", "multimodal_locality_ground_truth": "golf",
    }  # fmt: skip


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("LIVEEDIT_HOME", str(tmp_path / "home"))
    for name, numbers in (("train", range(4)), ("test", range(10, 12))):
        rows = [record(number) for number in numbers]
        (tmp_path / f"ComprehendEdit_{name}.json").write_text(json.dumps(rows), encoding="utf-8")
        for row in rows:
            for field in ("image", "multimodal_locality_image"):
                image = tmp_path / row[field]
                image.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (24, 24)).save(image)
    return tmp_path


@pytest.fixture
def located(folder):
    return locate(SOURCE, [folder], folder)


def test_files_of_the_published_form_are_sound(located):
    found = check(SOURCE, located)
    assert found.problems == []
    assert found.records == {"ComprehendEdit_train.json": 4, "ComprehendEdit_test.json": 2}
    assert found.images == 12


def test_a_record_is_asked_as_in_e_vqa_but_for_a_second_image(folder, located):
    add_location("comprehendedit", located)
    case = load_cases("comprehendedit", "test", split="paper")[0]
    asked = [(probe.metric, probe.query.prompt, probe.query.target, probe.wanted)
             for probe in case.probes]  # fmt: skip
    assert asked == [
        ("reliability", "What is 10?", "thing 10", "target"),
        ("text_generality", "Name 10.", "thing 10", "target"),
        ("text_locality", "who sang it?", "Elvis", "before"),
        ("image_locality", "What sport?", "golf", "before"),
    ]
    assert case.edits[0].image == folder / "GQA" / "images" / "10.jpg"
    assert case.probes[3].query.image == folder / "val2014" / "10.jpg"
    clean = load_cases("comprehendedit", "test")[0]
    assert "question_alone" in {probe.metric for probe in clean.probes}


def test_training_has_the_same_probes(located):
    add_location("comprehendedit", located)
    cases = load_cases("comprehendedit", "train", split="paper")
    assert [len(case.probes) for case in cases] == [4] * 4


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"answer": ""}, "'answer' is empty"),
        ({"question": 3}, "'question' is int, not text"),
        ({"multimodal_locality_image": None}, "'multimodal_locality_image' is NoneType, not text"),
    ],
)
def test_a_fault_is_named_with_its_record(folder, located, change, fault):
    rows = [record(10), record(11) | change]
    (folder / "ComprehendEdit_test.json").write_text(json.dumps(rows), encoding="utf-8")
    assert check(SOURCE, located).problems == [f"ComprehendEdit_test.json, record 1: {fault}"]


def test_a_missing_image_and_a_foreign_file_are_named(folder, located):
    (folder / "val2014" / "11.jpg").unlink()
    [line] = check(SOURCE, located).problems
    assert "'multimodal_locality_image': no image at" in line
    (folder / "ComprehendEdit_test.json").write_text('{"data": []}', encoding="utf-8")
    with pytest.raises(BadInput, match="does not hold a list of records: download it again"):
        check(SOURCE, located)
