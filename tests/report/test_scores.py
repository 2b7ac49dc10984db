"""Scores computed by hand, and what intervals must satisfy."""

import json
import random
from dataclasses import replace
from itertools import chain, product

import pytest

from liveedit.errors import BadInput, StorageError
from liveedit.measures.metrics import AVERAGED
from liveedit.report.scores import LATER, RESAMPLES, summary, write_summary
from liveedit.types import Firing


def rows_of(records):
    return {(row["metric"], row["score"]): row for row in summary(records)["rows"]}


def test_scores_are_means_over_probes_not_over_cases(record):
    right, wrong = {"tokens_after": (1, 2)}, {"tokens_after": (7, 2), "answer_after": "Chile"}
    rows = rows_of(
        [record(case="a", probe=i, **right) for i in range(3)]
        + [record(case="b", probe=0, **wrong)],
    )
    assert rows["reliability", "token_accuracy"]["value"] == 0.875
    assert rows["reliability", "exact_match"]["value"] == 0.75
    assert rows["reliability", "exact_match"]["n"] == 4


def test_average_is_the_mean_of_the_five_and_needs_them_all(record):
    shares = dict(zip(AVERAGED, (1, 2, 3, 4, 4), strict=True))  # probes of four that are right
    records = []
    for number, (metric, share) in enumerate(shares.items()):
        for i in range(4):
            answer = "Japan" if i < share else "Chile"
            records.append(record(case=f"c{i}", metric=metric, probe=number, answer_after=answer))
    average = rows_of(records)["average", "exact_match"]
    assert average["value"] == pytest.approx((0.25 + 0.5 + 0.75 + 1 + 1) / 5)
    assert average["n"] == 20
    assert ("average", "exact_match") not in rows_of(
        [r for r in records if r.metric != "image_locality"]
    )


def test_top10_is_over_the_probes_that_have_it(record):
    scores = ({"top10_rank": 0.5}, {}, {"top10_rank": 1.0})
    records = [
        record(case=str(i), metric="image_locality", scores=kept) for i, kept in enumerate(scores)
    ]
    rows = rows_of(records)
    assert rows["image_locality", "top10_rank"]["value"] == 0.75
    assert rows["image_locality", "top10_rank"]["n"] == 2
    assert ("average", "top10_rank") not in rows


def test_intervals_contain_the_value(run):
    for row in summary(run())["rows"]:
        assert 0 <= row["low"] <= row["value"] <= row["high"] <= 1


def test_interval_is_that_of_a_binomial(record):
    records = [record(case=str(i), answer_after="Japan" if i % 2 else "Chile") for i in range(400)]
    row = rows_of(records)["reliability", "exact_match"]
    assert row["low"] == pytest.approx(0.5 - 1.96 * 0.025, abs=0.006)
    assert row["high"] == pytest.approx(0.5 + 1.96 * 0.025, abs=0.006)


def test_cases_are_resampled_not_probes(record):
    """Ten probes that agree within each case are worth no more than one."""
    one = [record(case=str(i), answer_after="Japan" if i % 2 else "Chile") for i in range(40)]
    ten = [replace(r, probe=probe) for r, probe in product(one, range(10))]
    narrow, wide = (rows_of(records)["reliability", "exact_match"] for records in (one, ten))
    assert (narrow["low"], narrow["high"]) == (wide["low"], wide["high"])


def test_a_metric_of_one_case_among_many_has_an_interval(record):
    records = [record(case=str(i)) for i in range(30)] + [
        record(case="0", probe=1, metric="portability_4hop")
    ]
    assert rows_of(records)["portability_4hop", "exact_match"]["low"] == 1.0


def test_same_records_in_any_order_give_the_same_summary(run):
    records = run()
    assert summary(records) == summary(records[::-1])


def test_rows_are_ordered_by_data_edits_editor_and_metric(run):
    rows = summary(run(sizes=(100, 1, 10), editors=("liveedit", "ft"), data=("vlkeb", "emblem")))[
        "rows"
    ]
    keys = list(dict.fromkeys((row["data"], row["edits"], row["editor"]) for row in rows))
    assert {row["protocol"] for row in rows} == {"windows"}
    assert keys == list(product(("emblem", "vlkeb"), (1, 10, 100), ("ft", "liveedit")))
    metrics = list(dict.fromkeys(row["metric"] for row in rows))
    assert metrics == [*AVERAGED, "average", "portability_1hop", "look_alike_image"]


def test_firing(record):
    own, other = Firing(3, 0.5, own=True), Firing(4, 0.25, own=False)
    records = [
        record(case="a", fired=(own, other), experts_fired=2),
        record(case="b", fired=(other,), experts_fired=1),
        record(case="c"),
        record(case="d"),
    ]
    [row] = summary(records)["firing"]
    assert (row["fired"], row["own"], row["experts"], row["n"]) == (0.5, 0.25, 0.75, 4)


def test_cost_counts_an_edit_once(record):
    records = [
        record(
            case="a",
            probe=i,
            costs={"edit_seconds": 1.0, "edit_bytes": 100, "query_seconds": 0.1},
        )
        for i in range(9)
    ]
    costs = {"edit_seconds": 3.0, "edit_bytes": 300, "query_seconds": 1.1}
    records.append(record(case="b", costs=costs))
    [row] = summary(records)["cost"]
    assert (row["edit_seconds"], row["edit_bytes"], row["query_seconds"]) == (2.0, 200.0, 0.2)


def test_a_cost_is_the_mean_of_where_it_was_measured(record):
    times = (0.1, None, 0.3)
    records = [
        record(case=str(i), costs={} if time is None else {"query_seconds": time})
        for i, time in enumerate(times)
    ]
    [row] = summary(records)["cost"]
    assert (row["query_seconds"], row["edit_seconds"]) == (0.2, 0.0)


def test_peak_memory_is_the_largest(record):
    records = [
        record(case=str(i), costs={"peak_bytes": size}) for i, size in enumerate((100, 300, 200))
    ]
    assert summary(records)["cost"][0]["peak_bytes"] == 300


def test_values_of_several_seeds_are_means_over_all_probes(answers):
    records = []
    for seed, right in enumerate(("1110", "1000", "1111")):
        records += answers(map(int, right), seed=seed)
    row = rows_of(records)["reliability", "exact_match"]
    assert row["value"] == pytest.approx(8 / 12, abs=1e-6)
    assert (row["n"], row["seeds"]) == (12, 3)


def test_interval_over_seeds_is_that_of_two_stages_of_resampling(answers):
    """A slow loop: draw seeds with replacement, of each drawn seed as many cases as it has."""
    rights = [[int(i % 10 < share) for i in range(30)] for share in (9, 7, 4)]
    records = []
    for seed, right in enumerate(rights):
        records += answers(right, seed=seed)
    row = rows_of(records)["reliability", "exact_match"]
    chance = random.Random(1)
    means = []
    for _ in range(4 * RESAMPLES):
        drawn = []
        for seed in chance.choices(rights, k=3):
            drawn += chance.choices(seed, k=len(seed))
        means.append(sum(drawn) / len(drawn))
    means.sort()
    assert row["low"] == pytest.approx(means[len(means) * 25 // 1000], abs=0.025)
    assert row["high"] == pytest.approx(means[len(means) * 975 // 1000], abs=0.025)
    one = rows_of(answers(chain(*rights)))["reliability", "exact_match"]
    # seeds that differ widen the interval
    assert row["high"] - row["low"] > 1.5 * (one["high"] - one["low"])


def test_protocols_do_not_mix(record):
    records = [
        record(protocol=p, answer_after=a) for p, a in (("windows", "Japan"), ("stream", "Chile"))
    ]
    values = {(row["protocol"], row["score"]): row["value"] for row in summary(records)["rows"]}
    assert values["windows", "exact_match"] == 1.0
    assert values["stream", "exact_match"] == 0.0


def test_gaps_are_distinguished_by_the_edits_made_later(record):
    records = [
        record(case=str(i), protocol="gap", edits=i + gap + 1, later=gap)
        for gap, i in product((10, 20), range(5))
    ]
    rows = [row for row in summary(records)["rows"] if row["score"] == "exact_match"]
    assert [(row["edits"], row["n"]) for row in rows] == [(10, 5), (20, 5)]


def test_forgetting_is_reliability_by_later_edits(record):
    chance = random.Random(0)
    metrics = ("reliability", "text_generality")
    asked = [*product([10], range(10), range(2)), *product([100], range(40), range(2))]
    records = [
        record(
            case=str(case),
            protocol="stream",
            edits=n,
            later=n - 1 - case,
            metric=metrics[probe],
            probe=probe,
            answer_after=chance.choice(("Japan", "Chile")),
        )
        for n, case, probe in asked
    ]
    expected = {}
    for low, high in zip(LATER, (*LATER[1:], 10**9), strict=True):
        asked = [r for r in records if low <= r.later < high and r.metric == "reliability"]
        if asked:
            later = sum(r.later for r in asked) / len(asked)
            expected[round(later, 6)] = (
                sum(r.answer_after == "Japan" for r in asked) / len(asked),
                len(asked),
            )
    found = {
        round(r["later"], 6): r
        for r in summary(records)["forgetting"]
        if r["score"] == "exact_match"
    }
    assert list(found) == list(expected)
    for later, (value, n) in expected.items():
        assert found[later]["value"] == pytest.approx(value, abs=1e-6)
        assert found[later]["n"] == n
        assert found[later]["low"] <= found[later]["value"] <= found[later]["high"]


def test_windows_do_not_measure_forgetting(run):
    assert summary(run())["forgetting"] == []


def test_no_records_is_bad_input(tmp_path):
    with pytest.raises(BadInput, match="no record"):
        write_summary([], tmp_path)
    assert not list(tmp_path.iterdir())


def test_summary_is_written_as_json(tmp_path, run):
    records = run()
    path = write_summary(records, tmp_path / "report")
    assert json.loads(path.read_text()) == summary(records)
    assert sorted(found.name for found in path.parent.iterdir()) == [
        ".liveedit.json",
        "summary.json",
    ]


def test_an_unrelated_summary_stays(tmp_path, record):
    (tmp_path / "summary.json").write_text('{"mine": 1}')
    with pytest.raises(BadInput, match=r"summary\.json was not written by LiveEdit"):
        write_summary([record()], tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["summary.json"]


def test_a_summary_that_cannot_be_written_is_one_line(tmp_path, record):
    (tmp_path / "taken").touch()
    with pytest.raises(BadInput, match="is a file: give a folder"):
        write_summary([record()], tmp_path / "taken")
    with pytest.raises(StorageError, match="cannot write"):
        write_summary([record()], tmp_path / "taken" / "below")


def test_intervals_are_the_same_on_any_machine(record):
    """Published figures stand on these very resamples."""
    records = [
        record(case=f"c{i}", tokens_wanted=(1,) * 256, tokens_after=(1,) * (1 << i))
        for i in range(9)
    ]
    row = rows_of(records)["reliability", "token_accuracy"]
    found = [row["value"], row["low"], row["high"]]
    assert found == pytest.approx([0.221788, 0.044271, 0.442795], abs=2e-6)


def test_an_edit_of_two_seeds_costs_twice(record):
    records = [record(seed=seed, costs={"edit_seconds": s}) for seed, s in ((0, 1.0), (1, 3.0))]
    records.append(record(seed=1, window=1, costs={"edit_seconds": 8.0}))
    assert summary(records)["cost"][0]["edit_seconds"] == 4.0


def test_seeds_are_counted_not_named(record):
    assert rows_of([record(seed=3), record(seed=5)])["reliability", "exact_match"]["seeds"] == 2


def test_metrics_that_are_not_known_come_last_by_name(record):
    names = ["image_alone", "b_probe", "reliability", "a_probe", "portability_2hop"]
    rows = summary([record(metric=metric, probe=i) for i, metric in enumerate(names)])["rows"]
    found = list(dict.fromkeys(row["metric"] for row in rows))
    assert found == ["reliability", "portability_2hop", "image_alone", "a_probe", "b_probe"]
