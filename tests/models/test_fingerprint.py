"""Fingerprints: the same for a model in any precision."""

import pytest
import torch

from liveedit.editors import new_editor
from liveedit.errors import Mismatch
from liveedit.models.tiny import tiny
from liveedit.models.vlm import VLM


def test_a_checkpoint_of_half_precision_is_the_same_model_in_any(saved):
    half = tiny("llava")
    half.model.half().save_pretrained(saved)
    own, single = VLM.load(saved), VLM.load(saved, dtype=torch.float32)
    assert (own.dtype, single.dtype) == (torch.float16, torch.float32)
    assert own.fingerprint == single.fingerprint != tiny("llava").fingerprint


@pytest.mark.parametrize(
    ("dtype", "before"),
    [
        (torch.bfloat16, "54fac84f2a611f6cd6a73201be00d512d5ff8f80f7796e6a76a5fd61063a73db"),
        (torch.float16, "10f0fe6e0f4260e5e04290130ebb02b9c8c8c10f8350ddf8cabbef8149075fb8"),
    ],
)
def test_a_model_in_half_precision_is_known_as_it_was_before(dtype, before, tmp_path):
    """Earlier versions hashed half precision as it is; edits and editors saved by them open."""
    full = tiny("llava")
    half = VLM(tiny("llava").model.to(dtype), full.processor)
    assert half.known_as(before)
    assert half.known_as(half.fingerprint)
    assert not half.known_as("0" * 64)
    assert not full.known_as(before)
    editor = new_editor(half, "ft-l")
    editor.require_same_origin({"editor": editor.fingerprint, "model": before}, tmp_path)
    with pytest.raises(Mismatch, match="another model"):
        editor.require_same_origin({"editor": editor.fingerprint, "model": "0" * 64}, tmp_path)
    with pytest.raises(Mismatch, match="another editor"):
        editor.require_same_origin({"editor": "0" * 64, "model": before}, tmp_path)
