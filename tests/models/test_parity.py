"""Spans, logits and hidden states equal those of LiveEdit's released code on a tiny LLaVA."""

import json
import os
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from liveedit.models.vlm import VLM
from liveedit.types import Query

FOLDER = Path(
    os.environ.get("LIVEEDIT_PARITY_DIR", Path(__file__).parents[1] / "assets" / "parity")
)


@pytest.fixture(scope="module")
def recorded():
    golden = json.loads((FOLDER / "liveedit-llava" / "golden.json").read_text(encoding="utf-8"))[
        "queries"
    ]
    tensors = load_file(FOLDER / "liveedit-llava" / "golden.safetensors")
    images = [Image.fromarray(pixels.numpy()) for pixels in tensors["images"]]
    queries = [Query(row["prompt"], row["target"], images[row["image_index"]]) for row in golden]
    return VLM.load(FOLDER / "tiny-llava"), queries, golden, tensors


UNEDITED = 8
"""Queries whose logits are recorded: the first so many."""


@pytest.mark.parametrize("side", ["left", "right"])
def test_logits_and_hidden_states(recorded, side):
    vlm, queries, golden, tensors = recorded
    batch = vlm.encode(queries, padding_side=side)
    logits = vlm.logits(batch)
    hidden = vlm.hidden(batch, 3).hidden
    for index, (row, span) in enumerate(zip(golden, batch.spans, strict=True)):
        real = slice(span.start, span.stop)
        assert span.shift(-span.start).image == tuple(row["vision_range"])
        if index < UNEDITED:
            torch.testing.assert_close(
                logits[index, real], tensors[f"q{index:02d}.base_logits"][0], atol=1e-4, rtol=0
            )
        torch.testing.assert_close(
            hidden[index, real], tensors[f"q{index:02d}.layer_hidden"][0], atol=1e-5, rtol=0
        )
