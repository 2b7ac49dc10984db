"""CCKEB, on records of the published form: a few of VLKEB's, whose additions are invented."""

import json

import pytest

from liveedit.data import load_cases
from liveedit.data.published.checks import check
from liveedit.data.published.locations import add_location, locate
from liveedit.data.published.sources import source
from liveedit.errors import BadInput

CCKEB = source("cckeb")


def pair(row, number):
    """A record with an edit in text, and the question that needs both edits."""
    edit = {
        "src": f"Where does number {number} flow?", "pred": ["East"], "alt": ["Far", "West"],
        "rephrase": f"Number {number} flows where?", "loc": "Who sang it?", "loc_ans": "Elvis",
    }  # fmt: skip
    asked = [
        {"port_type": "1-hop", "Q&A": {"Question": "unused?", "Answer": "unused"}},
        {"port_type": "comp", "Q&A": {"Question": "Where does it flow?", "Answer": "East"}},
    ]
    return row | {"textual_edit": edit, "port_new": asked}


@pytest.fixture
def folder(published):
    """The files of pairs; the last record of the test has no edit in text."""
    folder = published / "vlkeb"
    for name, former in (("CCKEB_train.json", "train.json"), ("CCKEB_eval.json", "eval.json")):
        rows = json.loads((folder / former).read_text(encoding="utf-8"))
        pairs = [pair(row, number) for number, row in enumerate(rows)]
        del pairs[-1]["textual_edit"]
        (folder / name).write_text(json.dumps(pairs), encoding="utf-8")
    return folder


@pytest.fixture
def located(folder):
    return locate(CCKEB, [folder], folder / "images")


def test_files_of_the_published_form_are_sound(located):
    found = check(CCKEB, located)
    assert found.problems == []
    assert found.records == {"CCKEB_train.json": 5, "CCKEB_eval.json": 3}


def test_a_pair_is_edited_and_asked_together(folder, located):
    add_location("cckeb", located)
    add_location("vlkeb", locate(source("vlkeb"), [folder], folder / "images"))
    cases = load_cases("cckeb", "test")
    alone = load_cases("vlkeb", "test")
    assert len(cases) == len(alone) - 1
    for number, (case, photo) in enumerate(zip(cases, alone, strict=False)):
        shown, text = case.edits
        assert (shown.prompt, shown.target, shown.image) == (
            photo.edits[0].prompt, photo.edits[0].target, photo.edits[0].image,
        )  # fmt: skip
        assert (text.prompt, text.target, text.image) == (
            f"Where does number {number} flow?", "Far West", None,
        )  # fmt: skip
        *others, reliability, generality, locality, composition = case.probes
        assert [probe.metric for probe in others] == [probe.metric for probe in photo.probes]
        assert (reliability.query, generality.query.target) == (text, "Far West")
        assert generality.query.prompt == f"Number {number} flows where?"
        assert (locality.query.prompt, locality.wanted) == ("Who sang it?", "before")
        assert (composition.query.prompt, composition.query.target) == (
            "Where does it flow?", "Far West",
        )  # fmt: skip
        assert (composition.query.image, composition.wanted) == (shown.image, "target")


def test_training_edits_photos_alone(folder, located):
    add_location("cckeb", located)
    cases = load_cases("cckeb", "train", split="paper")
    assert [len(case.edits) for case in cases] == [1] * 5


def test_a_question_keeps_its_only_mark(folder, located):
    add_location("cckeb", located)
    rows = json.loads((folder / "CCKEB_eval.json").read_text(encoding="utf-8"))
    rows[0]["loc"] = "who sang?"
    (folder / "CCKEB_eval.json").write_text(json.dumps(rows), encoding="utf-8")
    for prompts in ("plain", "paper"):
        case = load_cases("cckeb", "test", prompts=prompts)[0]
        [probe] = [probe for probe in case.probes if probe.metric == "text_locality"]
        assert probe.query.prompt == "who sang?"


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda row: row.update(alt=""), "'alt' is empty"),
        (lambda row: row.pop("image"), "'image' is missing"),
        (lambda row: row["textual_edit"].pop("rephrase"), "'textual_edit.rephrase' is missing"),
        (lambda row: row.update(textual_edit="x"), "'textual_edit' is str, not an object"),
        (lambda row: row["port_new"][1].pop("Q&A"), "'port_new.1.Q&A' is missing"),
    ],
)
def test_a_fault_is_named_with_its_record(folder, located, change, fault):
    file = folder / "CCKEB_eval.json"
    rows = json.loads(file.read_text(encoding="utf-8"))
    change(rows[1])
    file.write_text(json.dumps(rows), encoding="utf-8")
    assert check(CCKEB, located).problems == [f"CCKEB_eval.json, record 1: {fault}"]


def test_a_missing_image_and_a_truncated_file_are_named(folder, located):
    rows = json.loads((folder / "CCKEB_eval.json").read_text(encoding="utf-8"))
    (folder / "images" / rows[0]["m_loc"]).unlink()
    [line] = check(CCKEB, located).problems
    assert "'m_loc': no image at" in line
    (folder / "CCKEB_eval.json").write_text('[{"src": "what', encoding="utf-8")
    with pytest.raises(BadInput, match=r"CCKEB_eval\.json is truncated or not JSON"):
        check(CCKEB, located)
