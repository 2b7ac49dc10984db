"""Training on a tiny model: it learns, it resumes exactly, it refuses another run's folder."""

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from liveedit.editors import load_editor, new_editor
from liveedit.errors import BadInput, Mismatch, StorageError
from liveedit.models.tiny import tiny
from liveedit.train import TrainConfig, train
from liveedit.types import Case, Probe, Query

SETTINGS = {"module_dim": 16, "heads": 2, "layer": 2, "rank": 12}


def case(number):
    image, other = (Image.new("RGB", (24, 24), (number * 20 + shift, 80, 255 - number * 20)) for shift in (0, 8))
    edit = Query("What is the country with this flag?", f"answer {number}", image)
    probes = (
        Probe("text_generality", Query("Which country is it?", edit.target, image)),
        Probe("image_generality", Query(edit.prompt, edit.target, other)),
        Probe("image_locality", Query("Which film is this?", "Rain", other), "before"),
    )
    return Case(f"case-{number}", (edit,), probes)


CASES = [case(number) for number in range(6)]
FAST = TrainConfig(steps=30, batch_size=4, lr=1e-2, schedule="cosine", warmup=5, clip=1.0, checkpoint_every=10)


@pytest.fixture(scope="module")
def vlm():
    return tiny("llava")


@pytest.fixture(scope="module", params=["liveedit", "pinpoint"])
def method(request):
    return request.param


def fresh(vlm, method):
    return new_editor(vlm, method, SETTINGS)


class Stopped(Exception):
    """Stands for Ctrl-C."""


def test_the_loss_falls(vlm, method, tmp_path):
    seen = []
    train(
        fresh(vlm, method),
        CASES,
        FAST,
        tmp_path,
        lambda stage, step, total, values: seen.append(values["loss"]) if values else None,
    )
    assert len(seen) == 30
    assert sum(seen[-5:]) < 0.95 * sum(seen[:5])


def test_a_stopped_run_goes_on_exactly(vlm, method, tmp_path):
    def stop(stage, step, total, values):
        if step == 25:
            raise Stopped

    train(fresh(vlm, method), CASES, FAST, tmp_path / "whole")
    with pytest.raises(Stopped):
        train(fresh(vlm, method), CASES, FAST, tmp_path / "cut", stop)
    seen = []
    train(
        fresh(vlm, method),
        CASES,
        FAST,
        tmp_path / "cut",
        lambda stage, step, total, values: seen.append(step) if values else None,
    )
    assert seen[0] == 21
    whole, cut = (load_file(tmp_path / name / "editor.safetensors") for name in ("whole", "cut"))
    assert whole.keys() == cut.keys()
    assert all(torch.equal(whole[name], cut[name]) for name in whole)


def test_the_trained_editor_loads_back(vlm, method, tmp_path):
    editor = fresh(vlm, method)
    train(editor, CASES, FAST, tmp_path)
    again = load_editor(vlm, tmp_path)
    assert again.fingerprint == editor.fingerprint
    with pytest.raises(Mismatch, match="another model"):
        load_editor(tiny("llava", seed=1), tmp_path)


def test_the_editor_goes_to_the_hub_and_comes_back(vlm, method, tmp_path, monkeypatch):
    """The Hub's client is replaced by a folder; all else is real."""

    class Api:
        def create_repo(self, repo, *, private, exist_ok):
            assert private
            assert exist_ok
            return SimpleNamespace(repo_id=repo)

        def upload_folder(self, *, repo_id, folder_path, commit_message):
            assert method in commit_message
            shutil.copytree(folder_path, tmp_path / repo_id)

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda repo, **_: str(tmp_path / repo))
    editor = fresh(vlm, method)
    editor.push_to_hub("someone/editor", private=True)
    assert load_editor(vlm, "someone/editor").fingerprint == editor.fingerprint


def test_what_the_hub_does_not_have_is_said_in_one_line(vlm, method, monkeypatch):
    def fail(*_, **__):
        raise OSError("no such thing\nand more")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", fail)
    with pytest.raises(BadInput, match="no trained editor in someone/else"):
        load_editor(vlm, "someone/else")
    with pytest.raises(StorageError, match=r"as someone/else: no such thing$"):
        fresh(vlm, method).push_to_hub("someone/else")


def test_another_runs_folder_is_refused(vlm, method, tmp_path):
    train(fresh(vlm, method), CASES, TrainConfig(steps=2, batch_size=4), tmp_path)
    with pytest.raises(Mismatch, match="another lr"):
        train(fresh(vlm, method), CASES, TrainConfig(steps=2, batch_size=4, lr=0.5), tmp_path)


def test_too_few_cases_are_refused(vlm, method, tmp_path):
    with pytest.raises(BadInput, match="fewer than one batch"):
        train(fresh(vlm, method), CASES, TrainConfig(batch_size=7), tmp_path)


def test_the_log_can_be_read(vlm, method, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(fresh(vlm, method), CASES, FAST, tmp_path)
    [log] = {file.parent for file in tmp_path.rglob("events.out.tfevents*")}
    events = EventAccumulator(str(log)).Reload()
    assert len(events.Scalars("loss")) == 3


PROCESS = """
import os
import sys
from pathlib import Path

import torch

sys.path.insert(0, sys.argv[1])
from test_train import CASES, fresh
from liveedit.models.tiny import tiny
from liveedit.train import TrainConfig, train

editor = fresh(tiny("llava"), "pinpoint")
plan = TrainConfig(steps=int(sys.argv[3]), batch_size=4, lr=1e-2, checkpoint_every=2)
train(editor, CASES, plan, Path(sys.argv[2]))
assert os.environ["WORLD_SIZE"] == "2"
torch.save(editor.networks().state_dict(), Path(sys.argv[2]) / f"rank-{os.environ['RANK']}.pt")
"""


def launch(folder, steps):
    """Train in two processes on the CPU."""
    script = folder.parent / "process.py"
    script.write_text(PROCESS, encoding="utf-8")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", script]
    command += [Path(__file__).parent, folder, steps]
    env = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([str(part) for part in command], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return load_file(folder / "editor.safetensors"), [torch.load(folder / f"rank-{rank}.pt") for rank in (0, 1)]


def test_two_processes_train_one_editor_and_go_on_exactly(tmp_path):
    whole, ranks = launch(tmp_path / "whole", 4)
    for name, weight in whole.items():
        assert torch.equal(weight, ranks[0][name])
        assert torch.equal(weight, ranks[1][name])
    half, _ = launch(tmp_path / "cut", 2)
    assert any(not torch.equal(half[name], weight) for name, weight in whole.items())
    resumed, _ = launch(tmp_path / "cut", 4)
    assert all(torch.equal(resumed[name], weight) for name, weight in whole.items())


def test_without_a_cache_the_same_is_learnt_and_nothing_is_kept(vlm, tmp_path):
    losses = {True: [], False: []}
    for cache, seen in losses.items():
        plan = replace(FAST, steps=3, cache=cache)
        report = lambda stage, step, total, values, seen=seen: seen.append(values["loss"]) if values else None  # noqa: E731
        train(fresh(vlm, "liveedit"), CASES, plan, tmp_path / str(cache), report)
    assert (tmp_path / "True" / "cache.pt").exists()
    assert not (tmp_path / "False" / "cache.pt").exists()
    assert losses[True] == pytest.approx(losses[False], rel=1e-3)
    assert len(losses[False]) == 3


def test_another_form_of_prompts_is_another_run(tmp_path):
    asked = tiny("qwen2_vl")
    train(fresh(asked, "liveedit"), CASES, replace(FAST, steps=1), tmp_path)
    asked.prompt_format = "raw"
    with pytest.raises(Mismatch, match="prompt_format"):
        train(fresh(asked, "liveedit"), CASES, replace(FAST, steps=1), tmp_path)


@pytest.mark.parametrize("name", ["liveedit", "pinpoint", "mend", "ke", "serac", "recipe", "lte"])
def test_every_method_is_trained_and_edits_in_half_precision(name, tmp_path, sentence_encoder):
    half = tiny("llava")
    half.model.bfloat16()
    changes = {
        "liveedit": SETTINGS,
        "pinpoint": SETTINGS,
        "serac": {"module_dim": 16, "heads": 2, "layer": 2, "width": 32, "depth": 1},
        "recipe": {"layer": 2, "key_dim": 16},
        "lte": {"retriever": sentence_encoder},
    }
    editor = new_editor(half, name, changes.get(name, {}))
    train(editor, CASES, TrainConfig(steps=2, batch_size=2, cache=False), tmp_path)
    with half.patched(editor.edit([CASES[0].edits[0]])):
        assert half.logits(half.encode([CASES[0].edits[0]])).dtype == torch.bfloat16
        assert half.generate([CASES[0].edits[0]], max_new_tokens=2)


def test_an_unreadable_image_is_named_before_anything_is_computed(vlm, tmp_path):
    cases = [*CASES, Case("lost", (Query("What is it?", "a flag", tmp_path / "lost.png"),), CASES[0].probes)]
    editor = new_editor(vlm, "liveedit", SETTINGS)
    with pytest.raises(BadInput, match=r"no image at .*lost\.png"):
        train(editor, cases, FAST, tmp_path / "run", lambda *news: pytest.fail(str(news)))
