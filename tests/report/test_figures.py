"""What the figures show."""

from liveedit.data import BENCHMARKS
from liveedit.report.figures import curves, figure_files, forgetting, hops, one_hop
from liveedit.report.scores import summary


def test_a_panel_for_each_score_of_each_metric(run):
    numbers = summary(run(cases=3))
    drawn = [(block.score, panel.name) for block in curves(numbers) for panel in block.panels]
    shown = {
        (r["score"], r["metric"])
        for r in numbers["rows"]
        if r["score"] in ("token_accuracy", "exact_match")
    }
    assert len(drawn) == len(shown)
    assert set(drawn) == shown
    assert [name for _, name in drawn][:6] == [
        "reliability", "text_generality", "image_generality", "text_locality", "image_locality", "average",
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
    records = [
        record(metric=f"portability_{hop}hop", probe=hop, edits=n, answer_after="Japan" if hop == 1 else "Chile")
        for n in (1, 100) for hop in (1, 2, 4)
    ]  # fmt: skip
    exact = next(block for block in hops(summary(records)) if block.score == "exact_match")
    assert [panel.title for panel in exact.panels] == ["Portability, N = 1", "Portability, N = 100"]
    assert [(p.x, p.value) for p in exact.panels[0].points] == [(1, 1.0), (2, 0.0), (4, 0.0)]


def test_one_distance_is_no_figure(record):
    assert hops(summary([record(metric="portability_1hop")])) == []


def test_one_hop_with_and_without_its_fact(record):
    names = [name for name in BENCHMARKS if name.startswith("vlkeb-onehop")]
    records = [record(metric="portability_1hop", data=name) for name in (*names, "vlkeb")]
    assert [panel.title for panel in one_hop(summary(records))[0].panels] == names
    assert len(names) == 2
    assert one_hop(summary(records[:1])) == []


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
    assert set(figure_files(summary([record()]))) == {"curves.svg", "curves.png"}
    later = summary([record(protocol="gap", later=10)])
    assert set(figure_files(later)) == {
        "curves.svg",
        "curves.png",
        "forgetting.svg",
        "forgetting.png",
    }
