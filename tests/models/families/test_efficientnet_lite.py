"""The embedded model's vision tower."""

import subprocess
import sys

import pytest
import torch
from torch.nn import functional as F

from liveedit.editable import embedded
from liveedit.models.families.efficientnet_lite import (
    EfficientNetLite,
    EfficientNetLiteConfig,
    SameConv,
)


@pytest.mark.parametrize(
    ("size", "kernel", "stride"), [(8, 3, 1), (8, 3, 2), (7, 3, 2), (8, 5, 2), (9, 5, 2), (4, 1, 1)]
)
def test_same_padding_puts_the_odd_pixel_right_and_below(size, kernel, stride):
    torch.manual_seed(0)
    conv = SameConv(2, 3, kernel, stride)
    x = torch.randn(1, 2, size, size)
    out = -(-size // stride)
    total = max((out - 1) * stride + kernel - size, 0)
    padded = torch.zeros(1, 2, size + total, size + total)
    padded[..., total // 2 : total // 2 + size, total // 2 : total // 2 + size] = x
    expected = F.conv2d(padded, conv.weight, conv.bias, stride=stride)
    assert expected.shape[-1] == out
    torch.testing.assert_close(conv(x), expected)


def test_an_image_becomes_a_grid_of_tokens():
    tower = EfficientNetLite(EfficientNetLiteConfig()).eval()
    pixels = torch.randn(2, 3, 128, 128)
    with torch.no_grad():
        out = tower(pixels)
        split = tower.late(tower.early(pixels, 15), 15)
    assert out.last_hidden_state.shape == (2, 16, 1280)
    torch.testing.assert_close(split, out.last_hidden_state)


@pytest.mark.slow
def test_auto_classes_read_the_embedded_checkpoint_after_importing_liveedit():
    code = (
        "import liveedit\n"
        "from transformers import AutoModelForImageTextToText\n"
        f"model = AutoModelForImageTextToText.from_pretrained({str(embedded('vlm'))!r})\n"
        "print(type(model).__name__, type(model.model.vision_tower).__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["LlavaForConditionalGeneration", "EfficientNetLite"]


def test_the_embedded_model_knows_its_flags(embedded_vlm, emblem):
    from liveedit.types import Query

    asked = [
        Query("What is the country with this flag?", image=emblem.drawing("twemoji", f"flag-{c}"))
        for c in ("jp", "fr", "br")
    ]
    assert embedded_vlm.generate(asked) == ["Japan", "France", "Brazil"]
