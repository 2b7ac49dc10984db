"""LiveVQA, on records of the published form: the fields are the authors', all contents invented."""

import json

import pytest
from PIL import Image

from liveedit.data import load_cases
from liveedit.data.published.checks import check
from liveedit.data.published.livevqa import HELD_OUT
from liveedit.data.published.locations import add_location, locate
from liveedit.data.published.sources import source
from liveedit.errors import BadInput

COUNT = 2 * HELD_OUT
FOLDERS = {"news": "News", "paper": "Paper", "video": "Video"}


def record(number):
    """A record; those with odd numbers ask the same."""
    question = "Which event is it?" if number % 2 else f"Who is number {number}?"
    level1 = {
        "question": question, "question_type": "event", "options": ["A. x", "B. y"],
        "Ground_Truth": "A", "Ground_Truth_List": [f"Feast {number}", f"the feast {number}"],
        "img_path": f"{number}/x.jpg",
    }  # fmt: skip
    level2 = level1 | {"question": "How many came?", "Ground_Truth_List": [f"{number},000", "many"]}
    return {
        "id": f"{number}_2025", "img_path": f"{number}/x.jpg",
        "level1_qa": level1, "level2_qa": level2, "source": "Example Times",
    }  # fmt: skip


@pytest.fixture(params=FOLDERS)
def kind(request):
    return request.param


@pytest.fixture
def file(tmp_path, monkeypatch, kind):
    """The file of a kind among those of all, and its images in images/."""
    monkeypatch.setenv("LIVEEDIT_HOME", str(tmp_path / "home"))
    for folder in FOLDERS.values():
        (tmp_path / folder / "imgs").mkdir(parents=True)
        (tmp_path / folder / "benchmark.json").write_text("[]", encoding="utf-8")
        (tmp_path / folder / "imgs" / "benchmark.json").write_text("[]", encoding="utf-8")
    for number in range(COUNT):
        image = tmp_path / "images" / f"{number}" / "x.jpg"
        image.parent.mkdir(parents=True)
        Image.new("RGB", (24, 24)).save(image)
    file = tmp_path / FOLDERS[kind] / "benchmark.json"
    file.write_text(json.dumps([record(number) for number in range(COUNT)]), encoding="utf-8")
    return file


@pytest.fixture
def located(file, tmp_path, kind):
    return locate(source(f"livevqa-{kind}"), [tmp_path], tmp_path / "images")


def test_files_of_the_published_form_are_sound(located, file, kind):
    found = check(source(f"livevqa-{kind}"), located)
    assert located.files == {"test": file}
    assert found.problems == []
    assert found.images == COUNT
    assert len(found.notes) == 1


def test_level_1_is_edited_and_level_2_asked(located, tmp_path, kind):
    add_location(f"livevqa-{kind}", located)
    cases = load_cases(f"livevqa-{kind}", "test", split="paper")
    assert len(cases) == COUNT
    [edit] = cases[2].edits
    reliability, behind = cases[2].probes
    assert (edit.prompt, edit.target) == ("Who is number 2?", "Feast 2")
    assert edit.image == tmp_path / "images" / "2" / "x.jpg"
    assert (reliability.metric, reliability.query) == ("reliability", edit)
    assert reliability.aliases == ("the feast 2",)
    assert (behind.metric, behind.wanted) == ("portability_1hop", "target")
    assert (behind.query.prompt, behind.query.target) == ("How many came?", "2,000")
    assert (behind.query.image, behind.aliases) == (edit.image, ("many",))


def test_clean_cases_leave_pictures_unedited_and_ask_about_these(located, kind):
    add_location(f"livevqa-{kind}", located)
    cases = load_cases(f"livevqa-{kind}", "test")
    assert len(cases) == COUNT - 2
    edited = {case.edits[0].image for case in cases}
    for number, case in enumerate(cases):
        edit = case.edits[0]
        asked = {probe.metric: probe for probe in case.probes}
        alone = asked["question_alone"].query
        assert (alone.prompt, alone.image, alone.fact) == (edit.prompt, None, "")
        # the pictures that are not edited ask for the event
        same = edit.prompt == "Which event is it?"
        found = asked["look_alike_image" if same else "image_locality"]
        assert ("look_alike_image" in asked, "image_locality" in asked) == (same, not same)
        assert (found.query.prompt, found.wanted) == ("Which event is it?", "before")
        assert found.query.image not in edited, number


def test_there_is_only_a_test(located, kind):
    add_location(f"livevqa-{kind}", located)
    with pytest.raises(BadInput, match=r"it was published as test$"):
        load_cases(f"livevqa-{kind}", "train")


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda row: row.pop("level2_qa"), "'level2_qa' is missing"),
        (lambda row: row["level1_qa"].update(question=" "), "'level1_qa.question' is empty"),
        (
            lambda row: row["level1_qa"].update(Ground_Truth_List="A"),
            "'level1_qa.Ground_Truth_List' is str, not a list",
        ),
        (
            lambda row: row["level2_qa"].update(Ground_Truth_List=[]),
            "'level2_qa.Ground_Truth_List' is empty",
        ),
        (lambda row: row.update(img_path=None), "'img_path' is NoneType, not text"),
    ],
)
def test_a_fault_is_named_with_its_record(located, file, kind, change, fault):
    rows = json.loads(file.read_text(encoding="utf-8"))
    change(rows[3])
    file.write_text(json.dumps(rows), encoding="utf-8")
    found = check(source(f"livevqa-{kind}"), located)
    assert found.problems == [f"benchmark.json, record 3: {fault}"]


def test_a_missing_image_and_a_truncated_file_are_named(located, file, tmp_path, kind):
    (tmp_path / "images" / "4" / "x.jpg").unlink()
    [line] = check(source(f"livevqa-{kind}"), located).problems
    assert line.startswith("benchmark.json, record 4: 'img_path': no image at")
    file.write_text(file.read_text(encoding="utf-8")[:-9], encoding="utf-8")
    with pytest.raises(BadInput, match=r"benchmark\.json is truncated or not JSON"):
        check(source(f"livevqa-{kind}"), located)
