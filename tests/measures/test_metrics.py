"""Names and order of metrics."""

import pytest

from liveedit.measures.metrics import AVERAGED, METRICS, hops, label, metric_order


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


def test_the_papers_metrics_come_first_and_unknown_ones_last():
    names = ["b_probe", "look_alike_image", *AVERAGED[::-1], "a_probe", "average"]
    ordered = [*AVERAGED, "average", "look_alike_image", "a_probe", "b_probe"]
    assert sorted(names, key=metric_order) == ordered
    assert len({metric.name for metric in METRICS}) == len(METRICS)


def test_hops_of_portability():
    assert [hops(name) for name in ("portability_1hop", "portability_4hop")] == [1, 4]
    assert [hops(name) for name in ("reliability", "portability", "no_portability_1hop")] == [0] * 3
