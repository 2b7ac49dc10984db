"""The notebooks run from top to bottom, and print what they show."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[1] / "examples").glob("*.ipynb"))
SMALL = 10_000
"""The largest size of a notebook, in bytes."""


def printed(notebook):
    """The standard output of each cell."""
    return [
        [output.text for output in cell.get("outputs", ()) if output.get("name") == "stdout"]
        for cell in notebook.cells
    ]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_small_and_shows_no_more_than_text(path):
    assert path.stat().st_size < SMALL
    for cell in nbformat.read(path, as_version=4).cells:
        assert {output.output_type for output in cell.get("outputs", ())} <= {"stream"}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning:zmq", "ignore::DeprecationWarning:jupyter")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_prints_what_it_shows(path, tmp_path):
    notebook = nbformat.read(path, as_version=4)
    shown = printed(notebook)
    resources = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=300, resources=resources).execute()
    assert printed(notebook) == shown
