"""The commands on a store of edits, in this process where that makes no difference."""

import io
import json
import re
import shlex
import signal
import sqlite3
import subprocess
import sys
from contextlib import contextmanager, suppress
from datetime import UTC, datetime

import pytest
from rich.cells import cell_len

from liveedit.editable import EditableVLM, embedded
from liveedit.editors import load_editor
from liveedit.models.vlm import VLM
from liveedit.store.edit import Edit
from liveedit.store.store import Maker, Store
from liveedit.types import Query

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


def kept(store="edits.db"):
    """The edits of a store that are not taken back."""
    return Store(store, create=False).edits()


def keep(*edits, store="edits.db"):
    """Keep edits in a store without a model."""
    made = Store(store)
    with made.change("edit") as change:
        maker = change.maker(Maker("liveedit", "e", "m"))
        for edit in edits:
            change.add(edit, maker.number)
    made.close()


def test_edit_ask_and_forget_with_what_the_store_remembers(run, asked, emblem, tmp_path):
    emblem.drawing("twemoji", "flag-fr").save(tmp_path / "other.png")
    rc, out, _ = run("edit", *asked, "Brazil", "--editor", "lemoe", "--max-new-tokens", "3")
    assert rc == 0
    assert "Brazil" in out
    [maker] = Store("edits.db").makers()
    assert maker.opens_with == {"model": "emblem", "editor": "lemoe", "prompt_format": "raw"}
    rc, out, err = run("ask", *asked)
    assert (rc, out.splitlines()[0], err) == (0, "Brazil", "")
    assert run("edit", QUESTION, "Norway", "--image", "other.png")[0] == 0
    rc, _, err = run("ask", *asked, "--editor", "pinpoint")
    assert rc == 1
    assert "made by another editor (lemoe)" in err
    first, second = (edit.id for edit in kept())
    assert run("forget", first[:7], first)[:2] == (0, "forgot 1, 1 left\n")
    rc, _, err = run("forget", second, first)
    assert (rc, f"edit {first} is taken back already" in err) == (1, True)
    assert [edit.id for edit in kept()] == [second]


@pytest.mark.slow
def test_another_editor_goes_on_in_the_same_store(run, asked, emblem):
    emblem.drawing("twemoji", "flag-fr").save("other.png")
    other = (QUESTION, "--image", "other.png")
    assert run("edit", *asked, "Brazil", "--editor", "serac")[0] == 0
    said = json.loads(run("edit", *other, "Norway", "--editor", "pinpoint", "--json")[1])
    assert (said["editor"], said["took"]) == ("pinpoint", True)
    assert [row["editor"] for row in edits(run)] == ["serac", "pinpoint"]
    assert "with serac" in run("edits")[1]
    said = json.loads(run("edit", *asked, "Kenya", "--json")[1])
    assert (said["editor"], said["answer"], said["after"]) == ("pinpoint", "Kenya", "Kenya")
    assert said["supersedes"] == [edits(run)[0]["id"]]
    assert run("forget", said["id"])[:2] == (0, "forgot 1, 2 left\n")
    assert run("ask", *asked)[1].splitlines()[0] == "Brazil"


@pytest.mark.slow
def test_odd_names_of_folders_and_pictures(run, asked, tmp_path):
    (tmp_path / "liveedit").mkdir()  # as the editor is called
    odd = tmp_path / "fl\udce4g \x1b.png"  # as Latin-1 has it
    asked[2].rename(odd)
    assert run("edit", QUESTION, "Brazil", "--image", odd)[0] == 0
    rc, out, err = run("ask", QUESTION, "--image", odd)
    assert (rc, err, out[:7]) == (0, "", "Brazil\n")
    assert kept()[0].names == (str(odd),)
    assert "fl\\udce4g" in run("edits")[1]
    for store in ("x" * 300, "p\udce4", "/dev/null", "/proc/none", ""):
        rc, out, err = run("edit", QUESTION, "Brazil", "--image", odd, "--store", store)
        assert (rc, out, err.count("\n")) == (1, "", 1)


@pytest.mark.slow
def test_a_model_in_a_folder_is_found_from_anywhere(run, asked, tmp_path, monkeypatch):
    from liveedit.editable import embedded

    (tmp_path / "mine").symlink_to(embedded("vlm"))
    made = ("--model", "mine", "--editor", "ft-l", "--dtype", "float32", "--prompt-format", "raw")
    assert run("edit", *asked, "Brazil", *made)[0] == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    rc, out, err = run("ask", *asked, "--store", tmp_path / "edits.db")
    assert (rc, out.splitlines()[0]) == (0, "Brazil"), err


@pytest.mark.slow
def test_an_answer_is_as_long_as_requested(run, asked):
    long = "a b c d e f g h i j k l m n o p q r s t u v"
    made = run("edit", *asked, long, "--editor", "ft-l", "--json")[1]
    assert json.loads(made)["after"] == long
    assert run("ask", *asked)[1].startswith(f"{long}\n")
    assert len(run("ask", *asked, "--max-new-tokens", "1")[1].splitlines()[0]) < 10
    assert run("ask", *asked, "--max-new-tokens", "0")[0] == 2


def test_without_edits_the_answer_says_that_it_is_unedited(run, asked):
    rc, out, err = run("ask", *asked)
    assert (rc, out) == (0, "Japan\n")
    assert err == "no edits in edits.db: this is the unedited answer\n"


@pytest.mark.parametrize("words", [("ask", QUESTION), ("edits",), ("forget", "abc")])
def test_a_store_that_is_not_there_is_one_line(run, tmp_path, words):
    rc, out, err = run(*words, "--store", "TYPO")
    assert (rc, out) == (1, "")
    assert err.startswith("error: no edits in TYPO: check")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("store", ["project", "notes.txt", ".", "list", "other.db"])
def test_unrelated_files_are_refused_before_the_model_is_loaded(run, tmp_path, monkeypatch, store):
    (tmp_path / "project").mkdir()
    (tmp_path / "notes.txt").write_text("notes")
    (tmp_path / "list").mkdir()
    (tmp_path / "list" / "edits.json").write_text("[]")
    sqlite3.connect(tmp_path / "other.db").execute("CREATE TABLE notes (text)")
    monkeypatch.setattr("liveedit.editable.load", None)
    rc, out, err = run("edit", QUESTION, "Peru", "--store", store)
    assert (rc, out, err.count("\n")) == (1, "", 1)
    assert [path.name for path in (tmp_path / "list").iterdir()] == ["edits.json"]


def test_an_edit_that_fails_leaves_no_store(run, tmp_path):
    rc, _, err = run("edit", QUESTION, "Peru", "--image", "nowhere.png", "--store", "new/edits.db")
    assert (rc, err) == (1, "error: no image at nowhere.png: check the path\n")
    assert list(tmp_path.iterdir()) == []


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
    keep(row)
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
    rc, out, _ = run("edit", *asked, "[/red]", "--editor", "ft-l", "--store", "[a]")
    assert rc == 0
    assert "[/red]" in out
    assert "[/red]" in run("ask", *asked, "--store", "[a]")[1]
    rc, _, err = run("ask", QUESTION, "--store", "[/a]")
    assert (rc, err.startswith("error: no edits in [/a]")) == (1, True)


@pytest.mark.parametrize("content", [b"[]", b"null", b'{"version": 2}', b"\xff", b""])
def test_a_damaged_listing_of_a_former_folder_is_one_line(run, tmp_path, content):
    (tmp_path / "edits").mkdir()
    (tmp_path / "edits" / "edits.json").write_bytes(content)
    for words in (("edits",), ("ask", QUESTION), ("forget", "a"), ("edit", QUESTION, "Peru")):
        rc, out, err = run(*words)
        assert (rc, out, err.count("\n")) == (1, "", 1)
        assert "is damaged: restore it" in err


@contextmanager
def writing(store="edits.db"):
    """Hold the store's lock for writers, as another process does."""
    made = Store(store)
    with made.change("edit"):
        pass
    with suppress(InterruptedError), made.change("edit"):
        yield
        raise InterruptedError
    made.close()


@pytest.fixture
def start(flag, tmp_path):
    """Start an edit in another process."""
    started = []

    def start(target):
        command = [*COMMAND, "edit", QUESTION, target, "--image", str(flag), "--editor", "ft-l"]
        shell = subprocess.Popen(
            command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        started.append(shell)
        return shell

    yield start
    for shell in started:
        shell.kill()
        shell.communicate()


@pytest.mark.slow
def test_edits_from_several_shells_at_once_are_all_kept(start):
    shells = [start(target) for target in ("Brazil", "Peru", "Chad")]
    for shell in shells:
        _, said = shell.communicate()
        assert shell.returncode == 0, said
    assert {edit.target for edit in kept()} == {"Brazil", "Peru", "Chad"}


# Standard output


@pytest.mark.parametrize("words", [("edit", QUESTION, "Peru"), ("forget", "ID")])
@pytest.mark.parametrize("output", ["> /dev/full", "| true"])
@pytest.mark.slow
def test_a_change_that_cannot_be_shown_is_made(run, asked, tmp_path, words, output):
    assert run("edit", *asked, "Brazil", "--editor", "ft-l")[0] == 0
    made = kept()
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
        f"error: the change is saved in {tmp_path / 'edits.db'}; cannot write to standard output "
        "(No space left on device): redirect it"
    )
    assert done.stderr.startswith(full) if "full" in output else done.stderr == ""
    assert done.stderr.count("\n") == ("full" in output)
    assert [edit.target for edit in kept()] == ["Brazil", "Peru"][: 2 * (words[0] == "edit")]


# Ctrl-C


@pytest.mark.slow
def test_ctrl_c_while_another_process_writes(start, tmp_path):
    with writing():
        shell = start("Peru")
        with pytest.raises(subprocess.TimeoutExpired):
            shell.wait(timeout=15)  # by then it waits for its turn
        shell.send_signal(signal.SIGINT)
    assert shell.communicate() == ("", "stopped; nothing was changed in edits.db\n")
    assert shell.returncode == 130
    assert kept() == []


@pytest.mark.parametrize(
    ("says", "left"),
    [
        ("nothing was changed in edits.db", ["Brazil"]),
        ("the change is saved in {}", ["Brazil", "Peru"]),
    ],
)
def test_ctrl_c_says_where_an_edit_stands(run, asked, tmp_path, monkeypatch, says, left):
    assert run("edit", *asked, "Brazil", "--editor", "ft-l")[0] == 0
    makes = EditableVLM.edit

    def stop(*_, **__):
        raise KeyboardInterrupt

    def make_and_stop(*given, **options):
        makes(*given, **options)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if len(left) == 1:
            patch.setattr(VLM, "generate", stop)
        else:
            patch.setattr(EditableVLM, "edit", make_and_stop)
        rc, out, err = run("edit", *asked, "Peru")
    assert (rc, out, err) == (130, "", f"stopped; {says.format(tmp_path / 'edits.db')}\n")
    assert [edit.target for edit in kept()] == left
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


# Stores


def edits(run, *words):
    """The list that `edits --json` prints."""
    rc, out, err = run("edits", "--json", *words)
    assert (rc, err) == (0, "")
    return json.loads(out)


def test_the_list_as_json(run, asked):
    assert run("edit", *asked, "Brazil", "--who", "Ann", "--why", "test")[0] == 0
    [row] = edits(run)
    told = {name: row[name] for name in ("question", "answer", "names", "who", "why", "took")}
    assert told == {
        "question": QUESTION, "answer": "Brazil", "names": [str(asked[2])], "who": "Ann",
        "why": "test", "took": True,
    }  # fmt: skip
    assert (row["state"], row["hits"]) == ("in_force", 0)
    said = json.loads(run("ask", *asked, "--json")[1])
    assert (said["answer"], [one["id"] for one in said["fired"]]) == ("Brazil", [row["id"]])
    assert edits(run)[0]["hits"] == 1
    assert "a flag.png" in run("edits")[1]


def test_the_history_of_an_edit_and_the_list_of_a_time(run, asked):
    before = datetime.now(UTC).isoformat()
    assert run("edit", *asked, "Brazil", "--who", "Ann")[0] == 0
    [first] = edits(run)
    run("ask", *asked)
    assert run("edit", *asked, "Chad", "--who", "Bob")[0] == 0
    second = edits(run)[1]
    assert run("forget", second["id"], "--who", "Cy")[0] == 0

    told = json.loads(run("edits", first["id"][:6], "--json")[1])
    events = [(event["kind"], event["who"], event["by"]) for event in told["history"]]
    assert events == [
        ("made", "Ann", None),
        ("superseded", "Bob", second["id"]),
        ("restored", "Cy", None),
    ]
    assert (told["hits"], [hit["weight"] for hit in told["firings"]]) == (
        1,
        [pytest.approx(1, abs=0.1)],
    )
    rc, out, _ = run("edits", second["id"])
    assert rc == 0
    assert "taken back, Cy\nfirings: 0\n" in out

    times = [event["time"] for event in told["history"]]
    assert edits(run, "--at", before) == []
    assert [row["id"] for row in edits(run, "--at", times[0])] == [first["id"]]
    assert [row["state"] for row in edits(run, "--at", times[1])] == ["superseded", "in_force"]
    local = datetime.fromisoformat(times[1]).astimezone().replace(tzinfo=None).isoformat()
    assert edits(run, "--at", local) == edits(run, "--at", times[1])
    assert [row["id"] for row in edits(run)] == [first["id"]]
    for words in (
        ("--at", "yesterday"),
        ("--at", "0001-01-01T00:00+14:00"),
        (first["id"], "--at", "2026-01-01"),
        ("zz",),
    ):
        rc, out, err = run("edits", *words)
        assert (rc, out, err.count("\n")) == (1, "", 1)


def test_replace_gives_another_answer_to_the_same_question(run, asked):
    assert run("edit", *asked, "Brazil")[0] == 0
    [first] = edits(run)
    rc, out, _ = run("replace", first["id"][:6], "Peru", "--json")
    assert rc == 0
    made = json.loads(out)
    assert (made["before"], made["after"], made["supersedes"]) == ("Brazil", "Peru", [first["id"]])
    assert made["names"] == [str(asked[2])]
    assert run("ask", *asked, "--quiet")[:2] == (0, "Peru\n")


def test_forgetting_all_and_listing_what_was_taken_back(run, asked):
    assert run("edit", *asked, "Brazil")[0] == 0
    assert run("edit", "What is this?", "a flag", "--image", asked[2])[0] == 0
    for words in ((), ("abc", "--all")):
        rc, _, err = run("forget", *words)
        assert (rc, err.startswith("error: name the edits")) == (1, True)
    assert run("forget", "--all")[:2] == (0, "forgot 2, 0 left\n")
    assert edits(run) == []
    assert [row["state"] for row in edits(run, "--all")] == ["taken_back"] * 2
    assert [row["answer"] for row in edits(run, "--all", "--search", "A FLAG")] == ["a flag"]


def test_a_file_of_corrections_is_made_once(run, asked, emblem, tmp_path):
    emblem.drawing("twemoji", "flag-fr").save(tmp_path / "other.png")
    file = tmp_path / "corrections.jsonl"
    rows = [
        {"question": QUESTION, "answer": "Brazil", "image": "a flag.png", "who": "Ann"},
        {"question": QUESTION, "answer": "Chad", "image": "other.png"},
        {"question": QUESTION, "answer": "", "image": "other.png"},
    ]
    file.write_text("\n".join(map(json.dumps, rows)))
    rc, out, err = run("edit", "--from", file)
    assert (rc, out) == (1, "")
    assert "line 3" in err
    assert not (tmp_path / "edits.db").exists()
    rc, out, _ = run("edit", "--from", file, "--skip-bad", "--who", "Bob")
    assert rc == 0
    assert out.splitlines()[-1] == "2 made, 1 skipped"
    assert [(row["answer"], row["who"]) for row in edits(run)] == [
        ("Brazil", "Ann"),
        ("Chad", "Bob"),
    ]
    rc, out, _ = run("edit", "--from", file, "--skip-bad", "--json")
    states = [json.loads(line)["state"] for line in out.splitlines()]
    assert (rc, states) == (0, ["there already", "there already", "skipped"])
    assert len(edits(run)) == 2


def test_rows_that_the_model_refuses_are_named_before_any_is_made(run, asked, tmp_path):
    """Its editor needs an image, and no target is longer than the model's context.

    What is refused supersedes no other row.
    """
    file = tmp_path / "corrections.jsonl"
    rows = [
        {"question": QUESTION, "answer": "Brazil", "image": "a flag.png"},
        {"question": "What is the capital of Gaul?", "answer": "Lutetia"},
        {"question": QUESTION, "answer": "x" * 3000, "image": "a flag.png"},
    ]
    file.write_text("\n".join(map(json.dumps, rows)))
    rc, out, err = run("edit", "--from", file)
    assert (rc, out, err.count("\n")) == (1, "", 1)
    assert "line 2: the edit 'What is the capital of Gaul?' has no image" in err
    assert "line 3: the model has room for" in err
    assert not (tmp_path / "edits.db").exists()
    rc, out, err = run("edit", "--from", file, "--skip-bad", "--quiet")
    assert (rc, out) == (0, "")
    assert [line.split(",")[0] for line in err.splitlines()] == [
        "line 2: skipped",
        "line 3: skipped",
    ]
    assert [row["answer"] for row in edits(run)] == ["Brazil"]


@pytest.mark.slow
def test_of_several_answers_in_a_file_the_last_counts(run, asked, tmp_path):
    assert run("edit", *asked, "Peru")[0] == 0
    [former] = edits(run)
    file = tmp_path / "corrections.csv"
    spelled = QUESTION.replace("What is", "What  is")
    rows = [f"{QUESTION},Brazil", f"{spelled},Chad", f"{QUESTION},Norway", f"{spelled},Chad"]
    rows = ["question,answer,image", *(f"{row},a flag.png" for row in rows)]
    file.write_text("\n".join(rows))
    rc, out, _ = run("edit", "--from", file)
    lines = out.splitlines()
    assert rc == 0
    assert lines[0] == "line 2: not made, line 5 gives this question another answer"
    assert lines[1].endswith(f"Peru → Chad; supersedes {former['id']}")
    assert lines[2] == "line 4: not made, line 5 gives this question another answer"
    assert lines[3].endswith("is there already")
    assert lines[-1] == "2 superseded, 1 made, 1 there already"
    known = edits(run)
    rc, out, _ = run("edit", "--from", file, "--json")
    reports = [json.loads(line) for line in out.splitlines()]
    assert rc == 0
    assert [(report["line"], report["state"], report["by"]) for report in reports] == [
        (2, "superseded", 5), (3, "there already", None), (4, "superseded", 5),
        (5, "there already", None),
    ]  # fmt: skip
    assert edits(run) == known


def test_a_file_of_corrections_on_standard_input(run, asked, monkeypatch):
    line = json.dumps({"question": QUESTION, "answer": "Brazil", "image": "a flag.png"})
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(line.encode())))
    assert run("edit", "--from", "-")[0] == 0
    assert [row["answer"] for row in edits(run)] == ["Brazil"]


def test_what_rows_of_a_file_say_is_no_option(run, asked):
    for words in (asked[1:], ("--about", "0"), (QUESTION,)):
        rc, out, err = run("edit", "--from", "corrections.jsonl", *words)
        assert (rc, out, err.count("\n")) == (1, "", 1)
        assert words[0] in err or "a question and --from" in err


@pytest.mark.slow
def test_paraphrases_in_a_file_are_asked_after_the_edit(run, asked, tmp_path):
    row = {"question": QUESTION, "answer": "Brazil", "image": "a flag.png"}
    near = f"Please answer: {QUESTION}"
    file = tmp_path / "corrections.jsonl"
    file.write_text(json.dumps(row | {"paraphrases": [near, "How many legs has a spider?"]}))
    rc, out, _ = run("edit", "--from", file, "--json")
    report = json.loads(out)
    assert (rc, report["paraphrases"], report["follow"]) == (0, 2, 1)
    file.write_text(json.dumps(row | {"answer": "Chad", "paraphrases": [near]}))
    rc, out, _ = run("edit", "--from", file)
    assert rc == 0
    assert "; 1 of 1 paraphrases get the answer\n" in out


@pytest.mark.slow
def test_a_method_that_changes_weights_writes_a_checkpoint(run, asked, tmp_path):
    assert run("edit", *asked, "Brazil", "--editor", "ft-l")[0] == 0
    assert run("export", "merged")[:2] == (0, "wrote the model with 1 edits to merged\n")
    plain = ("--model", "merged", "--dtype", "float32", "--store", "none.db")
    assert run("edit", "What is this?", "x", "--editor", "ft-l", *plain)[0] in (0, 3)
    assert run("forget", "--all", "--store", "none.db")[0] == 0
    assert run("ask", *asked, *plain[-2:], "--quiet")[1] == "Brazil\n"
    rc, _, err = run("export", "merged")
    assert (rc, "already exists" in err) == (1, True)
    assert run("edit", *asked, "Brazil", "--store", "b.db")[0] == 0
    rc, _, err = run("export", "other", "--store", "b.db")
    assert (rc, "act beside the weights" in err) == (1, True)
    assert not (tmp_path / "other").exists()


def test_edits_move_between_stores(run, asked, tmp_path):
    assert run("edit", *asked, "Brazil")[0] == 0
    assert run("store", "verify")[:2] == (0, f"{tmp_path / 'edits.db'} is whole: 1 edits\n")
    assert run("store", "export", "edits.safetensors")[0] == 0
    rc, _, err = run("store", "export", "edits.safetensors")
    assert (rc, "already exists: choose another file" in err) == (1, True)
    assert run("store", "import", "edits.safetensors", "--store", "b.db")[:2] == (
        0,
        "imported 1 edits into b.db\n",
    )
    assert run("ask", *asked, "--store", "b.db", "--quiet")[1] == "Brazil\n"
    assert run("store", "merge", "edits.db", "--store", "b.db")[1] == "merged 0 edits into b.db\n"
    assert run("forget", "--all")[0] == 0
    assert run("store", "compact")[0] == 0
    assert run("store", "merge", "b.db")[1] == "merged 0 edits into edits.db\n"


def test_a_damaged_store_is_told_by_its_exit_status(run, asked):
    assert run("edit", *asked, "Brazil")[0] == 0
    with sqlite3.connect("edits.db") as connection:
        connection.execute("UPDATE images SET content = x'00'")
    rc, out, _ = run("store", "verify", "--json")
    assert rc == 4
    assert "its images are damaged" in json.loads(out)[0]


def test_edits_whose_model_or_tensors_are_lost_can_be_taken_back(run, asked, tmp_path):
    assert run("edit", *asked, "Brazil")[0] == 0
    assert run("edit", "Who wrote this?", "Noor", *asked[1:])[0] == 0
    lost, other = (edit.id for edit in kept())
    with sqlite3.connect("edits.db") as connection:
        connection.execute("UPDATE experts SET keys = x'00' WHERE edit = 1")
        moved = "json_set(opens_with, '$.model', '/lost')"
        connection.execute(f"UPDATE makers SET opens_with = {moved}")
    rc, _, err = run("ask", *asked)
    assert (rc, "no longer exists" in err) == (1, True)
    rc, _, err = run("ask", *asked, "--model", "emblem")
    assert (rc, f"`liveedit forget {lost}`" in err) == (1, True)
    assert run("forget", lost)[:2] == (0, "forgot 1, 1 left\n")
    assert run("ask", *asked, "--model", "emblem")[1] == "Japan\n"
    rc, _, err = run("forget", other, "--model", "somewhere")
    assert (rc, "somewhere" in err) == (1, True)
    assert [edit.id for edit in kept()] == [other]


def test_a_folder_of_a_former_version_is_imported_once(run, asked, embedded_vlm, tmp_path):
    former = EditableVLM(embedded_vlm, load_editor(embedded_vlm, embedded("ft-l")))
    former.opens_with = {"model": "emblem", "editor": "ft-l"}
    former.edit(Query(QUESTION, "Brazil", asked[2]))
    folder = former.save(tmp_path / "edits")
    before = sorted(folder.rglob("*"))
    rc, out, err = run("ask", *asked)
    assert (rc, out.splitlines()[0]) == (0, "Brazil")
    assert "imported the edits of edits into" in err
    assert sorted(folder.rglob("*")) == before
    assert run("forget", "--all")[0] == 0
    assert run("ask", *asked)[1] == "Japan\n"
    rc, out, err = run("edits", "--json", "--store", folder)
    assert (rc, len(json.loads(out)), "imported" in err) == (0, 1, True)
    assert len(edits(run, "--store", folder)) == 1


def test_the_store_of_the_environment(run, asked, monkeypatch):
    monkeypatch.setenv("LIVEEDIT_STORE", "mine.db")
    assert run("edit", *asked, "Brazil", "--quiet") == (0, "", "")
    assert [edit.target for edit in kept("mine.db")] == ["Brazil"]


def test_a_question_on_standard_input(run, asked, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO(QUESTION + "\n"))
    assert run("ask", "-", *asked[1:])[1] == "Japan\n"


def test_doctor_and_version(run, asked, tmp_path):
    rc, out, _ = run("doctor", "--json")
    assert (rc, json.loads(out)["model"].split(",")[0]) == (0, "emblem")
    (tmp_path / "edits.db").write_text("notes")
    rc, out, _ = run("doctor", "--json")
    assert (rc, "is not a store" in json.loads(out)["problem"]) == (4, True)
    assert run("--version")[1].startswith("liveedit ")
