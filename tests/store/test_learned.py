"""The calibration of direct is kept with its edits, and read in place of the background."""

import pytest
import torch
from sqlalchemy import text

from helpers.samples import QUESTION
from liveedit.editable import EditableVLM
from liveedit.editors import new_editor
from liveedit.editors.direct import editor as direct
from liveedit.errors import BadInput
from liveedit.store.exchange import export, import_edits, merge
from liveedit.store.store import Store
from liveedit.types import Query

SETTINGS = {"images": 8, "steps": 5, "variants": 1}


@pytest.fixture
def opened(embedded_vlm, tmp_path):
    """A function that opens a store with a direct of its own, as another process would."""
    made = []

    def open_(name="edits.db"):
        editor = new_editor(embedded_vlm, "direct", SETTINGS)
        made.append(EditableVLM(embedded_vlm, editor, tmp_path / name))
        return made[-1]

    yield open_
    for model in made:
        model.store.close()


@pytest.fixture
def first(opened, flag):
    """A model whose store has an edit of direct."""
    model = opened()
    model.edit(Query(QUESTION, "Brazil", flag))
    return model


@pytest.fixture
def unreadable(first, monkeypatch):
    """From now on no background is read."""

    def refuse(*_):
        raise AssertionError("the background is read again")

    monkeypatch.setattr(direct, "read_background", refuse)


def logits(model, image):
    with model.vlm.patched(model.patch), torch.no_grad():
        return model.vlm.logits(model.vlm.encode([Query(QUESTION, image=image)]))


@pytest.mark.usefixtures("unreadable")
def test_it_is_read_in_place_of_the_background(first, opened, flag):
    other = opened()
    assert torch.equal(logits(other, flag), logits(first, flag))
    assert other.patch.threshold == first.patch.threshold


@pytest.mark.usefixtures("unreadable")
def test_who_opened_the_store_before_the_first_edit_reads_it_too(first, opened, flag, tmp_path):
    early = opened("late.db")
    assert early.edits == ()
    merge(early.store, Store(tmp_path / "edits.db"))
    assert torch.equal(logits(early, flag), logits(first, flag))


@pytest.mark.usefixtures("unreadable")
def test_it_goes_with_exported_edits(first, opened, flag, tmp_path):
    export(first.store, tmp_path / "edits.safetensors")
    other = opened("other.db")
    assert import_edits(other.store, tmp_path / "edits.safetensors") == 1
    assert torch.equal(logits(other, flag), logits(first, flag))


@pytest.mark.parametrize("damage", ["x'00'", "substr(content, 1, 200)"])
def test_damage_is_one_clear_line(first, opened, damage):
    with first.store.writing() as connection:
        connection.execute(text(f"UPDATE weights SET content = {damage}"))
    with pytest.raises(BadInput, match="what direct has learned is damaged in"):
        opened()
