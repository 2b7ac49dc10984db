"""The results' recipe: every number in the pages comes from the records."""

import re
import sys
from pathlib import Path

import pytest

from liveedit.types import Record

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes" / "emblem"))

import results

ROOT = Path(__file__).parents[2]
METRICS = ("reliability", "text_generality", "image_generality", "text_locality", "image_locality")


def answers(editor, right, seed=0):
    """The records of two cases after 10 edits; of each metric's four tokens the first ``right`` are
    as wanted.
    """
    return [
        Record(
            editor=editor, data="emblem", edits=10, window=0, seed=seed, case=case, probe=probe, metric=metric,
            wanted="target", prompt="What is it?", target="a lake", image="", note="", answer_before="a hill",
            answer_after="a lake" if right == 4 else "a hill", tokens_wanted=(1, 1, 1, 1),
            tokens_after=(1,) * right + (0,) * (4 - right), top10_kept=None,
        )
        for case in ("first", "second")
        for probe, metric in enumerate(METRICS)
    ]  # fmt: skip


@pytest.fixture
def pages(tmp_path):
    """Copies of the two pages that are written to, and the folders of records."""
    (tmp_path / "docs" / "explanation" / "results").mkdir(parents=True)
    for name in ("README.md", "docs/explanation/results/index.md", "docs/explanation/results/bench.json"):
        (tmp_path / name).write_text((ROOT / name).read_text(encoding="utf-8"), encoding="utf-8")
    for folder, name, right, seed in (
        ("sound", "pinpoint", 4, 0), ("sound", "lte", 3, 0), ("sound", "lte", 0, 1), ("released", "lte-text", 2, 0)
    ):  # fmt: skip
        records = tmp_path / folder / f"seed-{seed}" / f"records-{name}.jsonl"
        records.parent.mkdir(parents=True, exist_ok=True)
        records.write_text(
            "".join(f"{record.to_json()}\n" for record in answers(name, right, seed)),
            encoding="utf-8",
        )
    return tmp_path


def test_the_pages_show_what_the_records_hold(pages, monkeypatch):
    text = (pages / "README.md").read_text(encoding="utf-8")
    order = [
        "results.py",
        str(pages / "sound"),
        "--released",
        str(pages / "released"),
        "--root",
        str(pages),
    ]
    monkeypatch.setattr(sys, "argv", order)
    results.main()
    readme, discussion = (
        (pages / name).read_text(encoding="utf-8") for name in ("README.md", "docs/explanation/results/index.md")
    )
    assert "| lte | 37.5 ± " in readme  # over both seeds
    assert "| pinpoint | **100.0** ± 0.0 | **100.0** ± 0.0 |" in readme
    assert "lte-text" not in readme
    assert (
        "| lte-text | 50.0 ± 0.0 | **0.0** ± 0.0 |\n| lte | **75.0** ± 0.0 |" in discussion
    )  # the same seed alone
    assert text.partition("<!--")[0] == readme.partition("<!--")[0]
    assert text.rpartition("-->")[2] == readme.rpartition("-->")[2]
    assert (pages / "docs" / "explanation" / "results" / "emblem.json").is_file()


@pytest.mark.parametrize("page", ["README.md", "docs/explanation/results/index.md", "docs/explanation/results/emblem.md"])
def test_the_pages_are_what_the_records_say(page):
    """If not: `python recipes/emblem/results.py`."""
    assert results.written(ROOT)[ROOT / page] == (ROOT / page).read_text(encoding="utf-8")


FIGURE = re.compile(r"\d\.\d|\d ?%|\d of \d|\bhalf\b|\b(?:six|nine) in ten\b")
"""What reads like a measurement. Sizes, versions and settings are whole numbers or stand in code.
"""


def typed(text):
    """The figures of a text that no call puts there, without code, links and the rows that are the
    papers'.
    """
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
        results.RESULTS.sub("", (ROOT / "README.md").read_text(encoding="utf-8")),
        (pages / "readme.md.j2").read_text(encoding="utf-8"),
        (pages / "results.md.j2").read_text(encoding="utf-8"),
    ):
        assert [line for line in typed(text) if not any(words in line for words in allowed)] == []
