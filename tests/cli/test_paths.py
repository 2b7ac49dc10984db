"""Paths below ``~`` in options and in Python, where no shell expands it, and closed folders."""

import gc
import json
import os
import shutil
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages
from tempfile import TemporaryDirectory

import pytest

import liveedit
from liveedit.data.home import home as data_home
from liveedit.editors import new_editor
from liveedit.errors import BadInput
from liveedit.evaluate import Windows, evaluate
from liveedit.models.vlm import VLM
from liveedit.report import failures, read_records, terminal_tables, write_report
from liveedit.settings import read_json
from liveedit.store.store import Store
from liveedit.train import TrainConfig, train
from liveedit.types import Case, Probe, Query

QUESTION = "What is this?"


@pytest.fixture
def home(shelf, tmp_path, monkeypatch):
    """The home folder, with a tiny model, an editor of it and settings; the working folder, beside
    it, stays empty.
    """
    home, here = tmp_path / "home", tmp_path / "here"
    home.mkdir()
    here.mkdir()
    (home / "tiny").symlink_to(shelf / "tiny")
    (home / "editor").symlink_to(shelf / "editor")
    (home / "flag.png").symlink_to(shelf / "flag.png")
    (home / "trained").mkdir()
    (home / "trained" / "liveedit").symlink_to(shelf / "editor")
    settings = {
        "editor": {"layer": 1, "module_dim": 16, "heads": 2},
        "training": {"steps": 1, "batch_size": 2},
    }
    (home / "settings.json").write_text(json.dumps(settings | {"cases": 1}), encoding="utf-8")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(here)
    yield home
    assert [*here.iterdir()] == []


def test_edits_in_the_home_folder(home, run):
    made = ("--model=~/tiny", "--editor=~/editor")
    rc, _, err = run("edit", QUESTION, "Brazil", "--image=~/flag.png", "--store=~/edits.db", *made)
    assert rc in (0, 3), err
    [maker] = Store(home / "edits.db").makers()
    assert maker.opens_with["editor"] == str(home / "editor")
    assert run("edits", "--store=~/edits.db")[0] == 0
    assert run("ask", QUESTION, "--store=~/edits.db")[0] == 0


@pytest.mark.slow
def test_an_evaluation_in_the_home_folder(home, run):
    rc, _, err = run(
        "eval", "--out=~/out", "--editors=a=~/editor,liveedit", "--model=~/tiny",
        "--trained=~/trained", "--edits=1", "--max-cases=1",
    )  # fmt: skip
    assert rc == 0, err
    assert {path.name for path in (home / "out").iterdir()} >= {
        "a",
        "liveedit",
        "index.html",
        "tables",
    }
    (home / "out" / "index.html").unlink()
    assert run("report", "~/out")[0] == 0
    assert (home / "out" / "index.html").is_file()


@pytest.mark.slow
def test_a_training_in_the_home_folder(home, run):
    rc, _, err = run(
        "train",
        "~/new",
        "--model=~/tiny",
        "--editor=liveedit",
        "--config=~/settings.json",
        "--no-cache",
    )
    assert rc == 0, err
    assert (home / "new" / "editor.safetensors").is_file()


def test_benchmarks_in_the_home_folder(home, run, monkeypatch):
    monkeypatch.setenv("LIVEEDIT_HOME", "~/data")
    assert data_home() == home / "data"
    monkeypatch.delenv("LIVEEDIT_HOME")
    monkeypatch.setenv("XDG_DATA_HOME", "~/shared")
    assert data_home() == home / "shared" / "liveedit"
    rc, _, err = run("data", "add", "vlkeb", "--annotations=~/vlkeb", "--images=~/tiny")
    assert (rc, f"nothing at {home / 'vlkeb'}" in err) == (1, True)


def test_the_same_in_python(home):
    edited = liveedit.load("~/tiny", "~/editor")
    query = Query(QUESTION, "Brazil", "~/flag.png")
    edited.edit(query)
    edited.save("~/pool")
    liveedit.load("~/tiny", home / "editor").load("~/pool")
    edited.patch.save("~/patch")
    assert len(edited.editor.load_patch("~/patch")) == 1
    assert type(edited.editor).from_pretrained(VLM.load("~/tiny"), "~/editor").name == "liveedit"
    assert read_json("~/settings.json")["cases"] == 1
    cases = [Case(name, (query,), (Probe("reliability", query),)) for name in ("a", "b")]
    plan = {"data": "drawn", "seed": 0, "out": "~/run"}
    evaluate(edited.vlm, edited.editor, cases, Windows((1,), 1), **plan)
    write_report("~/run", "~/report")
    assert len(read_records("~/run").records) == 1
    assert (failures("~/run"), len(terminal_tables("~/report"))) == (
        [],
        len(terminal_tables(home / "report")),
    )
    train(edited.editor, cases, TrainConfig(steps=1, batch_size=2), "~/trained-here")
    assert {path.name for path in home.iterdir()} >= {
        "pool",
        "patch",
        "run",
        "report",
        "trained-here",
    }


def test_an_editor_that_was_replaced_or_is_gone_is_named(shelf, home, run):
    editor = home / "own"
    made = ("--store=~/pool", "--model=~/tiny")
    shutil.copytree(shelf / "editor", editor)
    assert run("edit", QUESTION, "Brazil", "--image=~/flag.png", "--editor=~/own", *made)[0] in (
        0,
        3,
    )
    other = new_editor(VLM.load("~/tiny"), "liveedit", {"layer": 1, "module_dim": 8, "heads": 2})
    other.save_pretrained(editor)
    rc, _, err = run("ask", QUESTION, *made)
    assert (rc, f"made by {editor} before it was trained further or replaced" in err) == (
        1,
        True,
    ), err
    shutil.rmtree(editor)
    rc, _, err = run("ask", QUESTION, *made)
    assert (rc, f"the editor in {editor}, which no longer exists: use --editor" in err) == (
        1,
        True,
    ), err
    assert len(err.splitlines()) == 1


@pytest.fixture
def closed(shelf, run):
    """A command as a user runs it who may not enter the folder ``closed``, of any kind, nor look
    into ``list``.
    """
    with TemporaryDirectory() as folder:
        here = Path(folder)
        here.chmod(0o755)
        for name, mode in (("closed", 0), ("list", 0o644)):
            shutil.copytree(shelf / "tiny", here / name)
            (here / name).chmod(mode)

        def closed(*words):
            with pytest.MonkeyPatch.context() as patch:
                patch.chdir(here)
                root = os.geteuid() == 0
                if root:
                    gc.collect()  # what earlier tests left is root's to close
                    for module in walk_packages(liveedit.__path__, "liveedit."):
                        with suppress(ModuleNotFoundError):  # of an extra
                            import_module(module.name)  # which may lie where only root may look
                    os.seteuid(65534)
                try:
                    return run(*words)
                finally:
                    if root:
                        os.seteuid(0)

        yield closed


@pytest.mark.one_in(4)
@pytest.mark.parametrize("name", ["closed", "list"])
@pytest.mark.parametrize(
    "words",
    [
        "ask Q --model ./NAME", "ask Q --model ./NAME/below", "models check ./NAME",
        "ask Q --editor ./NAME", "report NAME", "report NAME/below", "eval --out NAME/below",
        "train NAME", "train NAME/below", "edits --store NAME", "edit Q Brazil --store NAME",
        "data add vlkeb --annotations NAME --images .", "train new --config NAME/a.json",
    ],
)  # fmt: skip
def test_what_is_closed_is_said_to_be(closed, words, name):
    rc, out, err = closed(*words.replace("NAME", name).split())
    assert (rc, out, err.count("\n")) == (1, "", 1), err
    assert "Permission denied" in err
    assert "check its permissions" in err
    assert "free some space" not in err


@pytest.mark.parametrize("call", [liveedit.load, VLM.load, read_records, read_json])
def test_the_home_folder_of_nobody(home, call):
    with pytest.raises(BadInput, match="the path '~nobody-here/x' leads nowhere"):
        call("~nobody-here/x")


@pytest.mark.parametrize(
    "words",
    [("eval", "--out="), ("report", ""), ("train", ""), ("edits", "--store="), ("demo", "--out=")],
)
def test_an_empty_path_is_none(home, run, words):
    rc, out, err = run(*words)
    assert (rc, out) == (1, "")
    assert err == "error: a name or folder is empty: say which one is meant, or leave it out\n"
