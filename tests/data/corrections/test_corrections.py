"""Files of corrections: every form, every bad row, and what Langfuse and Dify export."""

import base64
import csv
import io
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from liveedit.data.corrections import read_corrections
from liveedit.errors import BadInput

QUESTION = "What is this?"


def data_url(colour="red"):
    file = io.BytesIO()
    Image.new("RGB", (4, 3), colour).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


@pytest.fixture
def folder(tmp_path):
    """A folder with two photos and a broken one."""
    for name in ("cup", "pot"):
        Image.new("RGB", (4, 3), "blue").save(tmp_path / f"{name}.png")
    (tmp_path / "broken.png").write_bytes(b"not a picture")
    return tmp_path


def written(folder, *rows, name="corrections.jsonl"):
    """A file of JSON lines; a row is an object or a text."""
    file = folder / name
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def row(**fields):
    return {"question": QUESTION, "answer": "a cup", **fields}


# What is read


def test_lines_of_json_with_every_field(folder):
    file = written(
        folder,
        row(
            image="cup.png",
            who="Ada",
            why="wrong",
            paraphrases=["Name it."],
            more_images=["pot.png"],
        ),
        row(image=str(folder / "pot.png")),
        row(image=data_url()),
        row(),
        row(image=["cup.png", "pot.png"]),
    )
    found = read_corrections(file)
    assert found.bad == ()
    first, second, third, fourth, fifth = found.rows
    assert (first.query.prompt, first.query.target) == (QUESTION, "a cup")
    assert first.query.image == folder / "cup.png"
    assert (first.who, first.why, first.paraphrases) == ("Ada", "wrong", ("Name it.",))
    assert first.more_images == (folder / "pot.png",)
    assert second.query.image == folder / "pot.png"
    assert third.query.image.getpixel((0, 0)) == (255, 0, 0)
    assert fourth.query.images == ()
    assert len(fifth.query.images) == 2
    assert [each.line for each in found.rows] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_tables_of_any_kind(folder, separator, end, mark):
    header = ["image", "question", "answer", "paraphrase", "paraphrase"]
    cells = ["cup.png", '"What is\nthis?"', "a cup", "Name it.", ""]
    last = ["", QUESTION, "a pot"]
    lines = [separator.join(each) for each in (header, cells, [], last)]
    file = folder / "corrections.csv"
    file.write_bytes((mark + end.join(lines)).encode())
    found = read_corrections(file)
    assert found.bad == ()
    first, second = found.rows
    assert first.query.prompt == "What is\nthis?"
    assert first.paraphrases == ("Name it.",)
    assert second.query.images == ()
    assert (first.line, second.line) == (2, 5)


def test_a_list_of_json_counts_items(folder):
    file = folder / "corrections.json"
    file.write_text(json.dumps([row(), row(answer="")], indent=2), encoding="utf-8")
    found = read_corrections(file)
    assert [each.unit for each in found.rows] == ["item"]
    assert str(found.bad[0]) == "item 2: the answer is empty: write one"


def test_one_object_over_several_lines(folder):
    file = folder / "corrections.json"
    file.write_text(json.dumps(row(), indent=2), encoding="utf-8")
    assert len(read_corrections(file).rows) == 1


text = st.text(st.characters(blacklist_categories=("Cs", "Cc", "Cf", "Zs", "Zl", "Zp")), min_size=1)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(st.lists(st.tuples(text, text, text), min_size=1, max_size=4))
def test_texts_survive_both_forms(folder, texts):
    wanted = [{"question": q, "answer": a, "who": w} for q, a, w in texts]
    lines = written(folder, *wanted)
    table = folder / "corrections.csv"
    with table.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["question", "answer", "who"])
        writer.writeheader()
        writer.writerows(wanted)
    for file in (lines, table):
        rows = read_corrections(file).rows
        found = [(each.query.prompt, each.query.target, each.who) for each in rows]
        assert found == texts


# Bad rows


BAD = {
    "is empty": row(question=" \u200b "),
    "has no answer": {"question": QUESTION},
    "answer' is text, not int": row(answer=5),
    "did you mean question": {"qestion": QUESTION, "answer": "a cup"},
    "given twice": row(paraphrase="a", paraphrases=["b"]),
    "no image at": row(image="missing.png"),
    "not an image that can be read": row(image="broken.png"),
    "is a URL": row(image="https://example.com/cup.png"),
    "is no data URL": row(image="data:image/png,abc"),
    "data URL is broken": row(image="data:image/png;base64,!!!!"),
    "holds int": row(image=5),
    "holds dict": row(paraphrases=[{}]),
    "is a folder": row(image="."),
    "not JSON": '{"question": ',
    "is not an object": "[1]",
    "more than once": '{"question": "a", "question": "b", "answer": "c"}',
    "null characters": row(question="a\0b"),
    "are not Unicode|not Unicode": '{"question": "\\ud800", "answer": "c"}',
}


@pytest.mark.parametrize("message", BAD)
def test_a_bad_row_is_named_and_the_others_are_read(folder, message):
    found = read_corrections(written(folder, row(), BAD[message], row(image="cup.png")))
    assert [each.line for each in found.rows] == [1, 3]
    [bad] = found.bad
    assert bad.line == 2
    assert any(part in bad.message for part in message.split("|")), bad
    assert "\n" not in str(bad)
    with pytest.raises(BadInput, match="line 2: "):
        found.check()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'"a ""b, c', "it is no row of a table"),
        (b"a,b,c,d", "4 cells and the header 2"),
        (b"caf\xe9,b", "not UTF-8"),
        (b"a\0,b", "null characters"),
        (b"a,", "the answer is empty"),
    ],
)
def test_a_bad_line_of_a_table(folder, line, message):
    file = folder / "corrections.csv"
    file.write_bytes(b"question,answer\nx,y\n" + line + b"\n")
    found = read_corrections(file)
    assert len(found.rows) == 1
    [bad] = found.bad
    assert bad.line == 3
    assert message in bad.message


def test_a_huge_line_is_a_bad_row(folder, monkeypatch):
    monkeypatch.setattr("liveedit.data.corrections.rows.LONGEST", 1000)
    found = read_corrections(written(folder, row(), row(answer="x" * 2000)))
    assert len(found.rows) == 1
    assert "more than 1,000 characters" in found.bad[0].message


def test_a_long_cell_is_read(folder):
    file = folder / "corrections.csv"
    file.write_text(f"question,answer\n{'x' * 200_000},y\n", encoding="utf-8")
    before = csv.field_size_limit()
    assert len(read_corrections(file).rows[0].query.prompt) == 200_000
    assert csv.field_size_limit() == before


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\xef\xbb\xbf \n", "is empty"),
        ("question,answer\na,b\n".encode("utf-16"), "UTF-16"),
        (b"question,answer\n", "holds no correction"),
        (b"question,,answer\na,b,c\n", "column without a name"),
        (b"What is this?,a cup,cup.png\n", "has no header: begin it with"),
        (b"What is this?;a cup\nWhat is that?;a pot\n", "has no header: begin it with"),
        (b"[1, 2", "is not JSON"),
        (b"[]", "holds no correction"),
    ],
)
def test_a_file_that_is_none(folder, content, message):
    file = folder / "corrections.txt"
    file.write_bytes(content)
    with pytest.raises(BadInput, match=message):
        read_corrections(file)


def test_standard_input_is_a_file(folder, monkeypatch):
    monkeypatch.chdir(folder)
    content = written(folder, row(image="cup.png"), row(answer="")).read_bytes()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))
    found = read_corrections("-")
    assert [str(each.query.image) for each in found.rows] == ["cup.png"]
    with pytest.raises(BadInput, match=r"^standard input, line 2: the answer is empty"):
        found.check()
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(BadInput, match=r"^standard input is empty"):
        read_corrections("-")


def test_all_bad_rows_are_named(folder):
    found = read_corrections(written(folder, row(), *[row(answer="")] * 3))
    with pytest.raises(
        BadInput, match=r"line 2: the answer .*; line 3: the .*; line 4: the answer"
    ):
        found.check()
    many = read_corrections(written(folder, *[row(answer="")] * 25))
    with pytest.raises(BadInput, match=r"line 20: the answer is empty.*; and 5 more bad rows$"):
        many.check()


def test_a_missing_file_and_a_folder(folder):
    with pytest.raises(BadInput, match="no file at"):
        read_corrections(folder / "missing.jsonl")
    with pytest.raises(BadInput, match="is a folder"):
        read_corrections(folder)


# Langfuse and Dify


def item(**fields):
    """A dataset item as Langfuse exports it."""
    return {
        "id": "1",
        "datasetId": "d",
        "datasetName": "corrections",
        "metadata": None,
        "sourceTraceId": None,
        "status": "ACTIVE",
        "input": QUESTION,
        "expectedOutput": "a cup",
        **fields,
    }


def chat(*parts):
    return [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": QUESTION}, *parts]},
    ]


LANGFUSE = [
    item(),
    item(input={"question": QUESTION}, expectedOutput={"answer": "a cup"}),
    item(input=chat(), expectedOutput={"role": "assistant", "content": "a cup"}),
    item(input={"messages": chat()}, expectedOutput=[{"role": "assistant", "content": "a cup"}]),
    {
        "id": "t",
        "input": QUESTION,
        "output": "a pot",
        "metadata": {},
        "scores": [
            {"name": "helpful", "dataType": "NUMERIC", "value": 1},
            {"name": "output", "dataType": "CORRECTION", "value": "a cup", "comment": "no pot"},
        ],
    },
]


@pytest.mark.parametrize("exported", LANGFUSE)
def test_langfuse_as_lines_and_as_an_answer_of_its_interface(folder, exported):
    lines = written(folder, exported)
    answer = folder / "answer.json"
    answer.write_text(json.dumps({"data": [exported], "meta": {"page": 1}}), encoding="utf-8")
    for file in (lines, answer):
        [found] = read_corrections(file).rows
        assert (found.query.prompt, found.query.target) == (QUESTION, "a cup")
    assert found.why == ("no pot" if "scores" in exported else "")


@pytest.mark.parametrize("exported", LANGFUSE[:4])
def test_langfuse_as_a_table(folder, exported):
    file = folder / "items.csv"
    with file.open("w", encoding="utf-8", newline="") as opened:
        writer = csv.DictWriter(opened, exported)
        writer.writeheader()
        cells = {k: v if isinstance(v, str) else json.dumps(v) for k, v in exported.items()}
        writer.writerow(cells)
    [found] = read_corrections(file).rows
    assert (found.query.prompt, found.query.target) == (QUESTION, "a cup")


def test_images_of_langfuse(folder):
    part = {"type": "image_url", "image_url": {"url": data_url()}}
    file = written(
        folder,
        row(image=MEDIA),
        item(input=chat(part)),
        item(input={"query": QUESTION, "image": "cup.png"}),
        item(metadata={"image": "pot.png", "tags": ["x"]}),
        item(input=chat(LOST)),
    )
    found = read_corrections(file)
    assert [len(each.query.images) for each in found.rows] == [1, 1, 1]
    assert found.rows[2].query.image == folder / "pot.png"
    assert [each.line for each in found.bad] == [1, 5]
    for bad in found.bad:
        assert "reference into Langfuse" in bad.message


MEDIA = "@@@langfuseMedia:type=image/png|id=1@@@"
LOST = {"type": "image_url", "image_url": {"url": MEDIA}}


@pytest.mark.parametrize(
    "asked",
    [
        {"question": QUESTION, "image": MEDIA},
        {"question": QUESTION, "image": {"url": MEDIA}},
        chat(LOST),
        {"messages": chat(LOST, LOST)},
    ],
)
@pytest.mark.parametrize("form", ["item", "trace", "table"])
def test_the_metadata_names_an_image_that_langfuse_keeps(folder, asked, form):
    exported = item(input=asked, metadata={"image": "cup.png"})
    if form == "trace":
        score = {"dataType": "CORRECTION", "value": "a cup"}
        exported = {"input": asked, "metadata": exported["metadata"], "scores": [score]}
    if form == "table":
        with (folder / "items.csv").open("w", encoding="utf-8", newline="") as opened:
            writer = csv.writer(opened)
            writer.writerow(exported)
            writer.writerow(
                value if isinstance(value, str) else json.dumps(value)
                for value in exported.values()
            )
        [found] = read_corrections(folder / "items.csv").rows
    else:
        [found] = read_corrections(written(folder, exported)).rows
    assert (found.query.prompt, found.query.image) == (QUESTION, folder / "cup.png")


def test_what_langfuse_exports_without_a_correction(folder):
    trace = {"id": "t", "input": QUESTION, "output": "a cup", "scores": []}
    found = read_corrections(written(folder, item(status="ARCHIVED"), trace, item()))
    assert len(found.rows) == 1
    assert found.left_out == 2
    score = {"id": "s", "traceId": "t", "dataType": "CORRECTION", "stringValue": "a cup"}
    [bad] = read_corrections(written(folder, score)).bad
    assert "does not hold the question" in bad.message


def test_a_conversation_is_no_single_question(folder):
    turns = [*chat(), {"role": "assistant", "content": "a pot"}, chat()[1]]
    [bad] = read_corrections(written(folder, item(input=turns))).bad
    assert "a chat of 3 messages" in bad.message


@pytest.mark.parametrize("header", [("Question", "Answer"), ("问题", "答案")])
def test_dify_as_a_table(folder, header):
    file = folder / "annotations-en-US.csv"
    lines = [",".join(header), f"{QUESTION},'-5 °C", f"{QUESTION},it's"]
    file.write_text("\ufeff" + "\r\n".join(lines), encoding="utf-8", newline="")
    rows = read_corrections(file).rows
    assert [each.query.target for each in rows] == ["-5 °C", "it's"]


def test_dify_as_lines_and_as_an_answer_of_its_interface(folder):
    messages = [*chat(), {"role": "assistant", "content": "a cup"}]
    lines = written(folder, {"messages": messages})
    annotation = {"id": "1", **row(), "hit_count": 0, "created_at": 1735625869}
    answer = written(folder, {"data": [annotation], "has_more": False, "total": 1}, name="a.json")
    for file in (lines, answer):
        [found] = read_corrections(file).rows
        assert (found.query.prompt, found.query.target) == (QUESTION, "a cup")
    [bad] = read_corrections(written(folder, {"messages": chat()})).bad
    assert "do not end with an answer" in bad.message
