"""`liveedit train`, run as a user runs it: the same command makes the same editor, another seed another one."""

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

SETTINGS = {
    "editor": {"layer": 5, "module_dim": 16, "heads": 4},
    "training": {"steps": 2, "batch_size": 2, "cache": False},
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The weights of trainings that ran in processes of their own, by the seed asked for; ``None`` is the default."""
    folder = tmp_path_factory.mktemp("trained")
    config = folder / "config.json"
    config.write_text(json.dumps(SETTINGS), encoding="utf-8")
    running = {}
    for name, seed in {"default": None, "zero": 0, "one": 1}.items():
        command = [sys.executable, "-m", "liveedit", "train", folder / name, "--config", config]
        command += [] if seed is None else ["--seed", seed]
        running[name] = subprocess.Popen([str(word) for word in command], stdout=subprocess.DEVNULL)
    assert [process.wait() for process in running.values()] == [0, 0, 0]
    return {name: load_file(folder / name / "editor.safetensors") for name in running}


def test_the_same_command_makes_the_same_editor_bit_for_bit(trained):
    assert trained["default"].keys() == trained["zero"].keys()
    assert all(torch.equal(trained["default"][name], weight) for name, weight in trained["zero"].items())


def test_another_seed_makes_another_editor(trained):
    same = [torch.equal(trained["one"][name], weight) for name, weight in trained["zero"].items() if weight.dim() > 1]
    assert not any(same)
