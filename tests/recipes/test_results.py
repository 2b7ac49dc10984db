"""The results' recipe: every number in the pages comes from the records."""

import re
import sys
from itertools import product
from pathlib import Path

import pytest

from liveedit.types import Record

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes" / "emblem"))

import results

ROOT = Path(__file__).parents[2]
METRICS = ("reliability", "text_generality", "image_generality", "text_locality", "image_locality")
EDITS = (1, 1000)
FOLDER = Path("docs", "explanation", "results")


def answers(editor, right, seed=0):
    """Records of two cases at each N; of a metric's four tokens the first ``right`` are right."""
    answer = "a lake" if right == 4 else "a hill"
    tokens = (1,) * right + (0,) * (4 - right)
    return [
        Record(
            editor=editor, data="emblem", edits=edits, window=0, seed=seed, case=case, probe=probe,
            metric=metric, wanted="target", prompt="What is it?", target="a lake", image="",
            note="", answer_before="a hill", answer_after=answer, tokens_wanted=(1, 1, 1, 1),
            tokens_after=tokens,
        )
        for edits, case, (probe, metric) in product(EDITS, ("first", "second"), enumerate(METRICS))
    ]  # fmt: skip


@pytest.fixture
def pages(tmp_path):
    """Copies of the pages that are written to, and the folders of records."""
    (tmp_path / FOLDER).mkdir(parents=True)
    copied = ("index.md", "bench.json", "outsiders.json")
    for name in (Path("README.md"), *(FOLDER / file for file in copied)):
        (tmp_path / name).write_text((ROOT / name).read_text(encoding="utf-8"), encoding="utf-8")
    for folder, name, right, seed in (
        ("default", "pinpoint", 4, 0),
        ("default", "lte", 3, 0),
        ("default", "lte", 0, 1),
        ("released", "lte-text", 2, 0),
    ):
        lines = [f"{record.to_json()}\n" for record in answers(name, right, seed)]
        records = tmp_path / folder / f"seed-{seed}" / f"records-{name}.jsonl"
        records.parent.mkdir(parents=True, exist_ok=True)
        records.write_text("".join(lines), encoding="utf-8")
    return tmp_path


def test_the_pages_show_what_the_records_hold(pages, monkeypatch):
    text = (pages / "README.md").read_text(encoding="utf-8")
    records, released = str(pages / "default"), str(pages / "released")
    options = [records, "--released", released, "--root", str(pages)]
    monkeypatch.setattr(sys, "argv", ["results.py", *options])
    results.main()
    readme = (pages / "README.md").read_text(encoding="utf-8")
    page = (pages / FOLDER / "index.md").read_text(encoding="utf-8")
    both = "**100.0** ± 0.0 | **100.0** ± 0.0"
    assert "| lte | 37.5 ± " in readme  # over both seeds
    assert f"| pinpoint | {both} | {both} |" in readme
    assert "lte-text" not in readme
    assert "| lte-text | 50.0 ± 0.0 | 50.0 ± 0.0 |" in page
    assert "| lte | **75.0** ± 0.0 | **75.0** ± 0.0 |" in page  # the same seed alone
    assert text.partition("<!--")[0] == readme.partition("<!--")[0]
    assert text.rpartition("-->")[2] == readme.rpartition("-->")[2]
    assert (pages / FOLDER / "emblem.json").is_file()


@pytest.mark.parametrize("page", ["README.md", FOLDER / "index.md", FOLDER / "emblem.md"], ids=str)
def test_the_pages_are_what_the_records_say(page):
    """If not: `python recipes/emblem/results.py`."""
    assert results.written(ROOT)[ROOT / page] == (ROOT / page).read_text(encoding="utf-8")


def test_of_the_recognised_drawings_the_share_with_the_edited_answer_is_shown():
    row = {"artist": "ann", "sort": "flag", "drawings": 8, "recognised": 4, "edited": 6}
    found = {
        "serac": [row | {"edited_of_recognised": 3}],
        "direct": [row | {"edited_of_recognised": 1, "recognised": 0, "drawings": 8}],
    }
    assert results.outsiders(found).splitlines()[-1] == "| ann | flag | 8 | 50 | 75 | – |"


FIGURE = re.compile(r"\d\.\d|\d ?%|\d of \d|\bhalf\b|\b(?:six|nine) in ten\b")
"""Text that reads like a measurement: sizes, versions and settings are whole or stand in code."""


def typed(text):
    """The lines with figures that no call puts there; code, links and the papers' rows aside."""
    text = re.sub(
        r"\{\{.*?\}\}|\{%.*?%\}|`[^`]*`|```.*?```|\]\([^)]*\)|<!--.*?-->", "", text, flags=re.DOTALL
    )
    return [
        line
        for line in text.splitlines()
        if FIGURE.search(line) and not re.match(r"\|[^|]*\| \d", line)
    ]


def test_no_figure_is_typed_by_hand():
    pages = Path(results.__file__).parent / "pages"
    allowed = [
        "of a 95 % interval",
        "3.7 million weights",
        "Python ≥ 3.11",
        "Apache-2.0",
        "LLaVA-1.5",
    ]
    for text in (
        results.MARKED.sub("", (ROOT / "README.md").read_text(encoding="utf-8")),
        (pages / "readme.md.j2").read_text(encoding="utf-8"),
        (pages / "results.md.j2").read_text(encoding="utf-8"),
    ):
        assert [line for line in typed(text) if not any(words in line for words in allowed)] == []
