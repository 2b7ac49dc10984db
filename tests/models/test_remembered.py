"""Fingerprints of checkpoints are found once by reading the weights, and remembered."""

import shutil
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from liveedit.models.remembered import remembered
from liveedit.models.tiny import tiny
from liveedit.models.vlm import VLM

FOUND = "5" * 64


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """The user's data folder."""
    monkeypatch.setenv("LIVEEDIT_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def read():
    """A function that finds a fingerprint, and has a list of how often it was called."""
    calls = []

    def compute():
        calls.append(1)
        return FOUND

    compute.calls = calls
    return compute


@pytest.fixture
def folder(saved, tmp_path):
    """A checkpoint whose files may change."""
    return shutil.copytree(saved, tmp_path / "model")


@pytest.mark.parametrize("family", ["llava", "qwen3_vl"])
def test_an_outline_has_the_model_s_fingerprint_and_facts(family, tmp_path):
    whole = tiny(family)
    whole.model.save_pretrained(tmp_path / family)
    whole.processor.save_pretrained(tmp_path / family)
    outline = VLM.outline(tmp_path / family, torch.float32)
    assert all(weight.is_meta for weight in outline.model.parameters())
    assert outline.fingerprint == whole.fingerprint
    assert str(outline).replace("meta", "cpu") == str(whole)


def test_the_weights_are_read_once_and_again_where_a_file_has_changed(folder, read):
    for _ in range(2):
        assert remembered(folder, "float32", read) == FOUND
    assert len(read.calls) == 1
    remembered(folder, "float16", read)
    assert len(read.calls) == 2
    weights = folder / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))  # of the same size
    remembered(folder, "float32", read)
    assert len(read.calls) == 3


def test_many_at_once_read_the_weights_once(folder, read):
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda _: remembered(folder, "float32", read), range(16)))
    assert (set(found), len(read.calls)) == ({FOUND}, 1)


def test_a_damaged_file_is_replaced(folder, read, home):
    remembered(folder, "float32", read)
    [kept] = (home / "fingerprints").glob("?" * 64)
    kept.write_text("5555")
    assert remembered(folder, "float32", read) == FOUND
    assert (kept.read_text(), len(read.calls)) == (FOUND, 2)


def test_where_nothing_can_be_kept_the_weights_are_read_each_time(folder, read, home, caplog):
    home.write_text("a file")
    for _ in range(2):
        assert remembered(folder, "float32", read) == FOUND
    assert len(read.calls) == 2
    assert "the model's fingerprint is not kept" in caplog.text
