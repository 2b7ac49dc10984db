"""Annotation files: what is read, and which line every fault gets."""

import json

import pytest

from liveedit.data.published.annotations import FIELDS, parse, read
from liveedit.errors import BadInput

SOUND = {name: f"a {name}" for name in FIELDS}


@pytest.fixture
def write(tmp_path):
    def write(records):
        file = tmp_path / "eval.json"
        file.write_text(json.dumps(records), encoding="utf-8")
        return file

    return write


def test_records_keep_their_order_and_text(write):
    rows = read(write([SOUND, SOUND | {"alt": "two \n"}]))
    assert [row.id for row in rows] == ["eval:0", "eval:1"]
    assert [row.number for row in rows] == [0, 1]
    assert rows[1].alt == "two \n"
    assert rows[0].images == ("a image", "a image_rephrase", "a m_loc")
    assert rows[0].hops == {}
    assert rows[0].fact is None


def test_one_hop_records_bring_a_question_and_a_fact(write):
    asked = {
        "port_edit_q": "zone of it?",
        "port_edit_a": "CT",
        "port_q": "zone here?",
        "port_a": "Central",
    }
    [row] = read(write([SOUND | {"port_new": [asked]}]))
    assert row.hops == {1: ("zone here?", "Central")}
    assert row.fact == ("zone of it?", "CT")


def test_of_several_questions_of_a_hop_the_first_counts(write):
    items = [
        {"port_type": f"{hops}-hop", "Q&A": {"Question": question, "Answer": "x"}}
        for hops, question in ((2, "second?"), (4, "fourth?"), (2, "again?"))
    ]
    [row] = read(write([SOUND | {"port_new": items}]))
    assert row.hops == {2: ("second?", "x"), 4: ("fourth?", "x")}


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"alt": ""}, "'alt' is empty"),
        ({"alt": " \n"}, "'alt' is empty"),
        ({"alt": "\u200b"}, "'alt' is empty"),
        ({"rephrase": "\ufeff \u2060\u202e\x07\ufe0f"}, "'rephrase' is empty"),
        ({"alt": "\ud800"}, "'alt' holds characters that are not Unicode"),
        ({"src": "half a \udc00?"}, "'src' holds characters that are not Unicode"),
        ({"image": "\udcff.jpg"}, "'image' holds characters that are not Unicode"),
        ({"m_loc": None}, "'m_loc' is NoneType, not text"),
        ({"src": 3}, "'src' is int, not text"),
        ({"port_new": [{"port_type": "1-hop"}]}, "'port_new' has another form"),
        ({"port_new": "no list"}, "'port_new' has another form"),
        (
            {"port_new": [{"port_type": "1-hop", "Q&A": {"Question": "", "Answer": "x"}}]},
            "empty question or answer",
        ),
        (
            {"port_new": [{"port_type": "1-hop", "Q&A": {"Question": "q", "Answer": "\u200d"}}]},
            "'port_new' has an empty question or answer",
        ),
        (
            {"port_new": [{"port_type": "1-hop", "Q&A": {"Question": "\ud800", "Answer": "x"}}]},
            "'port_new' holds characters that are not Unicode",
        ),
        (
            {"port_new": [{"port_type": "9-hop", "Q&A": {"Question": "q", "Answer": "x"}}]},
            "another form",
        ),
    ],
)
def test_a_fault_is_named_with_its_record(write, change, fault):
    file = write([SOUND, SOUND | change])
    rows, faults = parse(file)
    assert len(rows) == 1
    [line] = faults
    assert line.startswith("eval.json, record 1: ")
    assert fault in line
    with pytest.raises(BadInput, match="record 1"):
        read(file)


@pytest.mark.parametrize("text", ["नमस्\u200dते", "👩\u200d🚀", "e\u0301", "❤\ufe0f", "‮x", "\u2028a"])
def test_what_is_not_seen_may_stand_within_a_text(write, text):
    [row] = read(write([SOUND | {"alt": text}]))
    assert row.alt == text


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ('"alt": ', '"alt": "one", "alt": ', "'alt' is given more than once"),
        ('"alt": ', '"alt": "one", "alt": "two", "alt": ', "'alt' is given more than once"),
        ('"Answer": ', '"Answer": "one", "Answer": ', "'Answer' is given more than once"),
        ('"src": ', '"new\\n": 1, "new\\n": 2, "src": ', r"'new\n' is given more than once"),
        (
            '"src": ',
            '"new": [[{"\\ud800": 1, "\\ud800": 2}]], "src": ',
            r"'\ud800' is given more than once",
        ),
    ],
)
def test_a_key_that_is_there_twice_is_named(write, old, new, fault):
    asked = {"port_type": "1-hop", "Q&A": {"Question": "q", "Answer": "x"}}
    file = write([SOUND, SOUND | {"port_new": [asked]}])
    head, row = file.read_text(encoding="utf-8").rsplit('{"src"', 1)
    file.write_text(head + ('{"src"' + row).replace(old, new), encoding="utf-8")
    rows, faults = parse(file)
    assert [row.number for row in rows] == [0]
    assert faults == [f"eval.json, record 1: {fault}"]


def test_missing_fields_are_named_each(write):
    rows, faults = parse(write([{"src": "what?"}, "text"]))
    assert rows == []
    assert len(faults) == len(FIELDS)
    assert faults[-1] == "eval.json, record 1: not a record but str"


def test_the_first_fault_is_told_and_how_many_more_there_are(write):
    with pytest.raises(BadInput, match=r"record 0: 'alt' is empty, and 2 more faults: repair"):
        read(write([SOUND | {"alt": "", "loc": ""}, SOUND, SOUND | {"src": 1}]))
    with pytest.raises(BadInput, match=r"record 1: 'alt' is empty: repair"):
        read(write([SOUND, SOUND | {"alt": ""}]))


def test_an_old_answer_may_be_empty(write):
    assert len(read(write([SOUND | {"pred": ""}]))) == 1


@pytest.mark.parametrize(
    ("text", "says"),
    [("[{", "truncated"), ("[]", "not hold a list of records"), ("{}", "not hold a list of")],
)
def test_a_broken_file_is_named(tmp_path, text, says):
    (tmp_path / "train.json").write_text(text, encoding="utf-8")
    with pytest.raises(BadInput, match=says):
        parse(tmp_path / "train.json")
    with pytest.raises(BadInput, match="no annotations at"):
        parse(tmp_path / "nowhere.json")
