"""VLKEB's portability: one hop with and without the fact edited too, and several hops."""

import json

import pytest

from liveedit.data import load_cases
from liveedit.data.published.locations import add_location, locate
from liveedit.data.published.sources import source

FACT = ("What timezone does Fort Smith, Arkansas follow?", "Central Time Zone")


def test_one_hop_is_asked_about_the_edited_image(added):
    case = load_cases("vlkeb-onehop", "test")[0]
    [probe] = [probe for probe in case.probes if probe.metric == "portability_1hop"]
    assert probe.query.prompt == "What is the time zone of the location shown in the picture?"
    assert (probe.query.target, probe.query.image) == ("Central Time Zone", case.edits[0].image)
    assert probe.wanted == "target"


def test_the_two_one_hop_protocols_differ_in_the_edited_fact_only(added):
    alone, edited = load_cases("vlkeb-onehop", "test"), load_cases("vlkeb-onehop-edited", "test")
    for one, two in zip(alone, edited, strict=True):
        assert len(one.edits) == 1
        visual, fact = two.edits
        assert (visual.prompt, visual.target, visual.image) == (
            one.edits[0].prompt,
            one.edits[0].target,
            one.edits[0].image,
        )
        assert fact.image is None
        assert [(p.metric, p.query.prompt) for p in one.probes] == [
            (p.metric, p.query.prompt) for p in two.probes
        ]
    assert (edited[0].edits[1].prompt, edited[0].edits[1].target) == FACT


@pytest.fixture
def multihop(published):
    """A file in the form of eval_multihop.json: 1 and 3 hops, 4 hops, nothing."""
    rows = json.loads((published / "vlkeb" / "eval.json").read_text(encoding="utf-8"))
    for row, hops in zip(rows, ((1, 3), (4,)), strict=False):
        row["port_new"] = [
            {
                "port_type": f"{hop}-hop",
                "Q&A": {"Question": f"What is {hop} on?", "Answer": str(hop)},
            }
            for hop in hops
        ]
    (published / "vlkeb" / "eval_multihop.json").write_text(json.dumps(rows), encoding="utf-8")
    add_location(
        "vlkeb", locate(source("vlkeb"), [published / "vlkeb"], published / "vlkeb" / "images")
    )


@pytest.mark.usefixtures("multihop")
def test_every_hop_is_a_metric_of_its_own_and_records_without_are_passed_over():
    cases = load_cases("vlkeb-multihop", "test")
    ported = [
        {
            probe.metric: probe.query
            for probe in case.probes
            if probe.metric.startswith("portability")
        }
        for case in cases
    ]
    assert [list(found) for found in ported] == [
        ["portability_1hop", "portability_3hop"],
        ["portability_4hop"],
    ]
    assert ported[0]["portability_3hop"].prompt == "What is 3 on?"
    assert ported[0]["portability_3hop"].image == cases[0].edits[0].image
    assert [case.id for case in cases] == ["eval_multihop:0", "eval_multihop:1"]
