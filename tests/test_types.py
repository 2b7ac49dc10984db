import pytest

from liveedit.errors import BadInput
from liveedit.types import Query


def test_images_and_the_one_asked_about():
    assert Query("?").images == Query("?").asked == ()
    assert Query("?", image="a.png").images == Query("?", image="a.png").asked == ("a.png",)
    several = Query("?", image=["a.png", "b.png", "c.png"])
    assert several.images == ("a.png", "b.png", "c.png")
    assert several.asked == ("c.png",)
    assert Query("?", image=several.image, about=0).asked == ("a.png",)
    assert Query("?", image=several.image, about=None).asked == several.images


def test_a_list_of_one_image_is_that_image_and_an_empty_one_is_none():
    assert Query("?", image=["a.png"]).image == "a.png"
    assert Query("?", image=[]).image is None


@pytest.mark.parametrize("about", [2, -3])
def test_a_place_without_an_image_is_refused(about):
    with pytest.raises(BadInput, match=f"no image {about} among 2"):
        Query("?", image=["a.png", "b.png"], about=about)
