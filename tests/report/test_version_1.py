"""Records of version 1, as they were written before scores and costs had names of their own."""

import json
from pathlib import Path

import pytest

from liveedit.report import read_records, write_report
from liveedit.types import Record

FOLDER = Path(__file__).parents[1] / "assets" / "records-version-1"
HIGHLIGHTED = ("liveedit", "pinpoint")


@pytest.fixture(scope="module")
def lines():
    return (FOLDER / "records-0.jsonl").read_text(encoding="utf-8").splitlines()


def holds_in_order(file, earlier):
    """Whether a file has all lines of an earlier one, in their order; new scores add lines."""
    lines = iter(file.read_text(encoding="utf-8").splitlines())
    return all(line in lines for line in earlier.read_text(encoding="utf-8").splitlines())


@pytest.mark.one_in(2)
@pytest.mark.parametrize("name", ["table.md", "table.csv"])
def test_the_report_holds_the_one_that_was_made_then(tmp_path, name):
    write_report(FOLDER, tmp_path, highlighted=HIGHLIGHTED)
    assert holds_in_order(tmp_path / name, FOLDER / name)


def test_fields_become_scores_and_costs(lines):
    for line, record in zip(lines, read_records(FOLDER), strict=True):
        old = json.loads(line)
        kept = {"top1_kept": old.pop("top1_kept"), "top10_rank": old.pop("top10_kept")}
        names = ("edit_seconds", "edit_bytes", "query_seconds", "peak_bytes")
        costs = {name: old.pop(name) for name in names}
        assert record.scores == {name: value for name, value in kept.items() if value is not None}
        assert record.costs == costs
        assert old.pop("version") == 1
        new = json.loads(record.to_json())
        assert new["version"] == 2
        assert {name: new[name] for name in old} == old


def test_a_score_of_zero_is_a_score(lines):
    row = json.loads(lines[0]) | {"top1_kept": 0.0, "top10_kept": 0.0, "query_seconds": 0.0}
    record = Record.from_json(json.dumps(row))
    assert record.scores == {"top1_kept": 0.0, "top10_rank": 0.0}
    assert record.costs["query_seconds"] == 0.0


def test_the_same_report_is_made_of_the_records_in_the_new_form(tmp_path, lines):
    records = [Record.from_json(line) for line in lines]
    path = tmp_path / "records-0.jsonl"
    path.write_text("".join(f"{record.to_json()}\n" for record in records), encoding="utf-8")
    assert list(read_records(path)) == records
    write_report(path, tmp_path / "report", highlighted=HIGHLIGHTED)
    assert holds_in_order(tmp_path / "report" / "table.csv", FOLDER / "table.csv")


@pytest.mark.parametrize("name", ["top1_kept", "edit_seconds", "peak_bytes"])
def test_older_records_without_a_field_are_read(lines, name):
    row = json.loads(lines[0])
    del row[name]
    record = Record.from_json(json.dumps(row))
    assert name not in record.scores
    assert name not in record.costs


def test_the_one_hop_figure_and_table_are_there(tmp_path):
    page = write_report(FOLDER, tmp_path).read_text(encoding="utf-8")
    assert (tmp_path / "one-hop.svg").is_file()
    assert "Portability at one hop: Token accuracy" in page
    table = (tmp_path / "tables" / "vlkeb-table2-token-accuracy.csv").read_text(encoding="utf-8")
    assert "portability_1hop" in table.splitlines()[0]
