"""The checks themselves: broken models fail, and what a model may refuse is skipped."""

import pytest

from liveedit.models.conformance.assertions import Broken, NotApplicable
from liveedit.models.conformance.contract import CHECKS, examine
from liveedit.models.tiny import tiny


@pytest.mark.parametrize("model_type", ["llava", "qwen2_vl", "llava_next"])
def test_images_in_another_order_fail(model_type, monkeypatch):
    vlm = tiny(model_type)
    check = CHECKS["images_of_a_batch_follow_one_another"]
    check(vlm)
    join = vlm.join
    monkeypatch.setattr(vlm, "join", lambda parts: join(parts[::-1]))
    with pytest.raises(Broken, match="the images' parts in another order"):
        check(vlm)


def test_a_missing_image_fails(monkeypatch):
    vlm = tiny("llava")
    join = vlm.join
    monkeypatch.setattr(vlm, "join", lambda parts: join(parts[:1]))
    with pytest.raises(Broken, match="has not every image's part"):
        CHECKS["images_of_a_batch_follow_one_another"](vlm)


@pytest.mark.parametrize(
    "name",
    [
        "each_of_several_images_has_its_span",
        "several_images_are_read_as_by_the_processor",
        "several_images_in_a_batch",
    ],
)
def test_several_images_that_a_model_refuses_are_skipped_with_the_reason(name):
    vlm = tiny("git")
    with pytest.raises(NotApplicable, match="GIT puts one before its text"):
        CHECKS[name](vlm)
    (finding,) = examine(vlm, [name])
    assert finding.reason is None
    assert "GIT puts one before its text" in finding.skipped


def test_a_check_that_holds_is_not_skipped():
    (finding,) = examine(tiny("llava"), ["several_images_in_a_batch"])
    assert (finding.reason, finding.skipped) == (None, None)
