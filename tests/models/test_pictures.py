"""Images that a processor refuses are named in one line; small images are read correctly."""

import pytest
import torch
from PIL import Image

from liveedit.errors import BadInput, UnsupportedModel
from liveedit.models.tiny import tiny
from liveedit.types import Query

SLIM = (603, 3)


@pytest.mark.parametrize("model_type", ["qwen2_vl", "qwen3_vl", "lfm3_vl", "mistral3", "fuyu"])
def test_a_picture_that_the_processor_refuses_is_named_in_one_line(model_type, tmp_path):
    vlm = tiny(model_type)
    file = tmp_path / "slim.png"
    Image.new("RGB", SLIM).save(file)
    for image, name in ((file, str(file)), (Image.new("RGB", SLIM), "the image of 603 × 3 pixels")):
        with pytest.raises(BadInput, match="cut or scale it to another shape") as caught:
            vlm.encode([Query("What is it?", "a line", image)])
        assert name in str(caught.value)
        assert str(caught.value).isprintable()


def test_of_several_pictures_the_one_at_fault_is_named(tmp_path):
    vlm = tiny("qwen3_vl")
    for name, size in (("square.png", (32, 32)), ("slim.png", SLIM)):
        Image.new("RGB", size).save(tmp_path / name)
    with pytest.raises(BadInput, match=r"refuses the image .*slim\.png"):
        vlm.encode([Query("What?", "a line", [tmp_path / "square.png", tmp_path / "slim.png"])])


def test_a_processor_that_takes_no_image_is_not_blamed_on_the_image(monkeypatch):
    vlm = tiny("llava")
    monkeypatch.setattr(vlm.processor, "patch_size", None)
    with pytest.raises(UnsupportedModel, match="takes no image at all"):
        vlm.encode([Query("What is it?", "a line", Image.new("RGB", (32, 32)))])


@pytest.mark.parametrize("model_type", ["llava", "video_llava", "emu3"])
@pytest.mark.parametrize("size", [(1, 1), (3, 3), (64, 3), (64, 1), (3, 64)])
def test_rows_of_a_small_picture_are_not_taken_for_colours(model_type, size):
    picture = Image.linear_gradient("L").resize(size).convert("RGB")
    picture.paste((255, 0, 0), (0, 0, size[0] // 2, size[1]))
    vlm = tiny(model_type)
    small, large = (
        vlm.open_and_process([image])[0]
        for image in (picture, picture.resize((size[0] * 8, size[1] * 8), 0))
    )
    [name] = [name for name, value in large.items() if value.is_floating_point()]
    if small[name].shape == large[name].shape:
        assert (
            torch.corrcoef(torch.stack([small[name].flatten(), large[name].flatten()]))[0, 1] > 0.8
        )
    else:
        assert model_type == "emu3"
        assert small[name].shape[1] == 3
