"""Families that read one image a prompt, and those that have no chats, say so in one line."""

import pytest

from liveedit.errors import BadInput, UnsupportedModel
from liveedit.models import FAMILIES, family
from liveedit.models.conformance.queries import SQUARE, WIDE
from liveedit.models.tiny import tiny
from liveedit.models.vlm import VLM
from liveedit.types import Query

SINGLE = [name for name in FAMILIES if family(name).single]


@pytest.mark.parametrize("name", SINGLE)
def test_several_images_in_one_prompt_are_refused_with_the_reason(name):
    vlm = tiny({"blip-2": "blip2"}.get(name, name))
    with pytest.raises(UnsupportedModel, match=f"several images in one prompt: {vlm.single}"):
        vlm.encode([Query("What?", image=[WIDE, SQUARE])])


@pytest.mark.parametrize("name", ["fuyu", "git", "kosmos-2", "kosmos-2.5", "paligemma"])
def test_the_chat_format_is_refused(name):
    vlm = tiny(name)
    with pytest.raises(BadInput, match="has no chat template: use the prompt format 'raw'"):
        VLM(vlm.model, vlm.processor, "chat")
