"""Versions of transformers that pass arguments otherwise are noticed when a model is loaded."""

from pathlib import Path

import pytest
import torch
import transformers
from torch import nn
from transformers import LlamaModel, LlavaModel

from liveedit.editable import EditableVLM
from liveedit.editors import new_editor
from liveedit.errors import UnsupportedModel
from liveedit.models.calls import CACHE, TESTED, cache_of
from liveedit.models.tiny import tiny
from liveedit.models.vlm import VLM


@pytest.fixture(scope="module")
def folder(tmp_path_factory, save_checkpoint):
    """A checkpoint of LLaVA."""
    return save_checkpoint(tiny("llava"), tmp_path_factory.mktemp("llava"))


def with_arguments(monkeypatch, change):
    """Have ``change`` made to the arguments of every call of LLaVA's text decoder."""

    def call(self, *args, **kwargs):
        return nn.Module.__call__(self, *args, **change(kwargs))

    monkeypatch.setattr(LlamaModel, "__call__", call)


def test_the_calls_that_loading_makes(folder, monkeypatch):
    lengths = []

    def seen(kwargs):
        lengths.append(kwargs["inputs_embeds"].shape[1])
        return kwargs

    with_arguments(monkeypatch, seen)
    VLM.load(folder)
    # One call for the image's states, then the probe's: twelve passes, one of them in two halves.
    assert len(lengths) == 1 + 13
    assert lengths.count(1) == 4


def test_a_model_that_was_not_loaded_here_is_probed_before_it_is_edited(monkeypatch):
    vlm = tiny("llava")
    editor = new_editor(vlm, "grace")
    with_arguments(monkeypatch, lambda kwargs: kwargs | {"attention_mask": None})
    with pytest.raises(UnsupportedModel, match="cannot be edited"):
        EditableVLM(vlm, editor)


@pytest.mark.parametrize(
    "given", [{"cache": 1}, {"past_key_values": 1}, {"cache": None, "past_key_values": 1}]
)
def test_a_cache_is_found_under_either_name(given):
    assert cache_of(given) == 1
    assert cache_of({"past_key_values": None, "cache": None} | given) == 1


def test_a_cache_by_another_name_is_noticed(folder, monkeypatch):
    own = LlamaModel.forward

    def forward(self, *args, memory=None, **kwargs):
        return own(self, *args, **{CACHE: memory}, **kwargs)

    monkeypatch.setattr(LlamaModel, "forward", forward)
    with_arguments(
        monkeypatch,
        lambda kwargs: {"memory" if name == CACHE else name: kwargs[name] for name in kwargs},
    )
    refused(folder, "without a cache argument")


def test_a_cache_that_is_lost_is_noticed(folder, monkeypatch):
    with_arguments(monkeypatch, lambda kwargs: kwargs | {CACHE: None})
    refused(folder)


def test_a_mask_that_is_lost_is_noticed(folder, monkeypatch):
    with_arguments(monkeypatch, lambda kwargs: kwargs | {"attention_mask": None})
    refused(folder)


def test_positions_that_restart_are_noticed(folder, monkeypatch):
    def anew(kwargs):
        length = kwargs["inputs_embeds"].shape[1]
        return kwargs | (
            {"position_ids": torch.zeros(1, 1, dtype=torch.long)} if length == 1 else {}
        )

    with_arguments(monkeypatch, anew)
    refused(folder, "generation and whole forward passes differ by")


def test_a_change_behind_the_decoder_is_noticed(folder, monkeypatch):
    own = LlavaModel.forward

    def forward(self, *args, **kwargs):
        output = own(self, *args, **kwargs)
        output.last_hidden_state = 2 * output.last_hidden_state
        return output

    monkeypatch.setattr(LlavaModel, "forward", forward)
    refused(folder, "resume and whole forward passes differ by")


def refused(folder, words=""):
    """Loading raises one line that names both versions and the reason."""
    with pytest.raises(UnsupportedModel) as caught:
        VLM.load(folder)
    text = str(caught.value)
    assert transformers.__version__ in text
    assert f"{TESTED} was tested" in text
    assert words in text
    assert "\n" not in text


def test_the_tested_version_is_the_one_in_the_constraints():
    lines = (Path(__file__).parents[2] / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert f"transformers=={TESTED}" in lines
