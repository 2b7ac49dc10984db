"""Generation under an edit, by every editor that ships, on every version of transformers."""

import pytest

from helpers.samples import QUESTION
from helpers.shipped import SHIPPED
from liveedit import Query
from liveedit.data.emblem import Emblem
from liveedit.editable import EditableVLM
from liveedit.models.conformance.reference import cut, greedy

NOT_TAKEN = ["grace", "liveedit"]
"""Editors whose edit does not take on the embedded model, as they report."""
FLAG = Emblem().drawing("twemoji", "flag-jp")


@pytest.fixture(scope="module", params=SHIPPED)
def edited(request, embedded_vlm, shipped_editor):
    """The embedded model, edited to answer several tokens."""
    model = EditableVLM(embedded_vlm, shipped_editor(request.param))
    model.edit(Query(QUESTION, "New Zealand", FLAG))
    return model


def test_generation_equals_whole_forward_passes(edited):
    asked = Query(QUESTION, image=FLAG)
    [answer] = edited.generate(asked, max_new_tokens=6)
    [edit] = edited.edits
    assert edit.took == (answer == "New Zealand") == (edited.editor.name not in NOT_TAKEN)
    with edited.vlm.patched(edited.patch):
        assert answer == cut(edited.vlm, greedy(edited.vlm, asked, 6))
