"""Published benchmarks: the few records of the tests, and the real files where they are given."""

import os
from pathlib import Path

import pytest

from liveedit.data.published.locations import locate
from liveedit.data.published.sources import source


@pytest.fixture
def located(published):
    """The location of VLKEB's few records."""
    return locate(source("vlkeb"), [published / "vlkeb"], published / "vlkeb" / "images")


@pytest.fixture
def published_files():
    """The folder of the real files, ``$LIVEEDIT_PUBLISHED``; a test is skipped without it."""
    if "LIVEEDIT_PUBLISHED" not in os.environ:
        pytest.skip("needs the published files")
    return Path(os.environ["LIVEEDIT_PUBLISHED"])
