"""Names to classes: what is said about a name that is not there."""

import pytest

from liveedit.errors import UnknownName
from liveedit.registry import resolve

TABLE = {
    "windows": "liveedit.measures.protocols:Windows",
    "window": "liveedit.measures.protocols:Windows",
    "gap": "liveedit.measures.protocols:Gap",
}


def test_a_name_gives_what_it_stands_for():
    from liveedit.measures.protocols import Gap

    assert resolve("protocol", "gap", TABLE) is Gap


def test_a_name_that_is_not_there_is_answered_with_all_that_are_near():
    with pytest.raises(
        UnknownName, match=r"^unknown protocol 'windws': did you mean windows or window\?$"
    ):
        resolve("protocol", "windws", TABLE)


def test_where_none_is_near_all_are_told_in_order():
    with pytest.raises(UnknownName, match=r"^unknown protocol 'xyz': known: gap, window, windows$"):
        resolve("protocol", "xyz", TABLE)
