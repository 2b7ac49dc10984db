"""Protocols by name and in reports; tests/evaluate/test_plan.py has the rest."""

import pytest

from liveedit.errors import BadInput
from liveedit.measures.protocols import (
    PROTOCOLS,
    Gap,
    Stream,
    Windows,
    new_protocol,
    protocol_order,
    setting_label,
    size_of,
    titled,
)

OPTIONS = {"edits": (1, 10), "gaps": (3,), "max_cases": 7, "ask": 2}


@pytest.mark.parametrize(
    ("name", "protocol"),
    [
        ("windows", Windows((1, 10), 7, 2)),
        ("stream", Stream((1, 10), 2)),
        ("gap", Gap((3,), 7, 2)),
    ],
)
def test_a_protocol_takes_its_own_options(name, protocol):
    assert new_protocol(name, OPTIONS) == protocol


def test_an_unknown_protocol_is_refused_with_all_names():
    with pytest.raises(BadInput, match=r"no protocol 'gaps': choose windows, stream or gap$"):
        new_protocol("gaps", OPTIONS)


@pytest.mark.parametrize(
    ("name", "size", "label", "title"),
    [
        ("windows", 1000, "1,000", "Cost"),
        ("stream", 1000, "stream 1,000", "Cost, stream"),
        ("gap", 20, "gap 20", "Cost, gap"),
        ("later", 1000, "later 1,000", "Cost, later"),
    ],
)
def test_a_size_and_its_label(record, name, size, label, title):
    assert size_of(record(protocol=name, edits=1000, later=20)) == size
    assert setting_label(name, size) == label
    assert titled("Cost", name) == title


def test_protocols_are_in_the_order_of_their_declarations():
    assert sorted(["a", *reversed(PROTOCOLS)], key=protocol_order) == [*PROTOCOLS, "a"]
