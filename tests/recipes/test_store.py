"""The recipes that measure stores, on few edits."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

RECIPES = Path(__file__).parents[2] / "recipes" / "store"


def output(*command):
    """Standard output of a recipe."""
    run = subprocess.run(
        [sys.executable, *map(str, command)], capture_output=True, check=True, text=True
    )
    return run.stdout


@pytest.mark.slow
def test_edits_and_requests_at_once_lose_nothing(tmp_path):
    found = output(RECIPES / "together.py", 64, "--store", tmp_path / "edits.db")
    assert "48 edits in the store: nothing is lost" in found
    assert re.search(r" 64 answers +64 edits made", found)


@pytest.mark.slow
def test_a_store_of_wide_experts_is_written_and_used(tmp_path):
    found = output(RECIPES / "size.py", 40, "--store", tmp_path / "edits.db")
    assert len(re.findall(r" ms$", found, re.MULTILINE)) == 17
    assert len(re.findall(r" GB$", found, re.MULTILINE)) == 4
