"""Sources of published benchmarks: names, and the subject of an image path."""

import pytest

from liveedit.data.published.sources import source
from liveedit.errors import UnknownName

VLKEB = source("vlkeb")


def test_a_subject_is_the_picture_in_mmedit_and_the_entity_in_vlkeb():
    e_vqa = source("e-vqa")
    original = e_vqa.subject("val2014/COCO_val2014_000000451435.jpg")
    assert original == e_vqa.subject(
        "val2014_image_rephrase/451435003_COCO_val2014_000000451435.png"
    )
    assert original != e_vqa.subject("val2014/COCO_val2014_000000451436.jpg")
    assert (
        VLKEB.subject("m.010bnr/google_13.jpg")
        == VLKEB.subject("m.010bnr/yahoo_4.jpg")
        == "m.010bnr"
    )


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(
        UnknownName, match=r"^unknown published benchmark 'vlkb': did you mean vlkeb\?$"
    ):
        source("vlkb")
