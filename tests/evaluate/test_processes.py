"""Several processes share an evaluation, and leave what one would have left."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from liveedit.editors.ft import FTL, FTLConfig
from liveedit.errors import BadInput
from liveedit.evaluate import Evaluation, Windows
from liveedit.types import Record

PLAN = Windows((1, 3), 3)
SCRIPT = """
import sys
from pathlib import Path

sys.path.insert(0, {here!r})
from conftest import make_cases
from test_processes import evaluate_editors
from liveedit.models.tiny import tiny

vlm = tiny("llava")
evaluate_editors(vlm, make_cases(4), Path(sys.argv[1]))
"""


def editors(vlm):
    return {
        "one": FTL(vlm, FTLConfig(lr=0.1, steps=3)),
        "two": FTL(vlm, FTLConfig(lr=0.05, steps=3)),
    }


def evaluate_editors(vlm, cases, out):
    evaluation = Evaluation(vlm, cases, PLAN, data="drawn", seed=0)
    for label, editor in editors(vlm).items():
        evaluation.add(editor, out / label, label)
    return evaluation.run()


def records(out, label):
    lines = (out / label / f"records-{label}.jsonl").read_text(encoding="utf-8").splitlines()
    return [replace(Record.from_json(line), costs={}) for line in lines]


@pytest.fixture(scope="module")
def whole(vlm, cases, tmp_path_factory):
    """The folder of a run in one process."""
    out = tmp_path_factory.mktemp("one")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        evaluate_editors(vlm, cases(4), out)
    finally:
        torch.set_num_threads(threads)
    return out


def test_editors_of_one_method_are_told_apart_by_their_labels(whole):
    for label in ("one", "two"):
        found = records(whole, label)
        assert len(found) == 24
        assert {record.editor for record in found} == {label}
        about = json.loads((whole / label / "run.json").read_text(encoding="utf-8"))
        assert (about["editor"], about["method"]) == (label, "ft-l")
    pairs = zip(records(whole, "one"), records(whole, "two"), strict=True)
    assert any(one.answer_after != two.answer_after for one, two in pairs)


@pytest.mark.slow
def test_two_processes_leave_what_one_leaves(whole, tmp_path):
    """They go on from what a run of one process has left, and share the rest."""
    script, out = tmp_path / "script.py", tmp_path / "out"
    script.write_text(SCRIPT.format(here=str(Path(__file__).parent)), encoding="utf-8")
    (out / "one").mkdir(parents=True)
    (out / "one" / "run.json").write_bytes((whole / "one" / "run.json").read_bytes())
    first = (whole / "one" / "records-one.jsonl").read_bytes().splitlines(keepends=True)[:6]
    (out / "one" / "records-one.jsonl").write_bytes(b"".join(first))
    launch = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--multi_gpu",
        "--num_processes",
        "2",
    ]
    launch += [
        "--num_machines",
        "1",
        "--mixed_precision",
        "no",
        "--dynamo_backend",
        "no",
        "--main_process_port",
        "0",
    ]
    done = subprocess.run(
        [*launch, str(script), str(out)],
        capture_output=True, text=True, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    for label in ("one", "two"):
        assert records(out, label) == records(whole, label)
        held = [".liveedit.lock", f"records-{label}.jsonl", "run.json"]
        assert sorted(file.name for file in (out / label).iterdir()) == held
    call = json.loads((out / "two" / "run.json").read_text(encoding="utf-8"))["calls"][0]
    assert call["processes"] == 2


def test_what_other_processes_left_is_taken_up(whole, vlm, cases, tmp_path):
    """A kill leaves a file a process, in no order, with a line twice and half a line at an end."""
    folder = tmp_path / "one"
    folder.mkdir()
    (folder / "run.json").write_bytes((whole / "one" / "run.json").read_bytes())
    lines = (whole / "one" / "records-one.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "records-one.jsonl").write_bytes(b"".join(lines[:3]))
    (folder / "records-one.part1.jsonl").write_bytes(b"".join(lines[12:15]) + lines[15][:40])
    (folder / "records-one.part2.jsonl").write_bytes(b"".join([lines[9], lines[8], lines[2]]))
    evaluate_editors(vlm, cases(4), tmp_path)
    assert records(tmp_path, "one") == records(whole, "one")
    assert not list(folder.glob("*part*"))
    kept = (folder / "records-one.jsonl").read_bytes().splitlines(keepends=True)
    assert [kept[i] == lines[i] for i in (0, 1, 2, 8, 9, 12, 13, 14)] == [True] * 8


def test_a_damaged_part_is_named_and_nothing_is_lost(whole, vlm, cases, tmp_path):
    folder = tmp_path / "one"
    folder.mkdir()
    for file in (whole / "one").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    content = (folder / "records-one.jsonl").read_bytes()
    (folder / "records-one.part1.jsonl").write_text("{}\n")
    with pytest.raises(BadInput, match=r"part1\.jsonl, line 1 is not a record"):
        evaluate_editors(vlm, cases(4), tmp_path)
    assert (folder / "records-one.jsonl").read_bytes() == content


def test_the_unedited_model_is_asked_once_for_all_editors(vlm, cases, tmp_path, monkeypatch):
    asked = []
    looked = []
    answers = type(vlm).answers
    tower = vlm.model.get_submodule(vlm.tower_path)
    see = tower.forward
    monkeypatch.setattr(
        tower, "forward", lambda *args, **options: looked.append(1) or see(*args, **options)
    )

    def counted(self, queries, **options):
        asked.extend(query.prompt for query in queries if not self.patches)
        return answers(self, queries, **options)

    monkeypatch.setattr(type(vlm), "answers", counted)
    evaluate_editors(vlm, cases(4), tmp_path)
    assert len(asked) == 3 * 4
    edits = 2 * (
        1 + 2 + 1 + 1
    )  # of two editors: the pool of three, which begins with one, and two of one
    assert len(looked) == 3 + edits
