"""Formulas of costs, and costs of other versions."""

from dataclasses import replace

import pytest

from liveedit.measures.costs import COSTS, Usage, cost_named, cost_names, costs_of

USED = Usage(
    edits=4,
    edit_seconds=2.0,
    patch_bytes=103,
    patch_edits=2,
    query_seconds=0.25,
    peak_bytes=1000,
)


def test_costs_of_some_edits():
    assert costs_of(USED) == {
        "edit_seconds": 0.5,
        "edit_bytes": 51,
        "query_seconds": 0.25,
        "peak_bytes": 1000,
    }


def test_an_empty_patch_has_no_size():
    assert costs_of(replace(USED, patch_bytes=0, patch_edits=0))["edit_bytes"] == 0


def test_a_cost_that_is_not_declared_comes_last_under_its_name():
    declared = [cost.name for cost in COSTS]
    assert cost_names(["joules", "edit_bytes", "amperes"]) == [*declared, "amperes", "joules"]
    assert cost_named("joules").heading == "joules"
    with pytest.raises(NotImplementedError):
        cost_named("joules").formula(USED)
