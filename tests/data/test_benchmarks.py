"""The registry of benchmarks: each entry leads to a function, a title and known files."""

import pytest

from liveedit.data import BENCHMARKS, load_cases
from liveedit.data.published.sources import SOURCES
from liveedit.errors import UnknownName
from liveedit.registry import resolve


@pytest.mark.parametrize("name", BENCHMARKS)
def test_an_entry_has_a_function_a_title_and_files_that_can_be_added(name):
    benchmark = BENCHMARKS[name]
    assert callable(resolve("benchmark", name, BENCHMARKS))
    assert benchmark.title
    assert benchmark.files is None or benchmark.files in SOURCES


def test_only_emblem_ships_with_the_package():
    shipped = [name for name, benchmark in BENCHMARKS.items() if benchmark.files is None]
    assert shipped == ["emblem", "emblem-corrections"]
    assert {benchmark.files for benchmark in BENCHMARKS.values()} == {None, *SOURCES}


def test_an_unknown_benchmark_is_named_with_the_nearest():
    with pytest.raises(UnknownName, match="did you mean emblem"):
        load_cases("emblen", "test")
