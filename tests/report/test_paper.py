"""Tables in the papers' forms: columns, definitions, and LaTeX that would compile."""

import csv
import io
import re
from itertools import product

import pytest

from liveedit.measures.scores import EXACT_MATCH, TOKEN_ACCURACY
from liveedit.report.paper import latex, liveedit_tables, paper_files, vlkeb_tables
from liveedit.report.scores import summary


def test_liveedits_table_1(run):
    [table] = liveedit_tables(summary(run()), TOKEN_ACCURACY)
    assert [heading for _, heading in table.columns] == [
        "Rel",
        "T-Gen",
        "I-Gen",
        "T-Loc",
        "I-Loc",
        "Average",
    ]
    lines = [(line.edits, line.editor) for line in table.lines]
    assert lines == list(product((1, 10, 100), ("ft", "liveedit")))


def test_vlkebs_table_2_has_a_part_for_each_n(run):
    made = vlkeb_tables(summary(run()), EXACT_MATCH)
    assert [[heading for _, heading in table.columns] for table in made] == [
        ["Rel", "T-Gen", "I-Gen", "T-Loc", "I-Loc", "Port"]
    ] * 3
    assert [[line.editor for line in table.lines] for table in made] == [["ft", "liveedit"]] * 3
    assert [table.title.rpartition(", ")[2] for table in made] == ["N = 1", "N = 10", "N = 100"]


def test_no_column_holds_two_definitions(record):
    scores = {"top10_rank": 0.25}
    numbers = summary(
        [record(metric="image_locality", wanted="before", tokens_after=(1, 3), scores=scores)]
    )
    [liveedit] = liveedit_tables(numbers, TOKEN_ACCURACY)
    [vlkeb] = vlkeb_tables(numbers, TOKEN_ACCURACY)
    assert [(c.column, c.text) for c in liveedit.lines[0].cells if c.value is not None] == [
        ("image_locality", "50.0")
    ]
    assert [(c.column, c.text) for c in vlkeb.lines[0].cells if c.value is not None] == [
        ("image_locality_top10_rank", "25.0")
    ]


def test_spread_is_half_the_interval(answers):
    numbers = summary(answers([i % 4 > 0 for i in range(200)]))
    row = next(r for r in numbers["rows"] if r["score"] == "exact_match")
    files = paper_files(numbers)
    assert (
        f"75.0 ± {50 * (row['high'] - row['low']):.1f}"
        in files["liveedit-table1-exact-match.md"].decode()
    )
    sheet = list(csv.DictReader(io.StringIO(files["liveedit-table1-exact-match.csv"].decode())))
    assert float(sheet[0]["reliability_low"]) == pytest.approx(100 * row["low"], abs=0.01)


def test_a_file_a_paper_a_score_and_a_format(run):
    papers = ("liveedit-table1", "vlkeb-table2")
    scores = ("token-accuracy", "exact-match")
    names = {
        f"{paper}-{score}.{format}"
        for paper, score, format in product(papers, scores, ("md", "csv", "tex"))
    }
    assert set(paper_files(summary(run()))) == names


def check_latex(text):
    """Braces balance, environments nest, every row has as many cells as columns, no sign stands
    unescaped.
    """
    plain = re.sub(r"\\.", "", text)
    assert plain.count("{") == plain.count("}")
    opened = []
    for kind, name in re.findall(r"\\(begin|end)\{(\w+)\}", text):
        assert kind == "begin" or opened.pop() == name
        if kind == "begin":
            opened.append(name)
    assert opened == []
    columns = len(re.search(r"\\begin\{tabular\}\{(\w+)\}", text)[1])
    rows = [line for line in text.splitlines() if line.endswith("\\\\")]
    assert {len(re.split(r"(?<!\\)&", row)) for row in rows} == {columns}
    assert not re.search(r"(?<!\\)[%#_]", text)
    assert len(re.findall(r"(?<!\\)\$", text)) % 2 == 0
    return rows


def test_latex(run):
    for table in [
        *liveedit_tables(summary(run()), EXACT_MATCH),
        *vlkeb_tables(summary(run()), TOKEN_ACCURACY),
    ]:
        rows = check_latex(latex(table))
        assert len(rows) == 1 + len(table.lines)
        assert "\\toprule" in latex(table)


def test_latex_escapes_names_and_marks_the_best(record):
    names = [r"a_b & 100% #1 ${x}^~\\", "<i>"]
    numbers = summary([record(editor=names[0]), record(editor=names[1], answer_after="Chile")])
    [table] = liveedit_tables(numbers, EXACT_MATCH)
    text = latex(table)
    check_latex(text)
    assert r"a\_b \& 100\% \#1 \$\{x\}\textasciicircum{}\textasciitilde{}" in text
    assert "\\textbf{100.0}" in text
    assert "\\textbf{0.0}" not in text


def test_a_missing_metric_is_a_dash_and_a_missing_n_has_no_row(record):
    records = [
        record(editor="a", edits=1),
        record(editor="a", edits=10),
        record(editor="b", edits=1, metric="text_locality"),
    ]
    [table] = liveedit_tables(summary(records), EXACT_MATCH)
    assert [(line.edits, line.editor) for line in table.lines] == [(1, "a"), (1, "b"), (10, "a")]
    assert " & -- & " in latex(table)


def test_gaps_and_streams_are_tables_of_their_own(record):
    numbers = summary([record(protocol=p, later=20) for p in ("windows", "gap")])
    assert [(t.protocol, t.size) for t in liveedit_tables(numbers, EXACT_MATCH)] == [
        ("windows", "N"),
        ("gap", "Gap"),
    ]
    assert vlkeb_tables(numbers, EXACT_MATCH)[1].title.endswith("gap, Gap = 20")


def test_exact_match_has_one_definition_of_locality_in_both_papers(record):
    kept = {"wanted": "before", "scores": {"top1_kept": 0.25, "top10_rank": 0.5}}
    metrics = ("text_locality", "image_locality")
    records = [
        record(metric=metric, probe=i, answer_after="France", **kept)
        for i, metric in enumerate(metrics)
    ]
    [table] = vlkeb_tables(summary(records), EXACT_MATCH)
    assert [cell.text for cell in table.lines[0].cells if cell.value is not None] == [
        "100.0",
        "100.0",
    ]
    [table] = vlkeb_tables(summary(records), TOKEN_ACCURACY)
    assert [cell.text for cell in table.lines[0].cells if cell.value is not None] == [
        "25.0",
        "50.0",
    ]


def test_port_is_portability_over_one_hop(record):
    records = [
        record(
            metric=f"portability_{hop}hop", probe=hop, answer_after="Japan" if hop == 1 else "Chile"
        )
        for hop in (1, 2)
    ]
    [table] = vlkeb_tables(summary(records), EXACT_MATCH)
    assert [heading for _, heading in table.columns][-1] == "Port"
    assert table.lines[0].cells[-1].text == "100.0"


def test_n_stands_in_the_first_line_of_its_group(record):
    records = [record(editor=editor, edits=edits) for edits, editor in product((1, 1000), "ab")]
    [table] = liveedit_tables(summary(records), EXACT_MATCH)
    rows = [line.partition(" &")[0] for line in latex(table).splitlines() if line.endswith("\\\\")]
    assert rows == ["N", "1", "", "1,000", ""]
