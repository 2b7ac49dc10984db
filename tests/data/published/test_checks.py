"""Checks of a published benchmark: every fault is named with its place."""

import json
from dataclasses import replace

import pytest

from liveedit.data.published.checks import check
from liveedit.data.published.locations import locate
from liveedit.data.published.sources import source

VLKEB = source("vlkeb")


def test_a_sound_benchmark_has_no_problems(published, located):
    told = []
    result = check(VLKEB, located, lambda done, total: told.append((done, total)))
    assert result.problems == []
    assert result.records == {"train.json": 5, "eval.json": 3, "eval_edit_onehop.json": 2}
    assert "eval.json has 3 records, the published one 3,174" in result.notes
    assert told[-1] == (result.images, result.images)


@pytest.mark.parametrize(("count", "noted"), [(2, True), (3, False), (4, True)])
def test_a_number_of_records_that_differs_from_the_published_one_is_noted(
    published, count, noted, located
):
    """A record with several faults is one record."""
    file = published / "vlkeb" / "eval.json"
    rows = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps([rows[0] | {"src": "", "alt": ""}, *rows[1:]]), encoding="utf-8")
    found = check(replace(VLKEB, counts={"test": count}), located)
    assert found.records["eval.json"] == 2
    assert found.notes == [f"eval.json has 3 records, the published one {count}"] * noted


def test_a_fault_is_where_the_image_is_named_first(published, located):
    images, file = published / "vlkeb" / "images", published / "vlkeb" / "eval.json"
    rows = json.loads(file.read_text(encoding="utf-8"))
    rows[2]["m_loc"] = rows[1]["image"]
    file.write_text(json.dumps(rows), encoding="utf-8")
    (images / rows[1]["image"]).unlink()
    told = []
    found = check(VLKEB, located, lambda done, total: told.append(done))
    assert [problem.partition(": no image")[0] for problem in found.problems] == [
        "eval.json, record 1: 'image'"
    ]
    assert told == list(range(1, found.images + 1))


def test_every_problem_is_named(published, located):
    images, file = published / "vlkeb" / "images", published / "vlkeb" / "eval.json"
    rows = json.loads(file.read_text(encoding="utf-8"))
    (images / rows[0]["image"]).unlink()
    (images / rows[1]["m_loc"]).write_bytes((images / rows[1]["m_loc"]).read_bytes()[:300])
    (images / rows[2]["image_rephrase"]).write_text("no image")
    rows[1]["alt"] = ""
    (published / "vlkeb" / "train.json").write_text(
        json.dumps([{**rows[2], "src": 4}, *rows[:2]]), encoding="utf-8"
    )
    rows[1]["alt"] = "sound"
    file.write_text(json.dumps(rows), encoding="utf-8")
    problems = check(VLKEB, located).problems
    assert problems[:2] == [
        "train.json, record 0: 'src' is int, not text",
        "train.json, record 2: 'alt' is empty",
    ]
    assert [
        problem.partition(": no image")[0] for problem in problems if "no image at" in problem
    ] == ["train.json, record 1: 'image'"]
    assert any(
        "eval.json, record 1: 'm_loc': cannot read the image" in problem for problem in problems
    )
    assert any("'image_rephrase'" in problem and "not an image" in problem for problem in problems)
    assert len(problems) == 5


def test_images_elsewhere_are_one_problem(published):
    found = locate(VLKEB, [published / "vlkeb"], published)
    [problem] = check(VLKEB, found).problems
    assert "give the folder that holds m." in problem
