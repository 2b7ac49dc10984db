"""Tables as Markdown, CSV and rows for a terminal."""

import csv
import io
from itertools import product

import pytest

from liveedit.measures.scores import SCORES
from liveedit.report.scores import summary
from liveedit.report.table import Cell, csv_text, markdown, tables, terminal_rows


def test_main_table_has_the_form_of_the_paper(run):
    main = tables(summary(run()))[0]
    assert [heading for _, heading in main.columns] == [
        "Rel",
        "T-Gen",
        "I-Gen",
        "T-Loc",
        "I-Loc",
        "Average",
    ]
    lines = [(line.edits, line.editor) for line in main.lines]
    assert lines == list(product((1, 10, 100), ("ft", "liveedit")))


def test_tables_of_a_benchmark(run):
    kinds = [(table.kind, table.score) for table in tables(summary(run()))]
    declared = {"token_accuracy", "exact_match", "contains", "top10_rank"}
    later = {score.name for score in SCORES} - declared
    assert [kind for kind in kinds if kind[1] not in later] == [
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
    costs = {"edit_seconds": 0.0123, "edit_bytes": 163840, "query_seconds": 2.0}
    text = markdown(tables(summary([record(costs=costs)])))
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
    assert [{line.editor for line in table.lines} for table in firing] == [{"liveedit"}] * 3


def test_a_missing_metric_is_a_dash(record):
    made = tables(summary([record(editor="a"), record(editor="b", metric="text_locality")]))[0]
    assert [[cell.text for cell in line.cells] for line in made.lines] == [
        ["100.0", "–"],
        ["–", "100.0"],
    ]


def test_csv_is_one_rectangle_in_percent(run):
    rows = list(csv.DictReader(io.StringIO(csv_text(tables(summary(run()))))))
    assert len({len(row) for row in rows}) == 1
    row = next(
        r for r in rows if (r["score"], r["edits"], r["editor"]) == ("exact_match", "10", "ft")
    )
    value = next(
        r["value"]
        for r in summary(run())["rows"]
        if (r["score"], r["edits"], r["editor"], r["metric"])
        == ("exact_match", 10, "ft", "look_alike_image")
    )
    assert float(row["look_alike_image"]) == pytest.approx(100 * value, abs=0.01)
    assert float(row["look_alike_image_low"]) <= float(row["look_alike_image"])
    cost = next(r for r in rows if (r["score"], r["edits"], r["editor"]) == ("cost", "10", "ft"))
    assert (cost["edit_seconds"], cost["edit_bytes"], cost["reliability"]) == ("0.25", "2048", "")


def test_other_protocols_have_tables_of_their_own(record):
    records = [record(protocol=p, later=20, edits=50) for p in ("windows", "stream", "gap")]
    made = {(t.protocol, t.kind, t.score): t for t in tables(summary(records))}
    gap = made["gap", "main", "exact_match"]
    assert (gap.title, gap.size, gap.lines[0].edits) == (
        "Exact match (free generation), gap",
        "Gap",
        20,
    )
    assert made["windows", "main", "exact_match"].title == "Exact match (free generation)"
    forgetting = made["stream", "forgetting", "forgetting"]
    assert (forgetting.size, forgetting.lines[0].edits) == ("Later edits", 20)
    assert [heading for _, heading in forgetting.columns] == [
        "Rel, token accuracy",
        "Rel, exact match",
    ]
    assert ("windows", "forgetting", "forgetting") not in made


def test_several_seeds_are_named(record):
    one, three = (tables(summary([record(seed=s) for s in range(n)]))[0] for n in (1, 3))
    assert "seed" not in one.note
    assert "3 seeds" in three.note


def test_peak_memory_is_shown_where_it_was_measured(record):
    for size in (0, 10**9):
        made = tables(summary([record(costs={"peak_bytes": size})]))
        cost = next(table for table in made if table.kind == "cost")
        assert (("peak_bytes", "Peak memory") in cost.columns) == (size > 0)


def test_terminal_rows(record):
    head, rows = terminal_rows(tables(summary([record()]))[0])
    assert head == ["N", "Editor", "Rel"]
    assert rows == [["10", "liveedit", "100.0\n100–100"]]


def test_terminal_rows_of_other_probes_leave_out_the_interval(record):
    [accuracy, _] = tables(summary([record(metric="portability_1hop")]))[:2]
    assert terminal_rows(accuracy) == (
        ["N", "Editor", "Portability 1-hop"],
        [["10", "liveedit", "100.0"]],
    )


def test_a_cell_without_a_value_is_a_dash():
    assert Cell("x", None, unit="percent").text == "–"
    assert Cell("x", 0.0, unit="seconds").text == "0 µs"


def test_an_interval_runs_from_low_to_high():
    cell = Cell("x", 0.5, 0.42, 0.6)
    assert (cell.interval, cell.spread) == ("42.0–60.0", pytest.approx(0.09))
    assert (Cell("x", 0.5).interval, Cell("x", 0.5).spread) == ("", None)


def test_the_terminal_shows_the_interval_in_whole_percent(answers):
    numbers = summary(answers([i % 4 > 0 for i in range(60)]))
    row = next(r for r in numbers["rows"] if r["score"] == "exact_match")
    table = next(table for table in tables(numbers) if table.score == "exact_match")
    low, high = (f"{100 * row[end]:.0f}" for end in ("low", "high"))
    assert terminal_rows(table)[1] == [["10", "liveedit", f"75.0\n{low}–{high}"]]


def test_a_cost_that_was_not_measured_is_a_dash(record):
    made = tables(summary([record(costs={"edit_seconds": 0.5})]))
    cost = next(table for table in made if table.kind == "cost")
    assert [cell.text for cell in cost.lines[0].cells] == ["500 ms", "–", "–"]


def test_the_best_is_found_at_each_n_and_among_what_was_measured(record):
    right = {("a", 1): True, ("b", 1): False, ("a", 10): False, ("b", 10): True}
    records = [
        record(editor=editor, edits=edits, answer_after="Japan" if took else "Chile")
        for (editor, edits), took in right.items()
    ]
    # a second case that "a" has wrong at 1 edit, so that the best there is below the best at 10
    records += [record(case="x", editor=editor, edits=1, answer_after="Chile") for editor in "ab"]
    records += [record(editor=editor, edits=10, metric="text_locality", probe=1) for editor in "ab"]
    table = next(
        table
        for table in tables(summary(records))
        if (table.kind, table.score) == ("main", "exact_match")
    )
    best = {(line.edits, line.editor): [cell.best for cell in line.cells] for line in table.lines}
    assert best == {
        (1, "a"): [True, False],
        (1, "b"): [False, False],
        (10, "a"): [False, True],
        (10, "b"): [True, True],
    }


def test_forgetting_has_a_line_for_each_number_of_later_edits_and_editor(record):
    records = [
        record(editor=editor, case=f"{later}", protocol="stream", edits=later + 1, later=later)
        for editor, later in product(("wise", "ft"), (0, 12, 13, 13.5, 100))
    ]
    table = next(table for table in tables(summary(records)) if table.kind == "forgetting")
    lines = [(line.edits, line.editor) for line in table.lines]
    assert lines == list(product((0, 13, 100), ("ft", "wise")))


def test_the_largest_number_of_seeds_of_any_editor_is_named(record):
    records = [record(editor="a", seed=seed) for seed in range(3)] + [record(editor="b")]
    assert "of up to 3 seeds" in tables(summary(records))[0].note


def test_main_tables_hold_the_papers_metrics_alone(record):
    made = tables(summary([record(), record(metric="look_alike_image", wanted="before", probe=1)]))
    assert [[name for name, _ in table.columns] for table in made[:2]] == [
        ["reliability"],
        ["look_alike_image"],
    ]


def test_a_score_of_another_version_has_a_table_under_its_name(record):
    made = tables(summary([record(scores={"semantic_match": 0.75})]))
    table = next(table for table in made if table.score == "semantic_match")
    assert (table.kind, table.title) == ("main", "semantic_match")
    assert table.lines[0].cells[0].text == "75.0"


def test_a_cost_of_another_version_has_a_column_under_its_name(record):
    made = tables(summary([record(case=c, costs={"joules": j}) for c, j in (("a", 1), ("b", 4))]))
    cost = next(table for table in made if table.kind == "cost")
    assert cost.columns[-1] == ("joules", "joules")
    assert cost.lines[0].cells[-1].text == "2.5"


def test_the_match_of_the_unedited_model_has_no_table(record):
    assert "unedited_match" not in {table.score for table in tables(summary([record()]))}
