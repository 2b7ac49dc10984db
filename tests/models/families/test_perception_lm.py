"""PerceptionLM: images of many tiles and of few."""

import torch

from liveedit.models.conformance.queries import SQUARE, WIDE
from liveedit.models.tiny import tiny
from liveedit.types import Query


def test_tiles_of_several_images_follow_one_another():
    vlm = tiny("perception_lm")
    wide, square = (
        vlm.encode([Query("?", image=image)]).inputs["pixel_values"] for image in (WIDE, SQUARE)
    )
    assert wide.shape[1] > square.shape[1] > 1
    both = vlm.encode([Query("?", image=[WIDE, SQUARE])]).inputs["pixel_values"]
    assert torch.equal(both, torch.cat([wide, square], 1))
