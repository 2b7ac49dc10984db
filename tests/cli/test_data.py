"""`liveedit data`, and runs on the benchmarks that it has added."""

import json

import pytest
from PIL import Image

from liveedit.models.tiny import tiny


def add(run_here, published, name="vlkeb", folder="vlkeb"):
    where = published / folder
    return run_here(
        "data", "add", name, "--annotations", str(where), "--images", str(where / "images")
    )


def test_add_list_check_leaks(run_here, published):
    assert "liveedit data add" in run_here("data", "check", "vlkeb").stderr
    done = add(run_here, published)
    assert done.returncode == 0, done.stderr
    assert "eval.json 3 records" in done.stdout
    assert "note: eval.json has 3 records, the published one 3,174" in done.stdout
    listed = run_here("data").stdout
    assert [line.split()[-2] for line in listed.splitlines() if "│ vlkeb " in line] == ["yes"]
    assert "is sound" in run_here("data", "check", "vlkeb").stdout
    counted = run_here("data", "leaks", "vlkeb")
    assert counted.returncode == 0
    [line] = [line for line in counted.stdout.splitlines() if "image-locality probe is in" in line]
    assert [part.strip() for part in line.split("│")[2:4]] == ["1", "0"]


def test_faults_are_listed_on_a_screen_and_in_a_file_and_nothing_is_added(
    run_here, published, tmp_path
):
    file = published / "vlkeb" / "train.json"
    rows = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(
        json.dumps([row | {"alt": "", "loc": "", "src": ""} for row in rows]), encoding="utf-8"
    )
    done = add(run_here, published)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert "vlkeb has faults (15)" in done.stderr
    assert len(done.stdout.splitlines()) < 20
    assert len((tmp_path / "home" / "vlkeb-problems.txt").read_text().splitlines()) == 15
    assert not (tmp_path / "home" / "data.json").exists()


def test_an_unrelated_file_of_the_name_stays(run_here, published, tmp_path):
    rows = json.loads((published / "vlkeb" / "train.json").read_text(encoding="utf-8"))
    (published / "vlkeb" / "train.json").write_text(
        json.dumps([row | {"alt": ""} for row in rows]), encoding="utf-8"
    )
    notes = tmp_path / "home" / "vlkeb-problems.txt"
    notes.parent.mkdir()
    notes.write_text("my own notes", encoding="utf-8")
    done = add(run_here, published)
    assert (done.returncode, len(done.stderr.strip().splitlines())) == (1, 1)
    assert "vlkeb-problems.txt was not written by LiveEdit: move it away" in done.stderr
    assert notes.read_text(encoding="utf-8") == "my own notes"
    notes.unlink()
    for _ in range(2):  # over its own
        assert "all listed in" in add(run_here, published).stderr


def test_a_model_finds_the_images_that_its_processor_refuses(run_here, added, tmp_path):
    vlm = tiny("qwen2_vl")
    vlm.model.save_pretrained(tmp_path / "model")
    vlm.processor.save_pretrained(tmp_path / "model")
    image = next((added / "vlkeb" / "images").rglob("*.jpg"))
    Image.new("RGB", (603, 3)).save(image)
    assert run_here("data", "check", "vlkeb").returncode == 0
    done = run_here("data", "check", "vlkeb", "--model", str(tmp_path / "model"))
    assert done.returncode == 1
    assert f"processor refuses the image {image} (absolute aspect ratio" in done.stdout
    assert "vlkeb has faults (1)" in done.stderr


UNREAD = {
    "placeholder": (
        "src",
        "What <image> is it?",
        "'src' and 'alt': the prompt or target holds the image placeholder",
    ),
    "length": (
        "loc_ans",
        "one " * 9000,
        "'loc' and 'loc_ans': the model has room for 512 tokens, and the prompt with",
    ),
}


@pytest.mark.parametrize("kind", UNREAD)
def test_a_model_finds_the_texts_that_it_cannot_read(run_here, added, tmp_path, kind):
    field, text, said = UNREAD[kind]
    file = added / "vlkeb" / "eval.json"
    rows = json.loads(file.read_text(encoding="utf-8"))
    rows[1][field] = text
    file.write_text(json.dumps(rows), encoding="utf-8")
    assert run_here("data", "check", "vlkeb").returncode == 0
    done = run_here("data", "check", "vlkeb", "--model", "emblem")
    assert (done.returncode, len(done.stderr.strip().splitlines())) == (1, 1), done.stderr
    assert f"eval.json, record 1: {said}" in done.stdout
    assert "vlkeb has faults (1)" in done.stderr
    done = run_here(
        "eval", "--data", "vlkeb", "--editors", "ft-l", "--edits", "2", "--out", "run", cwd=tmp_path
    )
    assert (done.returncode, len(done.stderr.strip().splitlines())) == (1, 1), done.stderr
    assert "case eval:1, probe " in done.stderr


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["data", "leaks", "vlkebb"], "did you mean vlkeb"),
        (["data", "fetch", "e-vqa"], "not on the Hugging Face Hub"),
        (["data", "fetch", "vlkeb"], "connect and run"),
        (
            ["data", "add", "vlkeb", "--annotations", "nowhere", "--images", "."],
            "nothing at nowhere",
        ),
        (["eval", "--out", "x", "--data", "vlkeb"], "vlkeb has not been added yet"),
        (["eval", "--out", "x", "--split", "papers"], "choose clean or paper"),
        (["train", "x", "--data", "e-vqa"], "e-vqa has not been added yet"),
        (["train", "x", "--prompts", "paper"], "leave --prompts out"),
    ],
)
def test_a_mistake_is_one_line_and_a_failure(run_here, words, names, published, tmp_path):
    done = run_here(*words, cwd=tmp_path)
    assert done.returncode == 1
    assert names in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.slow
def test_eval_runs_on_what_was_added(run_here, added, tmp_path):
    done = run_here(
        "eval", "--data", "vlkeb-onehop-edited", "--editors", "ft-l", "--edits", "2",
        "--max-cases", "1",
        "--prompts", "paper", "--out", "run", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    [file] = (tmp_path / "run").rglob("records*.jsonl")
    records = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert {record["data"] for record in records} == {"vlkeb-onehop-edited"}
    assert {"portability_1hop", "question_alone", "image_alone"} <= {
        record["metric"] for record in records
    }
    assert all(record["edits"] == 2 for record in records)
    assert "data:image/webp" in (tmp_path / "run/index.html").read_text(encoding="utf-8")
