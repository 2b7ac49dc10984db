"""Which edits fired and which are listed, where many edits fire on one question."""

import pytest

from helpers.samples import noise
from helpers.tiny_settings import SMALL
from liveedit.editable import EditableVLM
from liveedit.editors import new_editor
from liveedit.types import Query

EDITS = [Query(f"What is number {i}?", f"answer {i}", noise(i)) for i in range(5)]


@pytest.fixture
def model(vlm):
    """A model on which every expert fires."""
    settings = SMALL["liveedit"] | {"margin": -1e3}
    return EditableVLM(vlm, new_editor(vlm, "liveedit", settings))


def test_the_edit_that_weighs_most_is_named_first(model):
    made = model.edit(EDITS)
    orders = []
    for query in EDITS:
        fired = model.explain(query).fired
        assert {firing.edit.id for firing in fired} == {edit.id for edit in made}
        weights = [firing.weight for firing in fired]
        assert weights == sorted(weights, reverse=True)
        assert len(set(weights)) > 1
        orders.append([firing.edit.id for firing in fired])
    assert orders != [[edit.id for edit in made]] * len(EDITS), (
        "else the order made would do as well"
    )


def test_without_edits_the_answer_is_the_unedited(model):
    query = EDITS[0]
    found = model.explain(query)
    assert found.answer == found.unedited == model.unedited(query)[0]
    assert found.fired == found.near == ()


@pytest.mark.parametrize("gone", [(0,), (1, 3), (4,), (0, 1, 2, 3, 4)])
def test_what_is_left_is_listed_and_explained_as_if_the_rest_had_never_been(model, gone):
    made = model.edit(EDITS)
    assert list(model.edits) == made
    model.forget([made[place].id for place in gone])
    left = [place for place in range(5) if place not in gone]
    assert model.edits == tuple(made[place] for place in left)
    assert len(model.patch) == len(left)
    other = EditableVLM(model.vlm, model.editor)
    if left:
        other.edit([EDITS[place] for place in left])
    for query in EDITS[:2]:
        found = model.explain(query).fired
        wanted = other.explain(query).fired
        targets = [firing.edit.target for firing in wanted]
        assert [firing.edit.target for firing in found] == targets
        assert [firing.weight for firing in found] == pytest.approx(
            [firing.weight for firing in wanted], rel=1e-4
        )
