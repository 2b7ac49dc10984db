"""Emblem's cases, made once for all tests in this folder."""

import pytest

from liveedit.data import load_cases
from liveedit.data.emblem.drawings import PARTS


@pytest.fixture(scope="session")
def cases():
    """The cases of "emblem" by split."""
    return {part: load_cases("emblem", part) for part in PARTS}


@pytest.fixture(scope="session", params=PARTS)
def part(request):
    """Each of the splits."""
    return request.param


@pytest.fixture(scope="session")
def made(cases, part):
    """The cases of "emblem" in one split."""
    return cases[part]
