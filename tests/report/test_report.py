"""The whole report, written from records."""

import json
import subprocess
import sys
from itertools import product

import pytest
from PIL import Image

from liveedit.errors import BadInput, StorageError
from liveedit.report import check_report, terminal_tables, write_report

FILES = [
    ".liveedit.json",
    "curves.png",
    "curves.svg",
    "index.html",
    "one-hop.png",
    "one-hop.svg",
    "summary.json",
    "table.csv",
    "table.md",
    "tables",
]


def test_report_writes_its_files(tmp_path, run, save):
    save(tmp_path / "liveedit" / "records-0.jsonl", run(cases=3))
    page = write_report(tmp_path, tmp_path / "out")
    assert page == tmp_path / "out" / "index.html"
    assert sorted(p.name for p in page.parent.iterdir()) == FILES
    assert json.loads((page.parent / "summary.json").read_text())["rows"]


@pytest.mark.slow
def test_report_is_the_same_each_time(tmp_path, run, save):
    records = save(tmp_path / "records-0.jsonl", run(cases=3))
    reports = [write_report(records, tmp_path / name).parent for name in "ab"]
    contents = [
        {p.name: p.read_bytes() for p in report.rglob("*") if p.is_file()} for report in reports
    ]
    assert len(contents[0]) == len(FILES) - 1 + 12
    assert contents[0] == contents[1]


@pytest.mark.slow
def test_a_report_again_in_its_own_folder_reads_records_alone(tmp_path, run, save):
    save(tmp_path / "seed-0" / "records-0.jsonl", run(cases=2))
    first = write_report(tmp_path, tmp_path).read_bytes()
    assert write_report(tmp_path, tmp_path).read_bytes() == first


def test_a_damaged_record_is_one_line_and_leaves_no_report(tmp_path, record, save):
    path = save(tmp_path / "records-0.jsonl", [record()])
    path.write_text(f"nonsense\n{path.read_text()}")
    with pytest.raises(BadInput, match="line 1 is not a record") as caught:
        write_report(tmp_path, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_methods_seeds_and_protocols_in_one_report(tmp_path, record, save):
    for editor in ("ft", "liveedit"):
        for seed in (0, 1):
            save(
                tmp_path / f"seed-{seed}" / editor / f"records-{editor}.jsonl",
                [record(editor=editor, seed=seed)],
            )
        save(
            tmp_path / "gap" / editor / "records-0.jsonl",
            [record(editor=editor, protocol="gap", later=20)],
        )
    folder = write_report(tmp_path, tmp_path / "out").parent
    rows = json.loads((folder / "summary.json").read_text())["rows"]
    assert {(r["editor"], r["protocol"], r["edits"], r["seeds"]) for r in rows} == {
        ("ft", "windows", 10, 2),
        ("ft", "gap", 20, 1),
        ("liveedit", "windows", 10, 2),
        ("liveedit", "gap", 20, 1),
    }
    assert (folder / "forgetting.svg").exists()


def test_without_a_resolver_names_are_paths(tmp_path, record, save):
    Image.new("RGB", (8, 8)).save(tmp_path / "flag.png")
    found = save(tmp_path / "records-0.jsonl", [record(image=str(tmp_path / "flag.png"))])
    assert "data:image/webp" in write_report(found, tmp_path).read_text()


@pytest.mark.parametrize("content", ["", '{"editor": "li'])
def test_empty_records_are_bad_input(tmp_path, content):
    (tmp_path / "records-0.jsonl").write_text(content)
    with pytest.raises(BadInput, match="no record to report"):
        write_report(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path, record, save):
    records = save(tmp_path / "records-0.jsonl", [record()])
    with pytest.raises(BadInput, match="is a file: give a folder"):
        write_report(records, records)
    with pytest.raises(StorageError, match="cannot write"):
        write_report(records, records / "below")


def test_a_report_replaces_reports_alone(tmp_path, record, save):
    records = save(tmp_path / "records-0.jsonl", [record()])
    write_report(records, tmp_path / "again")
    (tmp_path / "again" / ".liveedit.json").unlink()  # as reports were before they had one
    check_report(tmp_path / "again")
    write_report(records, tmp_path / "again")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "index.html").write_text("my page")
    with pytest.raises(BadInput, match=r"index\.html"):
        check_report(tmp_path / "mine")
    with pytest.raises(BadInput, match=r"index\.html was not written by LiveEdit"):
        write_report(records, tmp_path / "mine")
    assert [(path.name, path.read_text()) for path in (tmp_path / "mine").iterdir()] == [
        ("index.html", "my page")
    ]


def test_terminal_tables_are_those_of_the_report(tmp_path, record, save):
    write_report(save(tmp_path / "records-0.jsonl", [record()]), tmp_path)
    accuracy, exact, *_, cost = terminal_tables(tmp_path)
    assert accuracy[0] == "emblem: Token accuracy (teacher-forced)"
    assert exact[1:] == (["N", "Editor", "Rel"], [["10", "liveedit", "100.0\n100–100"]])
    assert cost[0] == "emblem: Time and memory"


def test_of_many_editors_the_terminal_shows_the_papers_metrics_alone(tmp_path, record, save):
    metrics = ("reliability", "look_alike_image")
    records = [
        record(editor=f"e{i}", metric=metrics[probe], probe=probe)
        for i, probe in product(range(5), range(2))
    ]
    write_report(save(tmp_path / "records-0.jsonl", records), tmp_path)
    assert [(title.split(" (")[0], head) for title, head, _ in terminal_tables(tmp_path)] == [
        ("emblem: Token accuracy", ["N", "Editor", "Rel"]),
        ("emblem: Exact match", ["N", "Editor", "Rel"]),
    ]


def test_terminal_tables_without_a_report(tmp_path):
    with pytest.raises(BadInput, match="make the report"):
        terminal_tables(tmp_path)


def test_importing_the_report_leaves_torch_alone():
    code = (
        "import sys, liveedit.report; sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
