"""Odd inputs, `odd_inputs.toml`: none ends in a traceback, in silence or in a wrong answer."""

import re
import runpy
import shlex
import subprocess
import sys
import tomllib
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from transformers.utils.logging import disable_progress_bar

import liveedit
import liveedit.editable
from liveedit.cli import main
from liveedit.data import load_cases
from liveedit.editors import new_editor
from liveedit.store.store import Store
from liveedit.types import Query

ROOT = Path(__file__).parents[2]
GROUPS = tomllib.loads((Path(__file__).parent / "odd_inputs.toml").read_text(encoding="utf-8"))
ROWS = []
for name, group in GROUPS.items():
    ROWS += [pytest.param(group, *row, id=f"{name}: {row[0]}"[:70]) for row in group["rows"]]
QUESTION = "What is the country with this flag?"
SHELL = 'liveedit() { "$PYTHON" -m liveedit "$@"; }\n'
WRITERS = re.compile("edit |forget |train |report ")
"""The commands that change the folder that they are given where they end well."""
FRAME = re.compile(r"[│╭╮╰╯─\s]+")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The working folder, empty; the user's data is elsewhere."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("LIVEEDIT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "100")
    return folder


@pytest.fixture
def command(here, lay_out, embedded_vlm, monkeypatch, capfd):
    """Run a command in this process, on an embedded model that is loaded already."""
    load = liveedit.editable.load_vlm

    def load_vlm(model="emblem", **options):
        plain = model == "emblem" and not any(options.values())
        return embedded_vlm if plain else load(model, **options)

    monkeypatch.setattr(liveedit.editable, "load_vlm", load_vlm)
    disable_progress_bar()

    def command(text):
        words = lay_out(shlex.split(text), here)
        before = snapshot(here)
        if words[0] == "MOVE":
            Path(words[1]).rename(words[2])
            return SimpleNamespace(status=0, out="", err="", before=before)
        monkeypatch.setattr(sys, "argv", ["liveedit", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        shown = capfd.readouterr()
        return SimpleNamespace(
            status=ended.value.code or 0, out=shown.out, err=shown.err, before=before
        )

    return command


@pytest.fixture
def shell(here, lay_out, monkeypatch):
    """Run a line of bash, with the command in a process of its own."""
    monkeypatch.setenv("PYTHON", sys.executable)

    def shell(line):
        lay_out(re.split(r"[\s=]", line), here)
        before = snapshot(here)
        done = subprocess.run(
            ["bash", "-c", SHELL + line], stdin=subprocess.DEVNULL,
            capture_output=True, text=True, errors="backslashreplace", check=False, timeout=300,
        )  # fmt: skip
        return SimpleNamespace(
            status=done.returncode, out=done.stdout, err=done.stderr, before=before
        )

    return shell


@pytest.fixture
def python(here, lay_out, model):
    """Evaluate a call; the status is 0 or the class of the error."""

    def closed(path):
        with Image.open(path) as picture:
            return picture

    known = {
        "model": model,
        "vlm": model.vlm,
        "Q": QUESTION,
        "closed": closed,
        "liveedit": liveedit,
        "np": np,
    }
    known |= {
        "Query": Query,
        "Image": Image,
        "Path": Path,
        "torch": torch,
        "new_editor": new_editor,
    }
    known |= {"load_cases": load_cases, "BytesIO": BytesIO}

    def python(call):
        lay_out(re.findall(r"[\w.]+", call), here)
        before = snapshot(here)
        edits = model.edits
        try:
            answer = repr(eval(call, known))
        except liveedit.errors.LiveEditError as error:
            assert model.edits == edits
            return SimpleNamespace(
                status=type(error).__name__, out="", err=f"error: {error}", before=before
            )
        return SimpleNamespace(status=0, out=answer, err="", before=before)

    return python


def snapshot(folder):
    """The contents of a folder: files, links, folders, and the edits of stores, by their paths.

    A folder of a former version may be imported into a store beside its listing.
    """
    found = {}
    for path in sorted(folder.rglob("*")):
        imported = path.name == "edits.db" and (path.parent / "edits.json").exists()
        if path.name.endswith(("-wal", "-shm")) or imported:
            continue
        found[path.relative_to(folder)] = content(path)
    return found


def content(path):
    """The content of a path, for comparison."""
    if path.is_symlink():
        return path.readlink()
    if path.suffix == ".db":
        return [(row.edit, row.forgotten_in) for row in Store(path, create=False).kept(10**9)]
    return path.is_file() and path.read_bytes()


def says(text, wanted):
    """Whether a text holds ``wanted``, in which … means any text."""
    pieces = (re.escape(FRAME.sub(" ", piece)) for piece in wanted.split("…"))
    return re.search(".*".join(pieces), FRAME.sub(" ", text)) is not None


def perform(group, run, request):
    """Run the commands of a row; return the result of the last. The others must succeed."""
    do = request.getfixturevalue(group.get("kind", "command"))
    lines = [run] if isinstance(run, str) else run
    *before, last = [*filter(None, [group.get("first")]), *lines]
    for line in before:
        done = do(line)
        assert done.status == 0, done.err
    return do(last)


@pytest.mark.one_in(30)
@pytest.mark.parametrize(("group", "what", "run", "status", "answer"), ROWS)
def test_an_odd_input(group, what, run, status, answer, request, here):
    done = perform(group, run, request)
    output = f"{done.status}\n{done.out}\n{done.err}"
    assert done.status == status, output
    assert "Traceback" not in output
    if status not in (0, 2, 3):
        lines = done.err.strip().splitlines()
        told = [line for line in lines if not line.startswith("imported the edits of")]
        assert len(told) == 1, output
        assert re.match(r"error: .+[:,;] .+", told[0]), output
    assert answer, output
    assert says(done.out + done.err, answer), output
    if status not in (0, 3) or not WRITERS.match(run if isinstance(run, str) else run[-1]):
        assert snapshot(here) == done.before


def test_there_are_hundreds_of_odd_inputs():
    assert len(ROWS) >= 300


def test_the_page_shows_this_table():
    made = runpy.run_path(str(ROOT / "tools" / "odd_inputs.py"))["page"](GROUPS)
    page = (ROOT / "docs" / "reference" / "odd-inputs.md").read_text(encoding="utf-8")
    assert page == made, "make it anew: python tools/odd_inputs.py > docs/reference/odd-inputs.md"
