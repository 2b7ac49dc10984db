"""The contents of the figures."""

from itertools import product

import pytest

from liveedit.data import BENCHMARKS
from liveedit.report.chart import styles
from liveedit.report.figures import (
    curves,
    figure_files,
    figures,
    forgetting,
    one_hop,
    over_hops,
)
from liveedit.report.scores import summary


def test_a_panel_for_each_score_of_each_metric(run):
    numbers = summary(run(cases=3))
    drawn = []
    for block in curves(numbers):
        drawn += [(block.score, panel.name) for panel in block.panels]
    shown = {
        (r["score"], r["metric"])
        for r in numbers["rows"]
        if r["score"] in ("token_accuracy", "exact_match")
    }
    assert len(drawn) == len(shown)
    assert set(drawn) == shown
    assert [name for _, name in drawn][:6] == [
        "reliability", "text_generality", "image_generality",
        "text_locality", "image_locality", "average",
    ]  # fmt: skip


def test_points_are_the_numbers_of_the_summary(run):
    numbers = summary(run(cases=3))
    block = curves(numbers)[0]
    row = next(
        r for r in numbers["rows"] if (r["metric"], r["score"]) == ("reliability", "token_accuracy")
    )
    assert (row["editor"], row["edits"], row["value"], row["low"], row["high"]) in block.panels[
        0
    ].points


def test_no_edits_at_all_have_no_curve(record):
    assert curves(summary([record(edits=0)])) == []


def test_hops_run_along_the_axis_a_panel_each_n(record):
    answers = {1: "Japan", 2: "Chile", 4: "Chile"}
    records = [
        record(metric=f"portability_{hop}hop", probe=hop, edits=n, answer_after=answers[hop])
        for n, hop in product((1, 100), answers)
    ]
    exact = next(block for block in over_hops(summary(records)) if block.score == "exact_match")
    assert [panel.title for panel in exact.panels] == ["Portability, N = 1", "Portability, N = 100"]
    assert [(p.x, p.value) for p in exact.panels[0].points] == [(1, 1.0), (2, 0.0), (4, 0.0)]


def test_one_distance_is_no_figure(record):
    assert over_hops(summary([record(metric="portability_1hop")])) == []


def test_one_hop_with_and_without_its_fact(record):
    names = [name for name in BENCHMARKS if name.startswith("vlkeb-onehop")]
    records = [record(metric="portability_1hop", data=name) for name in names]
    records.append(record(data="mmedit"))
    for block in one_hop(summary(records)):
        assert [panel.title for panel in block.panels] == names
    assert len(names) == 2


@pytest.mark.parametrize("data", BENCHMARKS)
def test_one_hop_is_shown_of_any_benchmark_that_asks_it(record, data):
    records = [record(data=data, metric="portability_1hop", edits=n) for n in (0, 1, 100)]
    blocks = one_hop(summary(records))
    assert [(block.data, block.score) for block in blocks] == [
        (data, "token_accuracy"),
        (data, "exact_match"),
    ]
    assert [point.x for point in blocks[0].panels[0].points] == [1, 100]
    assert one_hop(summary([record(data=data, metric="portability_2hop")])) == []


def test_one_hop_of_several_protocols_does_not_mix(record):
    records = [
        record(metric="portability_1hop", protocol=name, later=5) for name in ("windows", "gap")
    ]
    exact = [block for block in one_hop(summary(records)) if block.score == "exact_match"]
    assert [(block.protocol, block.panels[0].points[0].x) for block in exact] == [
        ("windows", 10),
        ("gap", 5),
    ]
    assert exact[1].heading.endswith("(free generation), gap, % over N edits")


def test_forgetting_runs_over_later_edits(record):
    records = [record(case=str(n), protocol="stream", later=n) for n in (0, 1, 100)]
    [block] = forgetting(summary(records))
    assert [panel.title.split(" (")[0] for panel in block.panels] == [
        "Token accuracy",
        "Exact match",
    ]
    assert [p.x for p in block.panels[0].points] == [0, 1, 100]
    assert forgetting(summary([record()])) == []


def test_files_are_only_of_what_there_is(record):
    def files(numbers):
        return set(figure_files(figures(numbers), styles(["liveedit"])))

    assert files(summary([record()])) == {"curves.svg", "curves.png"}
    later = summary([record(protocol="gap", later=10)])
    assert files(later) == {
        "curves.svg",
        "curves.png",
        "forgetting.svg",
        "forgetting.png",
    }
