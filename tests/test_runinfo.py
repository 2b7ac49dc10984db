"""Fingerprints of a run's data: what changes the digest, and names of images."""

from dataclasses import replace

import pytest
from PIL import Image

from liveedit.runinfo import asked_image_name, digest
from liveedit.types import Case, Probe, Query

EDIT = Query("Who?", "Ann", "a.png")
CASE = Case(
    "0",
    (EDIT,),
    (Probe("reliability", EDIT), Probe("text_locality", Query("What?", "this"), "before")),
)


def probed(metric="text_locality", prompt="What?", target="this", image=None, wanted="before"):
    return replace(
        CASE, probes=(CASE.probes[0], Probe(metric, Query(prompt, target, image), wanted))
    )


def test_an_image_is_called_by_its_path_or_its_name():
    picture = Image.new("RGB", (2, 2))
    assert asked_image_name(Query("?", image=picture)) == asked_image_name(Query("?")) == ""
    picture.info["name"] = "emblem:hand/flag-jp"
    assert asked_image_name(Query("?", image=picture)) == "emblem:hand/flag-jp"
    assert asked_image_name(EDIT) == "a.png"
    several = Query("?", image=["a.png", "b.png", "c.png"], about=1)
    assert asked_image_name(several) == "b.png"
    assert asked_image_name(replace(several, about=None)) == "c.png"


@pytest.mark.parametrize(
    "other",
    [
        replace(CASE, id="1"),
        replace(CASE, edits=(replace(EDIT, target="Bob"),)),
        replace(CASE, edits=(replace(EDIT, prompt="Who is it?"),)),
        replace(CASE, edits=(replace(EDIT, image="b.png"),)),
        replace(CASE, edits=(replace(EDIT, image=("b.png", "a.png")),)),
        probed(metric="image_locality"),
        probed(prompt="Which?"),
        probed(target="that"),
        probed(image="c.png"),
        probed(wanted="target"),
        replace(CASE, probes=(Probe("reliability", EDIT, aliases=("Anna",)), CASE.probes[1])),
    ],
)
def test_cases_that_say_something_else_have_another_digest(other):
    assert digest([CASE]) == digest([probed()]) != digest([other])


def test_the_order_of_cases_and_the_image_asked_about_are_told_apart():
    other = replace(CASE, id="1")
    assert digest([CASE, other]) != digest([other, CASE])
    several = [
        replace(CASE, edits=(Query("?", "x", ("a.png", "b.png"), about=n),)) for n in (0, 1, None)
    ]
    assert len({digest([case]) for case in several}) == 3
