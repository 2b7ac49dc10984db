"""lmms-eval's own command on an edited model, with tasks over a local data set.

Runs where lmms-eval is installed (`make test-lmms-eval`).
"""

import json
import subprocess
import sys

import pytest

pytest.importorskip("lmms_eval")

from lmms_eval.api.instance import Instance

from liveedit.editable import load
from liveedit.errors import BadInput
from liveedit.integrations.lmms_eval import EditedModel
from liveedit.types import Query

pytestmark = pytest.mark.slow

SHOWN = """
from PIL import Image

def image(doc):
    return [Image.open(doc["image"])]

def score(doc, results):
    return {"right": float(results[0] == doc["answer"])}
"""
QUESTION = "What is the country with this flag?"
COUNTRIES = {"jp": "Japan", "fr": "France", "br": "Brazil"}
TASK = """
task: flags
dataset_path: json
dataset_kwargs: {data_files: {test: DATA}}
test_split: test
output_type: generate_until
doc_to_visual: !function shown.image
doc_to_text: "{{question}}"
doc_to_target: answer
generation_kwargs: {max_new_tokens: 8, until: ["\\n"]}
process_results: !function shown.score
metric_list:
  - {metric: right, aggregation: mean, higher_is_better: true}
"""


@pytest.fixture
def tasks(tmp_path, emblem):
    """A folder with a task about three flags."""
    rows = []
    for code, country in COUNTRIES.items():
        emblem.drawing("twemoji", f"flag-{code}").save(tmp_path / f"{code}.png")
        image = str(tmp_path / f"{code}.png")
        rows.append({"question": QUESTION, "image": image, "answer": country})
    data = tmp_path / "flags.jsonl"
    data.write_text("\n".join(map(json.dumps, rows)))
    folder = tmp_path / "tasks"
    folder.mkdir()
    (folder / "shown.py").write_text(SHOWN)
    (folder / "flags.yaml").write_text(TASK.replace("DATA", str(data)))
    return folder


@pytest.fixture
def store(tmp_path, flag):
    """A store with an edit of one of the flags."""
    store = tmp_path / "edits.db"
    load(store=store).edit(Query(QUESTION, "Brazil", flag))
    return store


def lmms_eval(tasks, tmp_path, model_args):
    """The score of a run of the command."""
    out = tmp_path / "out"
    words = ["--model", "liveedit", "--model_args", model_args, "--tasks", "flags"]
    words += ["--include_path", str(tasks), "--output_path", str(out), "--batch_size", "2"]
    command = [sys.executable, "-m", "lmms_eval", *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "Error" not in done.stdout, done.stdout[-3000:]
    [file] = out.rglob("*_results.json")
    found = json.loads(file.read_text())["results"]["flags"]["right,none"]
    file.unlink()
    return found


def test_a_run_of_the_command_shows_what_edits_change(tasks, store, tmp_path):
    assert lmms_eval(tasks, tmp_path, "pretrained=emblem") == 1
    edited = lmms_eval(tasks, tmp_path, f"pretrained=emblem,store={store}")
    assert edited == pytest.approx(2 / 3)


def test_choices_are_compared_with_the_edits(store, flag):
    """Without the command: version 0.7.3 turns the pairs that this returns into text."""
    model = EditedModel.create_from_arg_string(f"store={store}", {"batch_size": 2})
    model.task_dict = {"flags": {"test": [{}]}}
    rest = (lambda doc: [flag], 0, "flags", "test")
    found = model.loglikelihood(
        [instance((QUESTION, f" {country}", *rest)) for country in COUNTRIES.values()]
    )
    losses = [loss for loss, _ in found]
    assert losses.index(min(losses)) == list(COUNTRIES.values()).index("Brazil")
    assert [greedy for _, greedy in found] == [False, False, True]


def instance(arguments):
    """A request of lmms-eval."""
    about = {"task": "flags", "doc_id": 0, "repeats": 1}
    return Instance("loglikelihood", arguments, 0, about)


def test_other_media_and_sampling_are_refused(store):
    model = EditedModel.create_from_arg_string(f"store={store}")
    model.task_dict = {"films": {"test": [{}]}}
    rest = (lambda doc: ["film.mp4"], 0, "films", "test")
    for options, message in (
        ({}, "answers about images only"),
        ({"temperature": 0.7}, "answers greedily"),
    ):
        with pytest.raises(BadInput, match=message):
            model.generate_until([instance(("What is this?", options, *rest))])


def test_bad_arguments_are_named():
    for arguments, message in (
        ("store=nowhere.db", "no edits in nowhere.db"),
        ("dtype=int9", "there is no dtype 'int9'"),
        ("batch_size=auto", "takes a number of at least 1"),
    ):
        with pytest.raises(BadInput, match=message):
            EditedModel.create_from_arg_string(arguments)
