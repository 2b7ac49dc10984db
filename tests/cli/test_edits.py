"""The commands on a folder of edits, in this process where that makes no difference."""

import codecs
import json
import re
import shlex
import signal
import subprocess
import sys

import pytest
from rich.cells import cell_len

from liveedit.artifacts import locked
from liveedit.store.edit import Edit
from liveedit.store.listing import Listing

QUESTION = "What is the country with this flag?"
COMMAND = [sys.executable, "-c", "from liveedit.cli import main; main()"]
HOSTILE = "[/red] [bold]x[/] :smile: \x1b[31m a\nb \u202e \\"


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """Run every test in ``tmp_path``."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def flag(emblem, tmp_path):
    emblem.drawing("twemoji", "flag-jp").save(tmp_path / "a flag.png")
    return tmp_path / "a flag.png"


@pytest.fixture
def asked(flag):
    return QUESTION, "--image", flag


def listing(*edits, tensors="tensors-00000000"):
    return Listing("liveedit", "e", "m", edits, tensors)


def test_edit_ask_and_forget_with_what_the_pool_remembers(run, asked, emblem, tmp_path):
    emblem.drawing("twemoji", "flag-fr").save(tmp_path / "other.png")
    rc, out, _ = run("edit", *asked, "Brazil", "--editor", "lemoe", "--max-new-tokens", "3")
    assert rc == 0
    assert "Brazil" in out
    assert Listing.read(tmp_path / "edits").opens_with == {
        "model": "emblem", "editor": "lemoe", "prompt_format": "raw",
    }  # fmt: skip
    rc, out, err = run("ask", *asked)
    assert (rc, out.splitlines()[0], err) == (0, "Brazil", "")
    assert run("edit", QUESTION, "Norway", "--image", "other.png")[0] == 0
    rc, _, err = run("ask", *asked, "--editor", "pinpoint")
    assert rc == 1
    assert "made by another editor (lemoe)" in err
    first, second = (edit.id for edit in Listing.read(tmp_path / "edits").edits)
    assert run("forget", first[:7], first)[:2] == (0, "forgot 1, 1 left\n")
    assert [edit.id for edit in Listing.read(tmp_path / "edits").edits] == [second]


def test_odd_names_of_folders_and_pictures(run, asked, tmp_path):
    (tmp_path / "liveedit").mkdir()  # as the editor is called
    odd = tmp_path / "fl\udce4g \x1b.png"  # as Latin-1 has it
    asked[2].rename(odd)
    assert run("edit", QUESTION, "Brazil", "--image", odd)[0] == 0
    rc, out, err = run("ask", QUESTION, "--image", odd)
    assert (rc, err, out[:7]) == (0, "", "Brazil\n")
    assert Listing.read(tmp_path / "edits").edits[0].names == (str(odd),)
    assert "fl\\udce4g" in run("edits")[1]
    for pool in ("x" * 300, "p\udce4", "/dev/null", "/proc/none", ""):
        rc, out, err = run("edit", QUESTION, "Brazil", "--image", odd, "--pool", pool)
        assert (rc, out, err.count("\n")) == (1, "", 1)


def test_a_model_in_a_folder_is_found_from_anywhere(run, asked, tmp_path, monkeypatch):
    from liveedit.editable import embedded

    (tmp_path / "mine").symlink_to(embedded("vlm"))
    made = ("--model", "mine", "--editor", "ft-l", "--dtype", "float32", "--prompt-format", "raw")
    assert run("edit", *asked, "Brazil", *made)[0] == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    rc, out, err = run("ask", *asked, "--pool", tmp_path / "edits")
    assert (rc, out.splitlines()[0]) == (0, "Brazil"), err


def test_an_answer_is_as_long_as_requested(run, asked):
    long = "a b c d e f g h i j k l m n o p q r s t u v"
    assert long in " ".join(run("edit", *asked, long, "--editor", "ft-l")[1].split())
    assert run("ask", *asked)[1].startswith(f"{long}\n")
    assert len(run("ask", *asked, "--max-new-tokens", "1")[1].splitlines()[0]) < 10
    assert run("ask", *asked, "--max-new-tokens", "0")[0] == 2


def test_without_edits_the_answer_says_that_it_is_unedited(run, asked):
    rc, out, err = run("ask", *asked)
    assert (rc, out) == (0, "Japan\n")
    assert err == "no edits in ./edits: this is the unedited answer\n"


@pytest.mark.parametrize("words", [("ask", QUESTION), ("edits",), ("forget", "abc")])
def test_a_pool_that_is_not_there_is_one_line(run, tmp_path, words):
    (tmp_path / "empty").mkdir()
    for pool in ("TYPO", "empty"):
        rc, out, err = run(*words, "--pool", pool)
        assert (rc, out) == (1, "")
        assert err.startswith(f"error: no edits in {pool}: check")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty"]


@pytest.mark.parametrize("pool", ["project", "notes.txt", ".", "list"])
def test_unrelated_files_are_refused_before_the_model_is_loaded(run, tmp_path, monkeypatch, pool):
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "thesis.txt").touch()
    (tmp_path / "notes.txt").touch()
    (tmp_path / "list").mkdir()
    (tmp_path / "list" / "edits.json").write_text("[]")
    monkeypatch.setattr("liveedit.editable.load", None)
    rc, out, err = run("edit", QUESTION, "Peru", "--pool", pool)
    assert (rc, out, err.count("\n")) == (1, "", 1)
    assert [path.name for path in (tmp_path / "list").iterdir()] == ["edits.json"]


def test_an_edit_that_fails_leaves_no_folder(run, tmp_path):
    rc, _, err = run("edit", QUESTION, "Peru", "--image", "nowhere.png", "--pool", "new/pool")
    assert (rc, err) == (1, "error: no image at nowhere.png: check the path\n")
    assert not (tmp_path / "new" / "pool").exists()


@pytest.mark.parametrize("width", [40, 80])
def test_foreign_texts_are_shown_as_they_are(run, tmp_path, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    row = Edit(
        "0123abcd",
        HOSTILE,
        "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
        "",
        "2026",
        ("x/[i].png",),
    )
    (tmp_path / "edits").mkdir()
    listing(row).write(tmp_path / "edits")
    rc, out, err = run("edits")
    assert (rc, err) == (0, "")
    assert re.search(r"^ ?0123abcd ", out, re.MULTILINE)
    assert not set(out) & {"\x1b", "\u202e"}
    if width == 80:
        assert all(
            piece in out
            for piece in ("[/red]", "[bold]x[/]", ":smile:", "\\x1b[31m", "\\u202e", "[i].png")
        )
    assert max(map(cell_len, out.splitlines())) <= width


def test_brackets_in_an_edit_crash_nothing(run, asked, tmp_path):
    rc, out, _ = run("edit", *asked, "[/red]", "--editor", "ft-l", "--pool", "[a]")
    assert rc == 0
    assert "[/red]" in out
    assert "[/red]" in run("ask", *asked, "--pool", "[a]")[1]
    rc, _, err = run("ask", QUESTION, "--pool", "[/a]")
    assert (rc, err.startswith("error: no edits in [/a]")) == (1, True)


def test_a_listing_with_a_byte_order_mark(run, tmp_path):
    listing(Edit("0123abcd", QUESTION, "Peru", "", "2026-01-01")).write(tmp_path)
    (tmp_path / "edits.json").write_bytes(codecs.BOM_UTF8 + (tmp_path / "edits.json").read_bytes())
    rc, out, err = run("edits", "--pool", tmp_path)
    assert (rc, "Peru" in out, err) == (0, True, "")


@pytest.mark.parametrize("content", [b"[]", b"null", b'{"version": 2}', b"\xff", b""])
def test_a_damaged_listing_is_one_line(run, tmp_path, content):
    (tmp_path / "edits").mkdir()
    (tmp_path / "edits" / "edits.json").write_bytes(content)
    for words in (("edits",), ("ask", QUESTION), ("forget", "a"), ("edit", QUESTION, "Peru")):
        rc, out, err = run(*words)
        assert (rc, out, err.count("\n")) == (1, "", 1)
        assert "is damaged: restore it" in err


@pytest.fixture
def start(flag, tmp_path):
    """Start an edit in another process, and come back when it waits for its turn."""
    started = []

    def start(target):
        command = [*COMMAND, "edit", QUESTION, target, "--image", str(flag), "--editor", "ft-l"]
        shell = subprocess.Popen(
            command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        started.append(shell)
        assert "waiting for it" in shell.stderr.readline()
        return shell

    yield start
    for shell in started:
        shell.kill()
        shell.communicate()


@pytest.mark.slow
def test_edits_from_several_shells_at_once_are_all_kept(start, tmp_path):
    with locked(tmp_path / "edits"):
        shells = [start(target) for target in ("Brazil", "Peru")]
    for shell in shells:
        _, said = shell.communicate()
        assert shell.returncode == 0, said
    assert {edit.target for edit in Listing.read(tmp_path / "edits").edits} == {"Brazil", "Peru"}


# Standard output


@pytest.mark.parametrize("words", [("edit", QUESTION, "Peru"), ("forget", "ID")])
@pytest.mark.parametrize("output", ["> /dev/full", "| true"])
@pytest.mark.slow
def test_a_change_that_cannot_be_shown_is_made(run, asked, tmp_path, words, output):
    assert run("edit", *asked, "Brazil", "--editor", "ft-l")[0] == 0
    made = Listing.read(tmp_path / "edits").edits
    words = [made[0].id if word == "ID" else word for word in words]
    line = shlex.join(
        [*COMMAND, *words, *(["--image", str(asked[2])] if words[0] == "edit" else [])]
    )
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {line} {output}"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert (done.returncode, done.stdout) == (1, "")
    full = (
        "error: the change is saved in edits; cannot write to standard output "
        "(No space left on device): redirect it"
    )
    assert done.stderr.startswith(full) if "full" in output else done.stderr == ""
    assert done.stderr.count("\n") == ("full" in output)
    assert [edit.target for edit in Listing.read(tmp_path / "edits").edits] == ["Brazil", "Peru"][
        : 2 * (words[0] == "edit")
    ]


# Ctrl-C


@pytest.mark.slow
def test_ctrl_c_while_another_process_writes(start, tmp_path):
    with locked(tmp_path / "edits"):
        shell = start("Peru")
        shell.send_signal(signal.SIGINT)
        assert shell.communicate() == ("", "stopped; nothing was changed in edits\n")
        assert shell.returncode == 130
    assert not (tmp_path / "edits").exists()


@pytest.mark.parametrize(
    ("where", "says", "left"),
    [
        ("liveedit.models.vlm.VLM.generate", "nothing was changed in edits", ["Brazil"]),
        ("liveedit.editable.tidy", "the change is saved in edits", ["Brazil", "Peru"]),
    ],
)
def test_ctrl_c_says_where_an_edit_stands(run, asked, tmp_path, monkeypatch, where, says, left):
    assert run("edit", *asked, "Brazil", "--editor", "ft-l")[0] == 0

    def stop(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(where, stop)
        rc, out, err = run("edit", *asked, "Peru")
    assert (rc, out, err) == (130, "", f"stopped; {says}\n")
    assert [edit.target for edit in Listing.read(tmp_path / "edits").edits] == left
    assert run("ask", *asked)[1].startswith(left[-1])


def test_ctrl_c_in_any_other_command(run, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("liveedit.editable.load", stop)
    rc, out, err = run("ask", QUESTION)
    assert (rc, out, err) == (130, "", "stopped; nothing was changed\n")
    monkeypatch.setattr("liveedit.data.published.locations.locations", stop)
    rc, _, err = run("data")
    assert (rc, err) == (130, "stopped; run the same command to continue\n")


def test_the_listing_is_plain_json(run, asked, tmp_path):
    assert run("edit", *asked, "Brazil", "--editor", "ft-l")[0] == 0
    [row] = json.loads((tmp_path / "edits" / "edits.json").read_text())["edits"]
    assert (row["prompt"], row["target"], row["names"]) == (QUESTION, "Brazil", [str(asked[2])])
    assert "a flag.png" in run("edits")[1]
