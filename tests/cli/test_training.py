"""`liveedit train`: the same command makes the same editor, or goes on where it was stopped."""

import json
import re
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file

from liveedit.cli import main

SETTINGS = {
    "editor": {"layer": 1, "module_dim": 16, "heads": 2, "rank": 32},
    "training": {"steps": 2, "batch_size": 2, "cache": False},
}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The folder of a tiny model, and a file of settings for it."""
    from liveedit.models.tiny import tiny

    folder = tmp_path_factory.mktemp("small")
    vlm = tiny("llava")
    vlm.model.save_pretrained(folder / "model")
    vlm.processor.save_pretrained(folder / "model")
    plan = {"steps": 100_000, "batch_size": 2, "checkpoint_every": 3}
    (folder / "config.json").write_text(
        json.dumps({"editor": {"module_dim": 16, "heads": 2}, "training": plan}), encoding="utf-8"
    )
    return folder


@pytest.fixture(scope="module")
def trained(small, tmp_path_factory):
    """The weights of trainings in processes of their own, with the default seed, 0 and 1."""
    folder = tmp_path_factory.mktemp("trained")
    config = folder / "config.json"
    config.write_text(json.dumps(SETTINGS), encoding="utf-8")
    running = {}
    for name, seed in {"default": None, "zero": 0, "one": 1}.items():
        command = [sys.executable, "-m", "liveedit", "train", folder / name, "--config", config]
        command += ["--model", small / "model"]
        command += [] if seed is None else ["--seed", seed]
        running[name] = subprocess.Popen([str(word) for word in command], stdout=subprocess.DEVNULL)
    assert [process.wait() for process in running.values()] == [0, 0, 0]
    return {name: load_file(folder / name / "editor.safetensors") for name in running}


@pytest.mark.slow
def test_the_same_command_makes_the_same_editor_bit_for_bit(trained):
    assert trained["default"].keys() == trained["zero"].keys()
    assert all(
        torch.equal(trained["default"][name], weight) for name, weight in trained["zero"].items()
    )


@pytest.mark.slow
def test_another_seed_makes_another_editor(trained):
    same = [
        torch.equal(trained["one"][name], weight)
        for name, weight in trained["zero"].items()
        if weight.dim() > 1
    ]
    assert not any(same)


def start(*words):
    command = [sys.executable, "-m", "liveedit", *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def stop(process, number, found):
    """Send a signal once ``found`` is true; return the standard error of the process."""
    end = time.monotonic() + 300
    while not (there := found()) and process.poll() is None and time.monotonic() < end:
        time.sleep(0.02)
    process.send_signal(number)
    said = process.communicate(timeout=60)[1]
    assert there, said
    return said


@pytest.mark.slow
def test_a_stopped_or_killed_training_goes_on(small, tmp_path):
    """Ctrl-C among the hidden states; a kill behind a checkpoint; Ctrl-C among the steps."""
    out = tmp_path / "out"
    command = ["train", out, "--model", small / "model", "--config", small / "config.json"]

    def steps():
        return sorted(int(path.name[5:]) for path in (out / "checkpoints").glob("step-*[0-9]"))

    process = start(*command)
    said = stop(process, signal.SIGINT, lambda: list((out / "hidden").glob("*.pt")))
    assert process.returncode == 130
    assert "stopped with the hidden states of" in said
    assert "run the same command to continue" in said

    process = start(*command, "--no-cache")
    stop(process, signal.SIGKILL, steps)
    [*_, killed] = steps()
    assert killed % 3 == 0

    process = start(*command, "--no-cache")
    said = stop(process, signal.SIGINT, lambda: steps() and steps()[-1] > killed)
    assert process.returncode == 130
    [step] = steps()
    assert f"stopped at step {step:,} of 100,000; run the same command to continue" in " ".join(
        said.split()
    )
    assert "Traceback" not in said


@pytest.mark.slow
def test_a_stopped_evaluation_says_where_it_stands(small, tmp_path):
    out = tmp_path / "out"
    process = start(
        "eval", "--out", out, "--model", small / "model", "--editors", "ft-l", "--edits", "1"
    )
    said = stop(process, signal.SIGINT, lambda: list(out.rglob("records-*.jsonl")))
    assert process.returncode == 130
    assert "stopped at" in said
    assert "probes; run the same command to continue" in " ".join(said.split())


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "cannot read the settings in config.json"),
        ("[1,2]", "config.json is [1, 2]: give settings by name"),
        ("3", "config.json is 3: give settings by name"),
        ("null", "config.json is None: give settings by name"),
        ('{"trainig": {}}', "config.json: trainig is not a setting: did you mean training?"),
        (
            '{"training": "fast"}',
            "config.json: training is 'fast': it should be a valid dictionary",
        ),
        ('{"editor": [1]}', "config.json: editor is (1,): it should be a valid dictionary"),
        ('{"cases": 0}', "config.json: cases is 0: it should be greater than or equal to 1"),
        ('{"cases": true}', "config.json: cases is True: it should be a valid integer"),
        (
            '{"training": {"lr": "fast"}}',
            "config.json: training.lr is 'fast': it should be a valid number",
        ),
        ('{"training": {"batch_size": 0}}', "config.json: training.batch_size is 0"),
        ('{"training": {"checkpoint_every": 0}}', "config.json: training.checkpoint_every is 0"),
        (
            '{"training": {"steps": 99999999999999999999999}}',
            "it should be less than or equal to 1000000000",
        ),
        ('{"editor": {"module_dim": 9999999999}}', "it should be less than or equal to 1000000000"),
        (
            '{"training": {"steps": 2, "warmup": 100000000000000000000000000}}',
            "warmup is 100000000000000000000000000: it should be at most steps, which is 2",
        ),
        (
            '{"training": {"stpes": 5}}',
            "config.json: training.stpes is not a setting: did you mean steps?",
        ),
        ('{"training": {"schedule": "cosinus"}}', "it should be 'step' or 'cosine'"),
        (
            '{"editor": {"layer": "last"}}',
            "config.json: editor.layer is 'last': it should be a valid integer",
        ),
        (
            '{"editor": {"locality": "image"}}',
            "config.json: editor.locality is 'image': it should be a valid list",
        ),
        (
            '{"editor": {"drop": 2}}',
            "config.json: editor.drop is 2: it should be less than or equal to 1",
        ),
    ],
)
def test_a_wrong_file_of_settings_is_one_line(content, says, tmp_path, monkeypatch, capsys):
    (tmp_path / "config.json").write_text(content, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["liveedit", "train", "out", "--config", "config.json"])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr().err.strip()
    assert ended.value.code == 1
    assert says in said
    assert "\n" not in said
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


@pytest.mark.parametrize("name", ["liveedit", "serac"])
@pytest.mark.slow
def test_sizes_beyond_all_memory_are_one_line(name, small, tmp_path, monkeypatch, capsys):
    """Sizes beyond the addresses of any machine."""
    plan = {"editor": {"module_dim": 80_000_000}, "training": {"steps": 1, "batch_size": 2}}
    (tmp_path / "config.json").write_text(json.dumps(plan), encoding="utf-8")
    words = ["train", tmp_path / "out", "--config", tmp_path / "config.json", "--editor", name]
    monkeypatch.setattr(
        sys, "argv", ["liveedit", *map(str, words), "--model", str(small / "model")]
    )
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr().err.splitlines()[-1].strip()
    assert ended.value.code == 1
    assert re.fullmatch(
        r"error: there is not enough memory for \d+ bytes more: in a training lower module_dim.*",
        said,
    )
    assert not (tmp_path / "out").exists()
