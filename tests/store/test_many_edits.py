"""Stores of enough edits for sketches: those opened later answer as the process that made them."""

import pytest
import torch
from sqlalchemy import text

from helpers.samples import BLUE, GREEN, QUESTION, RED
from liveedit.editable import EditableVLM
from liveedit.editors import new_editor
from liveedit.editors.common import sketch
from liveedit.store import rows as stored_rows
from liveedit.store.durable import DurablePool
from liveedit.types import Query

IMAGES = (RED, GREEN, BLUE)
KEYS = ("vision_keys", "text_keys")
ASKED = [Query(QUESTION, image=RED), Query(QUESTION, image=GREEN), Query("Which city?", image=RED)]
pytestmark = pytest.mark.one_in(2)


@pytest.fixture(params=["liveedit", "pinpoint", pytest.param("direct", marks=pytest.mark.slow)])
def editor(request, vlm, monkeypatch):
    """An editor whose keys are sketched from four edits on."""
    monkeypatch.setattr(sketch, "LEAST", 4)
    return new_editor(vlm, request.param, {} if request.param == "direct" else {"margin": -5.0})


@pytest.fixture
def opened(vlm, editor, url):
    """Opens the store once more, as another process would."""
    made = []

    def make():
        made.append(EditableVLM(vlm, editor, url))
        return made[-1]

    yield make
    for model in made:
        model.store.close()


def fired(model):
    with model.vlm.patched(model.patch):
        replies = model.vlm.answers(ASKED, max_new_tokens=2)
    return [(reply.text, reply.fired) for reply in replies]


def edits(first, count):
    return [
        Query(f"{QUESTION} {number}", f"Answer {number}", IMAGES[number % 3])
        for number in range(first, first + count)
    ]


def test_a_store_opens_without_reading_the_keys(editor, opened, monkeypatch):
    model = opened()
    for number in range(8):
        model.edit(edits(number, 1))
    basis = model.store.basis(editor.fingerprint)
    assert basis.learned_from == 4
    assert [number for number, _ in model.store.sketches(basis.number)] == list(range(1, 9))
    other = opened()
    read = []
    original = other.store.rows
    monkeypatch.setattr(
        other.store, "rows", lambda numbers, part: read.extend(numbers) or original(numbers, part)
    )
    assert len(other.patch) == 8
    assert read == []
    assert fired(other) == fired(model)
    assert any(edits for _, edits in fired(other))
    assert all(torch.equal(other.patch.bank[name], model.patch.bank[name]) for name in KEYS)


def test_both_go_on_with_more_edits_and_fewer(opened):
    model = opened()
    made = model.edit(edits(0, 6))
    other = opened()
    other.edit(edits(6, 2))
    model.edit(edits(8, 1))
    assert fired(other) == fired(model)
    model.forget(made[2].id)
    other.forget([made[0].id, made[5].id])
    assert [edit.prompt for edit in other.edits] == [edit.prompt for edit in model.edits]
    assert len(other.patch) == 6
    expected = fired(model)
    assert fired(other) == expected
    assert fired(opened()) == expected


def test_edits_without_a_sketch_are_read_whole(opened, monkeypatch):
    model = opened()
    model.edit(edits(0, 5))
    with monkeypatch.context() as patched:
        patched.setattr(stored_rows.Rows, "sketch_new", lambda *_: None)
        model.edit(edits(5, 2))
    model.edit(edits(7, 1))
    assert fired(opened()) == fired(model)


def test_a_basis_is_learned_anew_for_more_edits(editor, opened):
    model = opened()
    model.edit(edits(0, 4))
    model.edit(edits(4, 12))
    basis = model.store.basis(editor.fingerprint)
    assert basis.learned_from == 16
    assert len(model.store.sketches(basis.number)) == 16
    assert fired(opened()) == fired(model)


def test_an_edit_does_not_read_the_others(opened, monkeypatch):
    model = opened()
    model.edit(edits(0, 5))
    monkeypatch.setattr(DurablePool, "_read_whole", None)
    monkeypatch.setattr(model.store, "kept", None)
    assert model.edit(edits(5, 1))[0].took is not None


def test_a_damaged_sketch_or_basis_hides_no_edit(editor, opened):
    model = opened()
    model.edit(edits(0, 6))
    expected = fired(model)
    for table in ("sketches", "bases"):
        with model.store.database.writing() as connection:
            first = connection.execute(text(f"SELECT content FROM {table}")).scalar()
            zeros = {"content": bytes(len(first))}
            connection.execute(text(f"UPDATE {table} SET content = :content"), zeros)
        assert fired(opened()) == expected
