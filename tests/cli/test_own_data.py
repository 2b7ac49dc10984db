"""`liveedit data add NAME --cases FILE`, and training and evaluation on what it made."""

import json

import pytest
from PIL import Image

from liveedit.models.tiny import tiny


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A folder with fourteen photos and corrections of them; the data folder is empty."""
    monkeypatch.setenv("LIVEEDIT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "200")
    rows = []
    for number in range(14):
        Image.new("RGB", (24, 24), (15 * number, 60, 200)).save(tmp_path / f"{number}.png")
        rows.append({"image": f"{number}.png", "question": "What is it?", "answer": f"n {number}"})
    write(tmp_path, rows)
    return tmp_path


def write(folder, rows):
    lines = "\n".join(map(json.dumps, rows))
    (folder / "corrections.jsonl").write_text(lines, encoding="utf-8")


def read(folder):
    lines = (folder / "corrections.jsonl").read_text(encoding="utf-8").splitlines()
    return list(map(json.loads, lines))


def add(run_here, folder, *words, name="mine"):
    return run_here("data", "add", name, "--cases", "corrections.jsonl", *words, cwd=folder)


def test_add_list_check_remove(run_here, own):
    done = add(run_here, own)
    assert done.returncode == 0, done.stderr
    assert "corrections.jsonl: 9 train, 1 val, 4 test" in done.stdout
    listed = run_here("data").stdout
    assert [line.split()[-2] for line in listed.splitlines() if "│ mine " in line] == ["yes"]
    rows = json.loads(run_here("data", "--json").stdout)
    assert (rows[-1]["name"], rows[-1]["here"]) == ("mine", True)
    assert "mine is sound" in run_here("data", "check", "mine").stdout
    assert "there already" in add(run_here, own).stderr
    Image.new("RGB", (24, 24), "white").save(own / "3.png")
    done = run_here("data", "check", "mine")
    assert done.returncode == 1
    assert "3.png has changed" in done.stdout
    assert "mine has faults (1)" in done.stderr
    assert "removed mine" in run_here("data", "remove", "mine").stdout
    assert "│ mine " not in run_here("data").stdout
    assert (own / "0.png").exists()


def test_a_later_correction_counts(run_here, own):
    write(own, [*read(own), {**read(own)[0], "answer": "another"}])
    assert "1 were corrected again further down" in add(run_here, own).stdout


def test_bad_rows_are_refused_or_left_out(run_here, own):
    write(own, [*read(own), {"image": "missing.png", "question": "What?", "answer": "a"}])
    done = add(run_here, own)
    assert done.returncode == 1
    assert "line 15: no image at" in done.stdout
    assert "bad rows (1) and nothing was added" in done.stderr
    assert not (own / "home" / "own").exists()
    done = add(run_here, own, "--skip-bad")
    assert done.returncode == 0
    assert "left out, line 15: no image at" in done.stdout


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["data", "add", "mine"], "give --cases FILE"),
        (["data", "add", "vlkeb"], "give --annotations DIR and --images DIR"),
        (["data", "add", "emblem", "--cases", "corrections.jsonl"], "a benchmark of the package"),
        (["data", "add", "a/b", "--cases", "corrections.jsonl"], "use letters"),
        (["data", "add", "mine", "--cases", "nowhere"], "no file at"),
        (["data", "add", "mine", "--cases", "."], "is a folder"),
        (["data", "add", "mine", "--cases", "few.jsonl"], "add 11 more"),
        (["data", "remove", "mine"], "no benchmark 'mine' of yours"),
        (["eval", "--out", "x", "--data", "mine"], "unknown benchmark 'mine'"),
        (["train", "x", "--data", "mine"], "unknown benchmark 'mine'"),
    ],
)
def test_a_mistake_is_one_line_and_a_failure(run_here, own, words, says):
    (own / "few.jsonl").write_text('{"question": "a", "answer": "b"}', encoding="utf-8")
    done = run_here(*words, cwd=own)
    assert (done.returncode, len(done.stderr.strip().splitlines())) == (1, 1)
    assert says in done.stderr
    assert not (own / "home").exists()


def test_a_method_that_learns_from_none_of_the_cases_says_so(run_here, own):
    write(own, [{"question": f"q{n}?", "answer": "a"} for n in range(14)])
    add(run_here, own)
    done = run_here("train", "editor", "--data", "mine", cwd=own)
    assert (done.returncode, len(done.stderr.strip().splitlines())) == (1, 1)
    assert "learns from none of the 9 cases" in done.stderr


@pytest.fixture
def tiny_model(tmp_path):
    vlm = tiny("llava")
    vlm.model.save_pretrained(tmp_path / "model")
    vlm.processor.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.slow
@pytest.mark.parametrize("method", ["pinpoint", "liveedit", "mend", "recipe", "serac", "ke"])
def test_train_eval_and_report_on_it(run_here, own, tiny_model, method):
    add(run_here, own)
    model = ["--model", str(tiny_model)]
    out = f"editors/{method}"
    done = run_here(
        "train", out, "--editor", method, "--data", "mine", "--steps", "2", *model, cwd=own
    )
    assert done.returncode == 0, done.stderr
    assert "chosen for 4 layers of width 32 and 9 cases" in done.stdout
    [line] = [line for line in done.stdout.splitlines() if line.startswith('{"editor"')]
    (own / "again.json").write_text(line, encoding="utf-8")
    again = run_here(
        "train", "again", "--editor", method, "--data", "mine", "--config", "again.json", *model,
        cwd=own,
    )  # fmt: skip
    assert again.returncode == 0, again.stderr  # what was printed is a file of settings
    listed = json.loads(run_here("editors", "--json", cwd=own).stdout)
    [row] = [row for row in listed if row["name"] == method]
    assert f"the model of {out}" in row["ready_for"]
    done = run_here(
        "eval", "--data", "mine", "--editors", f"{method}:{out}", "--edits", "1,3", "--out", "runs",
        *model, cwd=own,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    [file] = (own / "runs").rglob("records*.jsonl")
    records = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert {record["data"] for record in records} == {"mine"}
    assert {"reliability", "text_locality", "look_alike_image"} <= {
        record["metric"] for record in records
    }
    assert run_here("report", "runs", cwd=own).returncode == 0


@pytest.mark.slow
def test_the_command_that_a_message_names_works(run_here, own, tiny_model):
    """As it is printed, it trains an editor that the same options then find."""
    words = ["--model", str(tiny_model), "--dtype", "float32", "--prompt-format", "raw"]
    done = run_here(
        "eval", "--editors", "pinpoint", "--edits", "1", "--out", "runs/x", *words, cwd=own
    )
    assert done.returncode == 1
    _, _, command = done.stderr.strip().partition(": liveedit ")
    assert "--dtype float32 --prompt-format raw" in command
    add(run_here, own)
    done = run_here(*command.split(), "--data", "mine", "--steps", "1", cwd=own)
    assert done.returncode == 0, done.stderr
    ready = run_here(
        "eval", "--editors", "pinpoint", "--edits", "1", "--max-cases", "1", "--ask", "1",
        "--data", "mine", "--out", "runs/x", *words, cwd=own,
    )  # fmt: skip
    assert ready.returncode == 0, ready.stderr
    other = [*words[:-1], "vlkeb"]
    done = run_here(
        "eval", "--editors", "pinpoint", "--edits", "1", "--data", "mine", "--out", "runs/y",
        *other, cwd=own,
    )  # fmt: skip
    assert "was trained with the prompt format raw" in done.stderr
