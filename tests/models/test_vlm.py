"""VLM: the choice of a family, and models that no family can wrap."""

import subprocess
import sys
from types import SimpleNamespace

import pytest

from liveedit.errors import UnsupportedModel
from liveedit.models.tiny import tiny
from liveedit.models.vlm import VLM


def test_wrapping_a_model_of_no_family():
    model = SimpleNamespace(config=SimpleNamespace(model_type="mamba"))
    with pytest.raises(UnsupportedModel, match="'mamba'"):
        VLM(model, None)


WITHOUT_TORCHVISION = """
import sys

sys.modules["torchvision"] = None

from PIL import Image

from liveedit.models.vlm import VLM
from liveedit.types import Query

query = Query("What?", image=Image.new("RGB", (40, 40)))
VLM.load(sys.argv[1]).generate([query], max_new_tokens=2)
"""


@pytest.mark.slow
def test_qwen_needs_no_torchvision(tmp_path, save_checkpoint):
    folder = save_checkpoint(tiny("qwen2_vl"), tmp_path)
    command = [sys.executable, "-c", WITHOUT_TORCHVISION, str(folder)]
    subprocess.run(command, check=True, capture_output=True)


def test_blip2_with_an_encoder_decoder_is_refused():
    config = SimpleNamespace(model_type="blip-2", use_decoder_only_language_model=False)
    with pytest.raises(UnsupportedModel, match="encoder-decoder"):
        VLM(SimpleNamespace(config=config), None)


def test_blip2_without_image_token_is_refused():
    config = SimpleNamespace(
        model_type="blip-2", use_decoder_only_language_model=True, image_token_id=None
    )
    with pytest.raises(UnsupportedModel, match="no image token"):
        VLM(SimpleNamespace(config=config), None)
