"""In a chat, edits are found by the last question, as if nothing had been said before it."""

import pytest
import torch

from helpers.samples import QUESTION
from liveedit.editable import EditableVLM
from liveedit.editors import new_editor
from liveedit.types import Query, Turn

ASKED_BEFORE = (Turn("user", "Which thing is this?", 1), Turn("assistant", "A flag."))
TOLD = (Turn("system", "Answer in one word."),)


@pytest.fixture(scope="module")
def flag(emblem):
    return emblem.drawing("twemoji", "flag-jp")


@pytest.fixture(scope="module", params=["direct", "liveedit", "pinpoint"])
def model(request, embedded_vlm, shipped_editor, flag):
    if request.param == "direct":
        editor = new_editor(embedded_vlm, "direct", {"images": 16, "steps": 10, "variants": 1})
    else:
        editor = shipped_editor(request.param)
    made = EditableVLM(embedded_vlm, editor)
    made.edit(Query(QUESTION, "Brazil", flag))
    return made


def scores(model, query):
    """How near a query comes to the edit."""
    [firing] = [*(found := model.explain(query, max_new_tokens=1)).fired, *found.near]
    return firing.image, firing.question


def test_what_was_said_before_makes_no_difference(model, flag, emblem):
    expected = scores(model, Query(QUESTION, image=flag))
    other = emblem.drawing("twemoji", "flag-fr")
    for chat in (
        Query(QUESTION, image=flag, earlier=TOLD),
        Query(QUESTION, image=flag, earlier=ASKED_BEFORE),
        Query(QUESTION, image=[other, flag], earlier=(*TOLD, *ASKED_BEFORE)),
    ):
        assert scores(model, chat) == pytest.approx(expected, abs=1e-4)
        [firing] = model.explain(chat, max_new_tokens=1).fired
        assert firing.edit.target == "Brazil"


def test_images_that_were_shown_before_fire_nothing(model, flag, emblem):
    other = emblem.drawing("twemoji", "flag-fr")
    chat = Query(QUESTION, image=[flag, other], earlier=ASKED_BEFORE)
    assert model.explain(chat, max_new_tokens=1).fired == ()
    assert model.generate(chat) == model.unedited(chat)


def test_rows_of_a_batch_do_not_depend_on_each_other(model, flag):
    asked = [Query(QUESTION, image=flag), Query(QUESTION, image=flag, earlier=ASKED_BEFORE)]
    alone = [model.generate(query)[0] for query in asked]
    assert model.generate(asked) == alone


def test_an_edit_may_be_made_in_a_chat(model, emblem):
    other = emblem.drawing("twemoji", "flag-nz")
    chat = Query(QUESTION, "Norway", other, earlier=ASKED_BEFORE)
    with torch.no_grad():
        [made] = model.edit(chat)
    for query in (Query(QUESTION, image=other), Query(QUESTION, image=other, earlier=TOLD)):
        assert [one.edit.id for one in model.explain(query, max_new_tokens=1).fired] == [made.id]
    model.forget(made.id)
