"""Emu3: codes of images of several sizes."""

import torch

from liveedit.models.conformance.queries import SQUARE, WIDE
from liveedit.models.tiny import tiny
from liveedit.types import Query


def test_padding_changes_no_code_of_an_image():
    vlm = tiny("emu3")
    batch = vlm.encode([Query("?", image=image) for image in (WIDE, SQUARE)])
    codes = vlm.model.model.get_image_tokens(
        batch.inputs["pixel_values"], batch.inputs["image_sizes"]
    )
    alone = [vlm.encode([Query("?", image=image)]).inputs for image in (WIDE, SQUARE)]
    assert batch.inputs["pixel_values"].shape[-2:] != alone[0]["pixel_values"].shape[-2:]
    expected = [
        vlm.model.model.get_image_tokens(one["pixel_values"], one["image_sizes"]) for one in alone
    ]
    assert torch.equal(codes, torch.cat(expected))
