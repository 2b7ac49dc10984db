"""Numbers as they are printed."""

import pytest

from liveedit.measures.units import printed


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.9734, "percent", "97.3"),
        (1.255, "count", "1.25"),
        (0.0000021, "seconds", "2.1 µs"),
        (75.0, "seconds", "75 s"),
        (1.0, "seconds", "1 s"),
        (0.9997, "seconds", "1000 ms"),
        (114688, "bytes", "115 kB"),
        (3, "bytes", "3 B"),
        (12.345, "plain", "12.3"),
        (26624, "plain", "26,624"),
    ],
)
def test_printed_numbers(value, unit, text):
    assert printed(value, unit) == text
