"""The table of all records."""

import random
from itertools import product

import numpy as np

from liveedit.measures.scores import SCORES, scores_of
from liveedit.report.columns import columns, distinct
from liveedit.types import Firing


def test_the_table_holds_what_the_records_say(run):
    records = run(cases=3)
    table = columns(records)
    names = [score.name for score in SCORES]
    assert len(table.rows) == len(records)
    for row in table.rows:
        record = records[row["number"]]
        assert [table.named(n, row[n]) for n in ("editor", "metric", "case")] == [
            record.editor, record.metric, record.case,
        ]  # fmt: skip
        scores = scores_of(record)
        np.testing.assert_allclose(
            [row[name] for name in names], [scores.get(name, np.nan) for name in names], rtol=1e-6
        )
        assert row["experts"] == record.experts_fired
        assert bool(row["own"]) == any(f.own for f in record.fired)


def test_rows_do_not_depend_on_the_order_of_records(run):
    records = run(cases=3)
    mixed = random.Random(1).sample(records, len(records))
    names = [name for name in columns(records).rows.dtype.names if name != "number"]
    for name in names:
        np.testing.assert_array_equal(columns(records).rows[name], columns(mixed).rows[name])


def test_of_repeated_records_the_last_counts(record):
    table = columns(
        [record(answer_after="Chile"), record(case="other"), record(answer_after="Japan")]
    )
    assert table.repeated == 1
    assert sorted(table.rows["number"]) == [1, 2]


def test_records_of_other_places_are_no_repetition(record):
    others = [
        {"seed": 1},
        {"protocol": "stream"},
        {"editor": "ft"},
        {"window": 1},
        {"edits": 1},
        {"data": "vlkeb"},
    ]
    table = columns([record(), *(record(**other) for other in others)])
    assert (len(table.rows), table.repeated) == (7, 0)


def test_highlighted_editors_stand_behind_all_others_in_their_order(record):
    records = [record(editor=editor) for editor in ("wise", "a", "liveedit", "ft")]
    assert columns(records).texts["editor"] == ["a", "ft", "liveedit", "wise"]
    highlighted = ("liveedit", "a", "nobody")
    assert columns(records, highlighted).texts["editor"] == ["ft", "wise", "liveedit", "a"]


def test_protocols_stand_in_the_order_of_their_declarations(record):
    records = [record(protocol=name) for name in ("later", "gap", "stream", "windows")]
    assert columns(records).texts["protocol"] == ["windows", "stream", "gap", "later"]


def test_scores_and_costs_of_another_version_have_columns(record):
    records = [
        record(case="a"),
        record(case="b", scores={"bleu": 0.5}, costs={"joules": 7.0}),
        record(case="c", scores={"bleu": 0.25, "awe": 1.0}),
        record(case="d"),
    ]
    table = columns(records)
    assert list(table.scores)[-2:] == ["awe", "bleu"]
    assert list(table.costs)[-1] == "joules"
    np.testing.assert_array_equal(table.rows["bleu"], [np.nan, 0.5, 0.25, np.nan])
    np.testing.assert_array_equal(table.rows["awe"], [np.nan, np.nan, 1.0, np.nan])
    np.testing.assert_array_equal(table.rows["joules"], [np.nan, 7, np.nan, np.nan])


def test_a_score_called_like_a_column_leaves_that_column_alone(record):
    table = columns([record(seed=3, scores={"seed": 0.5, "edits": 0.5}, costs={"editor": 1.0})])
    assert table.rows["seed"].tolist() == [3]
    assert table.rows["size"].tolist() == [10]


def test_sizes_are_gaps_where_the_protocol_is_gap(record):
    table = columns(
        [record(edits=31, later=20, protocol="gap"), record(edits=100), record(edits=10)]
    )
    assert table.sizes() == [("windows", 10), ("windows", 100), ("gap", 20)]


def test_distinct(record):
    own = (Firing(0, 1.0, own=True),)
    records = [record(case=c, probe=p, fired=own) for p, c in product(range(3), "ba")]
    rows = columns(records).rows
    assert len(distinct(rows, "case")) == 2
    assert len(distinct(rows, "case", "probe")) == 6
    assert len(distinct(rows[:0], "case")) == 0


def test_no_records_at_all():
    assert len(columns([]).rows) == 0
