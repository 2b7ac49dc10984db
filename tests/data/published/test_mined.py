"""MINED, on records of the published form: the fields are the authors', all contents invented."""

import json

import pytest
from PIL import Image

from liveedit.data import load_cases
from liveedit.data.published.checks import check
from liveedit.data.published.locations import add_location, locate
from liveedit.data.published.sources import source
from liveedit.errors import BadInput

MINED = source("mined")
QUESTION = "Who leads the firm in the image?"
ANSWERS = [
    "Zoe Old |S: +1990-00-00T00:00:00Z |E: +2001-00-00T00:00:00Z",
    "Bea Mid |S:+2001-03-00T00:00:00Z |E:+2010-00-00T00:00:00Z",
    "Cid New |S: +2010-02-07T00:00:00Z",
]


def row(subject, current="Cid New", answers=ANSWERS, question=QUESTION):
    return {
        "id": 1, "type": "company", "eval_type": "openqa", "subject": subject,
        "hypernym": "company", "questions": "unused", "mm_questions": question,
        "mm_paraphrase_completion": f"Now, {question}",
        "image": f"{subject}/1.jpg", "paraphrase_image": f"{subject}/2.jpg",
        "answers": list(answers), "current_answer": current, "bing_imgs": [],
    }  # fmt: skip


FILES = {
    "test": [
        row("Alba"),
        row("Alba"),
        row("Alba", "Bea Mid"),
        row("Brim", answers=ANSWERS[::-1]),
        row("Cusp", "Zoe Old", ["Dan Undated |E: +1999-00-00T00:00:00Z", *ANSWERS[:1]]),
        row("Dune", "Zoe Old", ANSWERS[:1]),
        row("Echo", "Zoe Old"),
    ],
    "timestamp": [row("Alba", "Zoe Old", question="Who led it in 1995?"), row("Brim")],
    "interval": [row("Brim", "Bea Mid", question="Who led it from 2002 to 2003?")],
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The annotation files in mined_data/, and images in imgs/."""
    monkeypatch.setenv("LIVEEDIT_HOME", str(tmp_path / "home"))
    (tmp_path / "mined_data").mkdir()
    for role, records in FILES.items():
        write(tmp_path, role, records)
        for record in records:
            for field in ("image", "paraphrase_image"):
                image = tmp_path / "imgs" / record[field]
                image.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (24, 24)).save(image)
    return tmp_path


def write(folder, role, records):
    file = folder / "mined_data" / MINED.files[role]
    file.write_text(json.dumps(records), encoding="utf-8")


@pytest.fixture
def add(folder):
    def add():
        add_location("mined", locate(MINED, [folder / "mined_data"], folder / "imgs"))

    return add


def asked(case):
    return [(probe.metric, probe.query.prompt, probe.query.image.name) for probe in case.probes]


def test_files_of_the_published_form_are_sound(folder):
    found = check(MINED, locate(MINED, [folder / "mined_data"], folder / "imgs"))
    assert found.problems == []
    assert found.images == 2 * 5
    assert f"{MINED.files['test']} has 7 records, the published one 255" in found.notes


def test_a_fact_is_edited_once_to_the_answer_that_began_last(folder, add):
    add()
    cases = load_cases("mined", "test")
    assert [case.id.partition(":")[2] for case in cases] == ["0", "3", "4", "5"]
    assert [[edit.target for edit in case.edits] for case in cases] == [
        ["Cid New"], ["Cid New"], ["Zoe Old"], ["Zoe Old"],
    ]  # fmt: skip
    assert len(load_cases("mined", "test", split="paper")) == 7


def test_both_wordings_are_asked_about_both_photos_and_the_past_must_stay(folder, add):
    add()
    first, second, *_ = load_cases("mined", "test")
    assert asked(first) == [
        ("reliability", QUESTION, "1.jpg"),
        ("text_generality", f"Now, {QUESTION}", "1.jpg"),
        ("image_generality", QUESTION, "2.jpg"),
        ("text_image_generality", f"Now, {QUESTION}", "2.jpg"),
        ("same_image_other_question", "Who led it in 1995?", "1.jpg"),
    ]
    assert [probe.wanted for probe in first.probes] == ["target"] * 4 + ["before"]
    assert first.probes[0].query.image == folder / "imgs" / "Alba" / "1.jpg"
    assert {probe.query.target for probe in first.probes[:4]} == {"Cid New"}
    assert first.probes[4].query.fact != first.edits[0].fact
    # a question of the past that has the answer of today is none that must stay
    assert [probe.query.prompt for probe in second.probes[4:]] == ["Who led it from 2002 to 2003?"]


def test_in_a_succession_the_newest_answer_is_wanted(add):
    add()
    cases = load_cases("mined-succession", "test")
    assert [[edit.target for edit in case.edits] for case in cases] == [
        ["Bea Mid", "Cid New"], ["Bea Mid", "Cid New"], ["Dan Undated", "Zoe Old"],
    ]  # fmt: skip
    for case in cases:
        earlier, newest = case.edits
        assert (earlier.fact, earlier.prompt) == (newest.fact, newest.prompt)
        assert earlier.image == newest.image
        new = [probe for probe in case.probes if probe.wanted == "target"]
        assert {probe.query.target for probe in new} == {newest.target}


def test_only_the_current_answers_are_needed(folder, add):
    for role in ("timestamp", "interval"):
        (folder / "mined_data" / MINED.files[role]).unlink()
    add()
    assert [len(case.probes) for case in load_cases("mined", "test")] == [4] * 4
    (folder / "mined_data" / MINED.files["test"]).unlink()
    with pytest.raises(BadInput, match=r"no Dimension1_time_agnostic\.json in .*mined needs it"):
        add()


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"current_answer": ""}, "'current_answer' is empty"),
        ({"answers": "Ann"}, "'answers' is str, not a list"),
        ({"answers": [3]}, "'answers.0' is int, not text"),
        ({"image": None}, "'image' is NoneType, not text"),
        ({"mm_questions": "\ud800"}, "'mm_questions' holds characters that are not Unicode"),
    ],
)
def test_a_fault_is_named_with_its_record(folder, change, fault):
    write(folder, "test", [row("Alba"), row("Alba") | change])
    found = locate(MINED, [folder / "mined_data"], folder / "imgs")
    assert check(MINED, found).problems == [f"Dimension1_time_agnostic.json, record 1: {fault}"]


def test_a_file_of_another_benchmark_is_named(folder, add):
    write(folder, "test", [{"src": "what?", "alt": "this"}])
    add()
    with pytest.raises(BadInput, match=r"record 0: 'subject' is missing, and 6 more faults"):
        load_cases("mined", "test")
