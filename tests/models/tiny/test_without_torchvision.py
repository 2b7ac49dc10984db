"""Image processors that need torchvision, run on this package's few functions in its place."""

import sys

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import image_processing_backends

from liveedit.models.conformance.queries import SQUARE, WIDE
from liveedit.models.tiny.shrink import shrink
from liveedit.models.tiny.without_torchvision import (
    grayscale_to_rgb,
    normalize,
    pad,
    pil_to_tensor,
    resize,
    without_torchvision,
)

here = pytest.mark.skipif(
    image_processing_backends.is_torchvision_available(), reason="torchvision is installed"
)


@pytest.mark.parametrize("mode", [Image.Resampling.BILINEAR, Image.Resampling.BICUBIC])
def test_resizing_is_pillows(mode):
    ours = resize(pil_to_tensor(WIDE), (16, 24), mode)
    theirs = np.asarray(WIDE.resize((24, 16), mode), dtype=int)
    assert ours.dtype == torch.uint8
    assert np.abs(ours.movedim(0, -1).numpy().astype(int) - theirs).max() <= 2


def test_resizing_batches_and_real_numbers():
    images = torch.stack([pil_to_tensor(SQUARE)] * 2)
    assert torch.equal(resize(images, [8, 8])[1], resize(images[0], [8, 8]))
    assert resize(images / 255, [8, 8]).dtype == torch.float32


def test_padding_in_a_colour():
    padded = pad(torch.ones(2, 3, 2, 2), [1, 0, 2, 3], fill=[5, 6, 7])
    assert padded.shape == (2, 3, 5, 5)
    assert torch.equal(padded[:, :, :2, 1:3], torch.ones(2, 3, 2, 2))
    assert padded[0, :, 4, 4].tolist() == [5, 6, 7]
    assert pad(torch.ones(1, 1, 1), (0, 0, 1, 0), fill=-1.0).tolist() == [[[1, -1]]]


def test_normalising_and_colour():
    image = normalize(torch.full((3, 1, 1), 4.0), [1, 2, 3], [1, 2, 4])
    assert image.flatten().tolist() == [3, 1, 0.25]
    assert grayscale_to_rgb(torch.ones(1, 2, 2)).shape == (3, 2, 2)
    assert grayscale_to_rgb(torch.ones(4, 2, 2)).shape == (4, 2, 2)


@here
def test_no_module_of_the_stand_in_is_left():
    with without_torchvision():
        import torchvision.transforms.v2.functional as functional

        assert functional.resize is resize
    assert not [name for name in sys.modules if name.startswith("torchvision")]


def test_the_processors_own_rule_is_followed():
    _, processor = shrink("inkling2")
    made = processor.image_processor([WIDE, SQUARE], return_tensors="pt")
    assert made["image_grid_thw"].tolist() == [[1, 3, 4], [1, 2, 2]]
    corner = made["pixel_values"][0, 0, 0]
    torch.testing.assert_close(corner, pil_to_tensor(WIDE)[:, 0, 0] / 127.5 - 1)
    assert (made["pixel_values"][-1, -1, -1] < -1).all(), "padding is -1 of 255"
