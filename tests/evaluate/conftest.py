"""Cases about drawn pictures, for tiny models."""

import pytest
from PIL import Image, ImageDraw

from liveedit.types import Case, Probe, Query

ANSWERS = ("Japan", "Casablanca", "Elvis Presley", "the movie", "a flag", "song")


def draw(number):
    image = Image.new("RGB", (30, 30), (40 * number % 256, 90, 200 - 30 * number % 200))
    ImageDraw.Draw(image).ellipse((number % 9, 5, 20, 25), fill=(250, 20 * number % 256, 10))
    image.info["name"] = f"drawn:{number}"
    return image


def make_case(number):
    edit = Query(
        "What is the country with this flag?", ANSWERS[number % len(ANSWERS)], draw(number)
    )
    return Case(
        f"case:{number}",
        (edit,),
        (
            Probe("reliability", edit),
            Probe("text_generality", Query("Which country is it?", edit.target, edit.image)),
            Probe(
                "image_locality",
                Query("Which film is it?", "Casablanca", draw(number + 100)),
                "before",
                note="far",
            ),
            Probe("text_locality", Query("who sang the song"), "before"),
        ),
    )


def make_cases(count):
    return [make_case(number) for number in range(count)]


@pytest.fixture(scope="session")
def cases():
    return make_cases


@pytest.fixture(scope="session")
def vlm():
    from liveedit.models.tiny import tiny

    return tiny("llava")
