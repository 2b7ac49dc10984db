"""Own benchmarks: made of corrections, kept, read, checked and removed."""

import base64

import pytest
from PIL import Image

from liveedit.data import load_cases
from liveedit.data.images import images_hash, open_image
from liveedit.data.own.benchmarks import add, check_name, names, problems, read, remove
from liveedit.errors import BadInput, UnknownName

pytestmark = pytest.mark.usefixtures("home")


def test_what_was_added_is_read_back_in_each_part(corrections, rows):
    own = add("mine", corrections(*rows))
    assert names() == ["mine"]
    assert read("mine") == own
    assert problems(own) == []
    assert {item.answer for item in own.items} == {row["answer"] for row in rows}
    ids = []
    for part in ("train", "val", "test"):
        cases = load_cases("mine", part)
        assert cases
        ids += [case.id for case in cases]
        for case in cases:
            metrics = [probe.metric for probe in case.probes]
            assert metrics[:2] == ["reliability", "text_generality"]
            assert {"image_generality", "text_locality", "image_locality"} <= set(metrics)
            assert all(query.image is None or query.images for query in case.queries)
    assert len(ids) == len(set(ids))
    again = [case.id for case in load_cases("mine", "train", 1)]
    first = [case.id for case in load_cases("mine", "train", 0)]
    assert sorted(again) == sorted(first) != again


def test_what_is_given_is_probed_and_the_rest_made(corrections, rows, photos):
    add("mine", corrections(*rows))
    asked = {}
    for part in ("train", "val", "test"):
        for case in load_cases("mine", part):
            asked[case.edits[0].target] = {probe.metric: probe for probe in case.probes}
    for row in rows:
        probes = asked.get(row["answer"])
        if probes is None:
            continue  # not edited
        reworded = probes["text_generality"].query.prompt
        if "paraphrases" in row:
            assert reworded in row["paraphrases"]
        else:
            assert row["question"] in reworded != row["question"]
        shown = probes["image_generality"]
        if "more_images" in row:
            assert [str(shown.query.image)] == row["more_images"]
        else:
            assert shown.note == "view of the image"
            assert open_image(shown.query.image).size == open_image(photos[0]).size


def test_a_picture_in_a_data_url_is_kept_as_a_file(corrections, rows, photos):
    content = base64.b64encode(photos[0].read_bytes()).decode()
    rows[0]["image"] = f"data:image/png;base64,{content}"
    own = add("mine", corrections(*rows))
    [item] = [item for item in own.items if item.answer == "thing 0"]
    assert images_hash(item.images) == images_hash([photos[0]])
    assert problems(own) == []


def test_questions_without_an_image(corrections):
    own = add("mine", corrections(*({"question": f"q{n}?", "answer": f"a{n}"} for n in range(14))))
    case = load_cases("mine", "test")[0]
    assert [probe.metric for probe in case.probes] == [
        "reliability",
        "text_generality",
        "text_locality",
        "image_locality",
    ]
    assert problems(own) == []


def test_nothing_there_is_overwritten_and_removing_leaves_the_photos(corrections, rows, photos):
    add("mine", corrections(*rows))
    with pytest.raises(BadInput, match="there already"):
        add("mine", corrections(*rows))
    remove("mine")
    assert names() == []
    assert photos[0].exists()
    with pytest.raises(BadInput, match="no benchmark"):
        remove("mine")
    with pytest.raises(UnknownName, match="unknown benchmark"):
        load_cases("mine", "test")


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a b", "x" * 65, "-x"])
def test_names_that_no_folder_should_have(name):
    with pytest.raises(BadInput, match="no benchmark can be called"):
        check_name(name)


def test_nothing_is_left_where_there_are_too_few(corrections, rows, home):
    with pytest.raises(BadInput, match="too few"):
        add("mine", corrections(*rows[:5]))
    assert not home.exists() or not list(home.rglob("*.json"))


def test_changed_and_missing_photos_are_found(corrections, rows, tmp_path):
    for name in ("changed.png", "gone.png"):
        Image.new("RGB", (5, 5), "green" if name == "gone.png" else "red").save(tmp_path / name)
    rows[3]["image"] = "changed.png"
    rows[7]["image"] = "gone.png"
    own = add("mine", corrections(*rows))
    Image.new("RGB", (5, 5), "blue").save(tmp_path / "changed.png")
    (tmp_path / "gone.png").unlink()
    found = sorted(problems(own))
    assert len(found) == 2
    assert "changed.png has changed" in found[0]
    assert "no image at" in found[1]


@pytest.mark.parametrize("content", ["", "[]", '{"version": 9}', '{"version": 1, "items": [{}]}'])
def test_a_damaged_benchmark_is_named(corrections, rows, home, content):
    add("mine", corrections(*rows))
    (home / "own" / "mine" / "benchmark.json").write_text(content, encoding="utf-8")
    with pytest.raises(BadInput, match="is damaged: run `liveedit data remove mine`"):
        load_cases("mine", "test")


def test_an_id_stays_when_other_corrections_are_added(corrections, rows):
    before = {item.answer: item.id for item in add("mine", corrections(*rows)).items}
    more = {"question": "And this?", "answer": "new"}
    after = {item.answer: item.id for item in add("more", corrections(*rows, more)).items}
    assert before.items() <= after.items()
