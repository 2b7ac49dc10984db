"""Tables as Markdown, CSV and rows for a terminal."""

import csv
import io

import pytest

from liveedit.report.scores import summary
from liveedit.report.table import Cell, csv_text, label, markdown, tables, terminal_rows


def test_main_table_has_the_form_of_the_paper(run):
    main = tables(summary(run()))[0]
    assert [heading for _, heading in main.columns] == ["Rel", "T-Gen", "I-Gen", "T-Loc", "I-Loc", "Average"]
    assert [(line.edits, line.editor) for line in main.lines] == [
        (n, editor) for n in (1, 10, 100) for editor in ("ft", "liveedit")
    ]


def test_tables_of_a_benchmark(run):
    kinds = [(table.kind, table.score) for table in tables(summary(run()))]
    assert kinds == [
        ("main", "token_accuracy"),
        ("other", "token_accuracy"),
        ("main", "exact_match"),
        ("other", "exact_match"),
        ("main", "contains"),
        ("other", "contains"),
        ("main", "top10_rank"),
        ("firing", "fired"),
        ("firing", "own"),
        ("firing", "experts"),
        ("cost", "cost"),
    ]


def test_markdown_of_one_record(record):
    text = markdown(tables(summary([record(edit_seconds=0.0123, edit_bytes=163840, query_seconds=2.0)])))
    assert "| 10 | liveedit | 100.0 [100.0–100.0] |" in text
    assert "| 10 | liveedit | 12.3 ms | 164 kB | 2 s |" in text


def test_the_best_of_several_editors_is_bold(record):
    records = [record(editor="a"), record(editor="b", answer_after="Chile"), record(editor="c")]
    text = markdown(tables(summary(records))).split("### Exact match")[1]
    assert "| a | **100.0** " in text
    assert "| b | 0.0 " in text
    assert "| c | **100.0** " in text


def test_markdown_escapes_what_would_break_a_table(record):
    text = markdown(tables(summary([record(editor="a|b <i>\nc")])))
    assert "a\\|b &lt;i> c" in text


def test_an_editor_without_experts_has_no_firing_row(run):
    firing = [table for table in tables(summary(run())) if table.kind == "firing"]
    assert {line.editor for table in firing for line in table.lines} == {"liveedit"}


def test_a_missing_metric_is_a_dash(record):
    made = tables(summary([record(editor="a"), record(editor="b", metric="text_locality")]))[0]
    assert [[cell.text for cell in line.cells] for line in made.lines] == [["100.0", "–"], ["–", "100.0"]]


def test_csv_is_one_rectangle_in_percent(run):
    rows = list(csv.DictReader(io.StringIO(csv_text(tables(summary(run()))))))
    assert len({len(row) for row in rows}) == 1
    row = next(r for r in rows if (r["score"], r["edits"], r["editor"]) == ("exact_match", "10", "ft"))
    value = next(
        r["value"]
        for r in summary(run())["rows"]
        if (r["score"], r["edits"], r["editor"], r["metric"]) == ("exact_match", 10, "ft", "look_alike_image")
    )
    assert float(row["look_alike_image"]) == pytest.approx(100 * value, abs=0.01)
    assert float(row["look_alike_image_low"]) <= float(row["look_alike_image"])
    cost = next(r for r in rows if (r["score"], r["edits"], r["editor"]) == ("cost", "10", "ft"))
    assert (cost["edit_seconds"], cost["edit_bytes"], cost["reliability"]) == ("0.25", "2048", "")


def test_other_protocols_have_tables_of_their_own(record):
    records = [record(protocol=p, later=20, edits=50) for p in ("windows", "stream", "gap")]
    made = {(t.protocol, t.kind, t.score): t for t in tables(summary(records))}
    gap = made["gap", "main", "exact_match"]
    assert (gap.title, gap.size, gap.lines[0].edits) == ("Exact match (free generation), gap", "Gap", 20)
    assert made["windows", "main", "exact_match"].title == "Exact match (free generation)"
    forgetting = made["stream", "forgetting", "forgetting"]
    assert (forgetting.size, forgetting.lines[0].edits) == ("Later edits", 20)
    assert [heading for _, heading in forgetting.columns] == ["Rel, token accuracy", "Rel, exact match"]
    assert ("windows", "forgetting", "forgetting") not in made


def test_several_seeds_are_named(record):
    one, three = (tables(summary([record(seed=s) for s in range(n)]))[0] for n in (1, 3))
    assert "seed" not in one.note
    assert "3 seeds" in three.note


def test_peak_memory_is_shown_where_it_was_measured(record):
    for size in (0, 10**9):
        cost = next(table for table in tables(summary([record(peak_bytes=size)])) if table.kind == "cost")
        assert (("peak_bytes", "Peak memory") in cost.columns) == (size > 0)


def test_terminal_rows(record):
    head, rows = terminal_rows(tables(summary([record()]))[0])
    assert head == ["N", "Editor", "Rel"]
    assert rows == [["10", "liveedit", "100.0\n100–100"]]


def test_terminal_rows_of_other_probes_leave_out_the_interval(record):
    [accuracy, _] = tables(summary([record(metric="portability_1hop")]))[:2]
    assert terminal_rows(accuracy) == (["N", "Editor", "Portability 1-hop"], [["10", "liveedit", "100.0"]])


@pytest.mark.parametrize(
    ("metric", "heading"),
    [
        ("image_locality", "I-Loc"),
        ("portability_1hop", "Portability 1-hop"),
        ("look_alike_image", "Look-alike image"),
        ("my_own_probe", "My own probe"),
    ],
)
def test_label(metric, heading):
    assert label(metric) == heading


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.9734, "percent", "97.3"),
        (None, "percent", "–"),
        (1.255, "count", "1.25"),
        (0.0000021, "seconds", "2.1 µs"),
        (75.0, "seconds", "75 s"),
        (114688, "bytes", "115 kB"),
        (3, "bytes", "3 B"),
    ],
)
def test_printed_numbers(value, unit, text):
    assert Cell("x", value, unit=unit).text == text
