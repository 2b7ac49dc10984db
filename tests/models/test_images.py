import pytest
from PIL import Image

from liveedit.data.images import image_key, open_image
from liveedit.errors import BadInput


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "CMYK", "1"])
def test_every_mode_becomes_rgb(mode):
    assert open_image(Image.new(mode, (3, 2))).mode == "RGB"


def test_paths_and_strings(tmp_path):
    path = tmp_path / "red.png"
    Image.new("RGB", (3, 2), "red").save(path)
    for image in (path, str(path)):
        assert open_image(image).getpixel((0, 0)) == (255, 0, 0)


def test_a_photo_is_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (3, 2)).save(tmp_path / "turned.jpg", exif=exif)
    assert open_image(tmp_path / "turned.jpg").size == (2, 3)


def test_missing_broken_and_truncated(tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    Image.effect_noise((64, 64), 50).save(tmp_path / "whole.png")
    (tmp_path / "half.png").write_bytes((tmp_path / "whole.png").read_bytes()[:1500])
    cases = {
        "none.png": "no image at",
        "text.png": "is not an image",
        "half.png": "broken|cannot read",
        ".": "is a folder",
    }
    for name, reason in cases.items():
        with pytest.raises(BadInput, match=reason) as caught:
            open_image(tmp_path / name)
        assert "\n" not in str(caught.value)
        assert str(tmp_path) in str(caught.value)


def test_an_image_too_large_to_be_one(tmp_path, monkeypatch):
    Image.new("RGB", (64, 64)).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 16)
    with pytest.raises(BadInput, match="cannot read"):
        open_image(tmp_path / "bomb.png")


def test_a_picture_that_is_broken_in_memory(tmp_path):
    Image.effect_noise((64, 64), 50).save(tmp_path / "whole.png")
    (tmp_path / "half.png").write_bytes((tmp_path / "whole.png").read_bytes()[:1500])
    with Image.open(tmp_path / "half.png") as lazy, pytest.raises(BadInput, match="the image is broken"):
        open_image(lazy)


def test_keys_tell_images_apart(tmp_path):
    one, other = Image.new("RGB", (1, 1)), Image.new("RGB", (1, 1))
    assert image_key(one) == image_key(one) != image_key(other)
    assert image_key(tmp_path) == image_key(str(tmp_path))
