"""Training on a tiny model: it learns, it resumes exactly, it refuses another run's folder."""

import codecs
import os
import re
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import pairwise
from math import cos, pi
from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

from helpers.hub_server import serving
from helpers.tiny_settings import SMALL, TRAINABLE, small_settings
from liveedit.editors import load_editor, new_editor
from liveedit.editors.base import TrainableEditor
from liveedit.editors.common.examples import Example
from liveedit.errors import BadInput, Mismatch, StorageError
from liveedit.models.tiny import tiny
from liveedit.train import TrainConfig, train
from liveedit.types import Case, Probe, Query

SETTINGS = SMALL["liveedit"] | {"rank": 12}


def case(number):
    image, other = (
        Image.new("RGB", (24, 24), (number * 20 + shift, 80, 255 - number * 20)) for shift in (0, 8)
    )
    edit = Query("What is the country with this flag?", f"answer {number}", image)
    probes = (
        Probe("text_generality", Query("Which country is it?", edit.target, image)),
        Probe("image_generality", Query(edit.prompt, edit.target, other)),
        Probe("image_locality", Query("Which film is this?", "Rain", other), "before"),
    )
    return Case(f"case-{number}", (edit,), probes)


CASES = [case(number) for number in range(6)]
FAST = TrainConfig(
    steps=30, batch_size=4, lr=1e-2, schedule="cosine", warmup=5, clip=1.0, checkpoint_every=10
)


@pytest.fixture(scope="module", params=["liveedit", "pinpoint"])
def method(request):
    return request.param


def fresh(vlm, method):
    return new_editor(vlm, method, SETTINGS)


class Stopped(Exception):
    """Raised in the place of Ctrl-C."""


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
    with serving(monkeypatch, tmp_path) as hub:
        editor = fresh(vlm, method)
        for _ in range(2):
            editor.push_to_hub("someone/editor", private=True)
            assert load_editor(vlm, "someone/editor").fingerprint == editor.fingerprint
        assert (
            ModelCard(hub.files["someone/editor"]["README.md"].decode()).data.tags.count(method)
            == 1
        )
        hub.create("someone", "model", "private")
        hub.files["someone/model"]["config.json"] = b"a model's"
        with pytest.raises(BadInput, match="give another id"):
            editor.push_to_hub("someone/model", private=True)
        assert hub.files["someone/model"]["config.json"] == b"a model's"


def test_an_id_that_the_hub_lacks_is_refused_in_one_line(vlm, method, monkeypatch):
    def fail(*_, **__):
        raise OSError("no such thing\nand more")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", fail)
    with pytest.raises(BadInput, match="no trained editor in someone/else"):
        load_editor(vlm, "someone/else")
    with pytest.raises(StorageError, match=r"as someone/else: no such thing$"):
        fresh(vlm, method).push_to_hub("someone/else")


def test_fewer_steps_than_were_trained_are_refused(vlm, method, tmp_path):
    train(fresh(vlm, method), CASES, TrainConfig(steps=3, batch_size=4), tmp_path)
    before = (tmp_path / "editor.safetensors").read_bytes()
    with pytest.raises(BadInput, match="is trained for 3 steps already"):
        train(fresh(vlm, method), CASES, TrainConfig(steps=2, batch_size=4), tmp_path)
    assert (tmp_path / "editor.safetensors").read_bytes() == before


def test_another_runs_folder_is_refused(vlm, method, tmp_path):
    train(fresh(vlm, method), CASES, TrainConfig(steps=2, batch_size=4), tmp_path)
    (tmp_path / ".liveedit.lock").unlink()  # as in a folder from before there was one
    with pytest.raises(Mismatch, match="another lr"):
        train(fresh(vlm, method), CASES, TrainConfig(steps=2, batch_size=4, lr=0.5), tmp_path)
    assert not (tmp_path / ".liveedit.lock").exists()


@pytest.mark.parametrize(
    ("named", "says"),
    [
        (
            {"generality": ["text_generallity"]},
            "generality: no case probes 'text_generallity': .*did you mean text_generality",
        ),
        (
            {"locality": ["nonsense"]},
            "locality: no case probes 'nonsense': known: image_generality, ",
        ),
    ],
)
def test_a_metric_that_no_case_asks_is_named(vlm, method, tmp_path, named, says):
    with pytest.raises(BadInput, match=says):
        train(new_editor(vlm, method, SETTINGS | named), CASES, FAST, tmp_path / "run")
    assert not (tmp_path / "run").exists()


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
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node=2",
        script,
    ]
    command += [Path(__file__).parent, folder, steps]
    env = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [str(part) for part in command], env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return load_file(folder / "editor.safetensors"), [
        torch.load(folder / f"rank-{rank}.pt") for rank in (0, 1)
    ]


@pytest.mark.slow
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
        plan = replace(FAST, steps=3, warmup=3, cache=cache)

        def report(stage, step, total, values, seen=seen):
            if values:
                seen.append(values["loss"])

        train(fresh(vlm, "liveedit"), CASES, plan, tmp_path / str(cache), report)
    assert (tmp_path / "True" / "hidden" / "0000000.pt").exists()
    assert not (tmp_path / "False" / "hidden").exists()
    assert losses[True] == pytest.approx(losses[False], rel=1e-3)
    assert len(losses[False]) == 3


def test_another_prompt_format_is_another_run(tmp_path):
    asked = tiny("qwen2_vl")
    train(fresh(asked, "liveedit"), CASES, replace(FAST, steps=1, warmup=1), tmp_path)
    asked.prompt_format = "raw"
    with pytest.raises(Mismatch, match="prompt_format"):
        train(fresh(asked, "liveedit"), CASES, replace(FAST, steps=1, warmup=1), tmp_path)


@pytest.mark.parametrize("name", TRAINABLE)
def test_every_method_is_trained_and_edits_in_half_precision(name, tmp_path, sentence_encoder):
    half = tiny("llava")
    half.model.bfloat16()
    editor = new_editor(half, name, small_settings(name, sentence_encoder))
    train(editor, CASES, TrainConfig(steps=2, batch_size=2, cache=False), tmp_path)
    with half.patched(editor.edit([CASES[0].edits[0]])):
        assert half.logits(half.encode([CASES[0].edits[0]])).dtype == torch.bfloat16
        assert half.generate([CASES[0].edits[0]], max_new_tokens=2)


def test_an_unreadable_image_is_named_before_anything_is_computed(vlm, tmp_path):
    cases = [
        *CASES,
        Case("lost", (Query("What is it?", "a flag", tmp_path / "lost.png"),), CASES[0].probes),
    ]
    editor = new_editor(vlm, "liveedit", SETTINGS)
    with pytest.raises(BadInput, match=r"no image at .*lost\.png"):
        train(editor, cases, FAST, tmp_path / "run", lambda *news: pytest.fail(str(news)))


def test_an_unreadable_text_is_named_before_anything_is_computed(vlm, tmp_path):
    cases = [*CASES, Case("odd", (Query("What is <image>?", "a flag"),), CASES[0].probes)]
    editor = new_editor(vlm, "liveedit", SETTINGS)
    with pytest.raises(BadInput, match=r"^case odd, edit 0: .*image placeholder"):
        train(editor, cases, FAST, tmp_path / "run", lambda *news: pytest.fail(str(news)))


# Steps, on an editor of one number


@dataclass(frozen=True)
class Gradients:
    """The gradients of the weight at each step, repeated."""

    gradients: tuple[float, ...] = (1.0,)


class Number(TrainableEditor):
    """An editor of one weight with given gradients; it notes what each step was called with."""

    name = "number"
    paper = ""
    Config = Gradients

    def __init__(self, vlm, config=None):
        super().__init__(vlm, config)
        self.weight = nn.Parameter(torch.zeros(1))
        self._networks = nn.ModuleDict({"only": nn.ParameterList([self.weight])})
        self.batches = []
        self.draws = []
        self.prepared = 0

    def networks(self):
        return self._networks

    def edit(self, queries, patch=None):
        raise NotImplementedError

    def prepare(self, cases):
        self.prepared += len(cases)
        return [Example(description=case.id) for case in cases]

    def loss(self, examples, generator):
        gradients = self.config.gradients
        self.batches.append([example.description for example in examples])
        self.draws.append(float(torch.rand((), generator=generator)))
        return self.weight.sum() * gradients[(len(self.batches) - 1) % len(gradients)], {}


def trained_number(vlm, folder, gradients=(1.0,), progress=None, **plan):
    """The editor, and the length of its weight's steps."""
    editor = Number(vlm, Gradients(gradients))
    path = [0.0]

    def follow(stage, done, total, values):
        if stage == "training":
            path.append(float(editor.weight.detach()))
        if progress is not None:
            progress(stage, done)

    train(editor, CASES, TrainConfig(**({"batch_size": 4} | plan)), folder, follow)
    return editor, [before - after for before, after in pairwise(path)]


def test_the_rate_rises_over_the_warm_up_and_falls_at_the_cut(vlm, tmp_path):
    """With a constant gradient a step of Adam is as long as the rate."""
    _, steps = trained_number(vlm, tmp_path, steps=6, lr=0.1, warmup=3, cut=4)
    assert steps == pytest.approx([0.1 / 3, 0.2 / 3, 0.1, 0.1, 0.01, 0.01], rel=1e-4)


def test_the_rate_falls_as_a_cosine(vlm, tmp_path):
    _, steps = trained_number(vlm, tmp_path, steps=4, lr=0.1, schedule="cosine")
    assert steps == pytest.approx([0.05 * (1 + cos(pi * step / 4)) for step in range(4)], rel=1e-4)


def test_gradients_are_clipped_only_if_asked_for(vlm, tmp_path):
    _, clipped = trained_number(vlm, tmp_path / "clipped", (1.0, 50.0), steps=4, lr=0.1, clip=1.0)
    _, free = trained_number(vlm, tmp_path / "free", (1.0, 50.0), steps=4, lr=0.1)
    assert clipped == pytest.approx([0.1] * 4, rel=1e-4)
    assert free[1] != pytest.approx(0.1, rel=0.1)


def test_batches_and_draws_depend_on_the_seed_and_the_step(vlm, tmp_path):
    one, again, other = (
        trained_number(vlm, tmp_path / name, steps=4, seed=seed)[0]
        for name, seed in (("one", 0), ("again", 0), ("other", 1))
    )
    assert (one.batches, one.draws) == (again.batches, again.draws)
    assert all(len({*batch}) == 4 for batch in one.batches)
    assert len({tuple(batch) for batch in one.batches + other.batches}) == 8
    assert len({*one.draws, *other.draws}) == 8


# Diverging


def test_a_loss_that_is_no_number_ends_the_training(vlm, tmp_path):
    reported = []
    gradients = (1.0, 1.0, 1e308)  # the last beyond float32
    with pytest.raises(
        BadInput, match=r"^the loss of step 3 is not finite: lower lr or set clip.*folder$"
    ):
        trained_number(
            vlm, tmp_path, gradients, lambda *at: reported.append(at), steps=9, checkpoint_every=1
        )
    assert reported[-1] == ("training", 3)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-0000002"]
    assert not {"config.json", "editor.safetensors"} & {path.name for path in tmp_path.iterdir()}


@pytest.mark.parametrize("plan", [{"steps": 1}, {"steps": 9, "checkpoint_every": 1}])
def test_a_weight_that_is_no_number_ends_the_training(vlm, tmp_path, plan):
    with pytest.raises(BadInput, match=r"^a weight after step 1 is not finite: lower lr"):
        trained_number(vlm, tmp_path, lr=1e39, **plan)
    assert not {"checkpoints", "config.json", "editor.safetensors"} & {
        path.name for path in tmp_path.iterdir()
    }


def test_a_training_that_has_diverged_already_leaves_no_editor(vlm, tmp_path):
    trained_number(vlm, tmp_path, steps=1)
    for name in ("config.json", "editor.safetensors"):
        (tmp_path / name).unlink()
    file = tmp_path / "checkpoints" / "step-0000001" / "model.safetensors"
    save_file({name: value * torch.nan for name, value in load_file(file).items()}, file)
    (file.parent / "sums.json").unlink()  # as in a checkpoint from before there was one
    with pytest.raises(BadInput, match="a weight after step 1 is not finite"):
        trained_number(vlm, tmp_path, steps=1)
    assert not (tmp_path / "editor.safetensors").exists()


def test_a_rate_at_which_training_diverges_is_refused(vlm, method, tmp_path):
    with pytest.raises(BadInput, match=r"(loss of|weight after) step \d is not finite"):
        train(fresh(vlm, method), CASES, TrainConfig(steps=9, batch_size=4, lr=1e30), tmp_path)
    assert not (tmp_path / "editor.safetensors").exists()


# Stopping


def interrupt_at(stage, done):
    """A callback that presses Ctrl-C when so much of a stage is done."""
    return lambda now, number: (
        signal.raise_signal(signal.SIGINT) if (now, number) == (stage, done) else None
    )


def test_ctrl_c_leaves_a_checkpoint_and_reports_the_step(vlm, tmp_path):
    plan = {"steps": 1200, "checkpoint_every": 1000, "lr": 0.1}
    with pytest.raises(
        KeyboardInterrupt, match=r"stopped at step 3 of 1,200; run the same command to continue"
    ):
        trained_number(vlm, tmp_path, progress=interrupt_at("training", 3), **plan)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-0000003"]
    assert not (tmp_path / "editor.safetensors").exists()
    seen = []
    with pytest.raises(KeyboardInterrupt):
        trained_number(
            vlm,
            tmp_path,
            progress=lambda *at: (seen.append(at), interrupt_at("training", 5)(*at)),
            **plan,
        )
    assert seen == [("training", 4), ("training", 5)]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_second_ctrl_c_does_not_wait(vlm, tmp_path):
    def press_twice(stage, done):
        if stage == "training":
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt, match=r"^$"):
        trained_number(vlm, tmp_path, progress=press_twice, steps=5)
    assert not (tmp_path / "checkpoints").exists()


def test_ctrl_c_keeps_the_hidden_states_so_far(vlm, tmp_path, monkeypatch):
    monkeypatch.setattr("liveedit.train.hidden_states.SLICE", 2)
    with pytest.raises(
        KeyboardInterrupt, match="with the hidden states of 2 of 6 cases; run the same command"
    ):
        trained_number(vlm, tmp_path, progress=interrupt_at("hidden states", 2), steps=1)
    assert trained_number(vlm, tmp_path, steps=1)[0].prepared == 4


def test_training_works_in_another_thread_than_the_main_one(vlm, tmp_path):
    with ThreadPoolExecutor() as pool:
        assert len(pool.submit(trained_number, vlm, tmp_path, steps=2).result()[1]) == 2


# One at a time


def test_a_folder_is_trained_in_once_at_a_time(vlm, tmp_path):
    """The second is refused at once while the first runs; after a Ctrl-C it may train."""

    def other(stage, done):
        if (stage, done) == ("training", 2):
            with ThreadPoolExecutor() as pool:
                refused = pool.submit(trained_number, vlm, tmp_path / "out", steps=3).exception()
            assert isinstance(refused, StorageError)
            assert re.fullmatch(
                r".*out is in use by another process: try again when that has ended", str(refused)
            )
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt, match="stopped at step 2"):
        trained_number(vlm, tmp_path / "out", progress=other, steps=3)
    with ThreadPoolExecutor() as pool:
        assert len(pool.submit(trained_number, vlm, tmp_path / "out", steps=3).result()[1]) == 1


# Damaged files


def cut(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flip(file, at=b""):
    """Flip a bit of a file's last byte, or of the first of ``at``."""
    content = bytearray(file.read_bytes())
    content[content.index(at) if at else -1] ^= 1
    file.write_bytes(content)


def test_cut_hidden_states_are_computed_anew(vlm, tmp_path, monkeypatch):
    monkeypatch.setattr("liveedit.train.hidden_states.SLICE", 2)
    assert trained_number(vlm, tmp_path, steps=1)[0].prepared == 6
    files = sorted((tmp_path / "hidden").glob("*.pt"))
    assert len(files) == 3
    cut(files[0])
    files[1].write_bytes(b"")
    assert trained_number(vlm, tmp_path, steps=2)[0].prepared == 4


@pytest.mark.parametrize("damage", [flip, lambda file, _: file.with_suffix(".sha256").unlink()])
def test_hidden_states_that_may_have_changed_are_computed_anew(vlm, tmp_path, damage):
    """A bit of a case's id, which still can be read, is flipped; or there is no checksum."""
    whole, _ = trained_number(vlm, tmp_path, steps=1)
    damage(tmp_path / "hidden" / "0000000.pt", b"case-0")
    again, _ = trained_number(vlm, tmp_path, steps=2)
    assert (whole.prepared, again.prepared) == (6, 6)
    assert {*again.batches[0]} <= {case.id for case in CASES}
    assert trained_number(vlm, tmp_path, steps=3)[0].prepared == 0


@pytest.mark.parametrize(
    "file", ["model.safetensors", "optimizer.bin", "random_states_0.pkl", "schedule.pt"]
)
@pytest.mark.parametrize("damage", [cut, flip, Path.unlink, lambda file: file.write_bytes(b"[]")])
def test_a_damaged_checkpoint_is_named(vlm, tmp_path, file, damage):
    trained_number(vlm, tmp_path, steps=1)
    checkpoint = tmp_path / "checkpoints" / "step-0000001"
    damage(checkpoint / file)
    with pytest.raises(BadInput, match=f"{checkpoint} is damaged: remove it"):
        trained_number(vlm, tmp_path, steps=2)
    shutil.rmtree(checkpoint)
    assert len(trained_number(vlm, tmp_path, steps=2)[1]) == 2


class Short(nn.ParameterList):
    """Weights that memory does not suffice to read."""

    def _load_from_state_dict(self, *_):
        raise MemoryError


def test_a_checkpoint_for_which_there_is_no_memory_is_not_called_damaged(vlm, tmp_path):
    trained_number(vlm, tmp_path, steps=1)
    editor = Number(vlm, Gradients((1.0,)))
    editor.networks()["only"] = Short([editor.weight])
    with pytest.raises(MemoryError):
        train(editor, CASES, TrainConfig(steps=2, batch_size=4), tmp_path)


def test_half_a_checkpoint_is_passed_over(vlm, tmp_path):
    trained_number(vlm, tmp_path, steps=1)
    (tmp_path / "checkpoints" / "step-0000002.part").mkdir()
    assert len(trained_number(vlm, tmp_path, steps=2)[1]) == 1


@pytest.mark.parametrize(
    "name",
    ["step-0000000-copy-of-1", "step-0000001-best1", "step-1", "step-00000001", "step-best9"],
)
def test_copies_of_checkpoints_stay_and_are_not_gone_on_from(vlm, tmp_path, name):
    trained_number(vlm, tmp_path, steps=1)
    copy = tmp_path / "checkpoints" / name
    shutil.copytree(tmp_path / "checkpoints" / "step-0000001", copy)
    assert len(trained_number(vlm, tmp_path, steps=3, checkpoint_every=1)[1]) == 2
    assert sorted(path.name for path in copy.parent.iterdir()) == sorted([name, "step-0000003"])
    (copy / "model.safetensors").unlink()
    assert len(trained_number(vlm, tmp_path, steps=4)[1]) == 1


def test_the_last_checkpoint_is_that_of_the_most_steps(vlm, tmp_path):
    trained_number(vlm, tmp_path, steps=2)
    far = tmp_path / "checkpoints" / "step-10000000"
    shutil.copytree(tmp_path / "checkpoints" / "step-0000002", far)
    (tmp_path / "checkpoints" / "step-0000002").rename(tmp_path / "checkpoints" / "step-9999999")
    assert len(trained_number(vlm, tmp_path, steps=10_000_002, checkpoint_every=1)[1]) == 2
    assert [path.name for path in far.parent.iterdir()] == ["step-10000002"]


@pytest.mark.parametrize("content", ["", "{", "[1, 2]", "3", "null"])
def test_a_damaged_description_is_named(vlm, tmp_path, content):
    (tmp_path / "training.json").write_text(content, encoding="utf-8")
    with pytest.raises((BadInput, Mismatch), match=r"training\.json is damaged"):
        trained_number(vlm, tmp_path, steps=1)


def test_files_that_an_editor_of_texts_has_marked_as_utf_8(vlm, method, tmp_path):
    for steps in (1, 2):
        train(fresh(vlm, method), CASES, TrainConfig(steps=steps, batch_size=4), tmp_path)
        for name in ("training.json", "config.json"):
            (tmp_path / name).write_bytes(
                codecs.BOM_UTF8 + (tmp_path / name).read_bytes().removeprefix(codecs.BOM_UTF8)
            )
    assert load_editor(vlm, tmp_path).name == method


def test_unrelated_files_are_not_touched(vlm, tmp_path):
    (tmp_path / "config.json").write_text("mine", encoding="utf-8")
    with pytest.raises(BadInput, match="holds other files"):
        trained_number(vlm, tmp_path, steps=1)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]
    with pytest.raises(BadInput, match="is a file"):
        trained_number(vlm, tmp_path / "config.json", steps=1)


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0},
        {"steps": 10**9 + 1},
        {"lr": 0.0},
        {"lr": "fast"},
        {"schedule": "cosinus"},
        {"seed": -1},
        {"warmup": 3, "steps": 2},
        {"warmup": 10**26, "steps": 2},
    ],
)
def test_settings_out_of_range_are_refused(vlm, tmp_path, wrong):
    with pytest.raises(BadInput, match=f"training.{next(iter(wrong))} is "):
        trained_number(vlm, tmp_path, **wrong)
    assert not list(tmp_path.iterdir())
