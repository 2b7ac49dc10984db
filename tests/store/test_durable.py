"""Models whose edits are kept in a store: the same answers in every process, after every change."""

import copy
from io import BytesIO
from pathlib import Path

import pytest
import torch
from PIL import Image
from sqlalchemy import text

from helpers.samples import QUESTION
from helpers.shipped import SHIPPED
from liveedit.editable import EditableVLM, default_editor, load
from liveedit.editors import new_editor
from liveedit.editors.common.shelf import ShelvedBank
from liveedit.errors import BadInput, Mismatch, StorageError
from liveedit.store.exchange import merge
from liveedit.store.store import Change, Store
from liveedit.store.upkeep import verify
from liveedit.types import Query

TINY = Path(__file__).parents[1] / "assets" / "parity" / "tiny-llava"


@pytest.fixture
def file(tmp_path):
    return tmp_path / "edits.db"


@pytest.fixture
def open_model(embedded_vlm, shipped_editor, file):
    """A function that opens the store with a method's editor."""
    opened = []

    def open_(name="pinpoint"):
        opened.append(EditableVLM(embedded_vlm, shipped_editor(name), file))
        return opened[-1]

    yield open_
    for model in opened:
        model.store.close()


@pytest.fixture
def asked(flag, emblem):
    """Queries that edits act on, and one that none does."""
    other = emblem.drawing("twemoji", "emoji-1f34c")
    return [
        Query(QUESTION, image=flag),
        Query("Tell me the country with this flag.", image=emblem.drawing("noto", "emoji-1f34c")),
        Query("What is the thing in this picture?", image=other),
    ]


def logits(model, asked):
    with model.vlm.patched(model.patch), torch.no_grad():
        return [model.vlm.logits(model.vlm.encode([query])) for query in asked]


def same(first, second):
    return all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


@pytest.mark.of_every_method("method")
@pytest.mark.parametrize("method", SHIPPED)
def test_another_opens_what_one_keeps(method, open_model, asked, flag, emblem):
    one = open_model(method)
    unedited = logits(one, asked)
    [first] = one.edit(Query(QUESTION, "Brazil", flag), who="ann", why="a test")
    after_first = logits(one, asked)
    one.edit(Query(QUESTION, "Norway", emblem.drawing("twemoji", "flag-fr")))
    other = open_model(method)
    assert other.history == one.history
    assert other.edits[0].who == "ann"
    assert same(logits(other, asked), logits(one, asked))
    other.forget(other.edits[1].id)
    assert same(logits(one, asked), after_first)
    assert same(logits(open_model(method), asked), after_first)
    one.forget(first.id)
    assert same(logits(other, asked), unedited)


def test_what_one_changes_the_other_sees_at_once(open_model, flag):
    one = open_model()
    other = open_model()
    [edit] = one.edit(Query(QUESTION, "Brazil", flag))
    assert other.generate(Query(QUESTION, image=flag)) == ["Brazil"]
    assert [firing.edit for firing in other.explain(Query(QUESTION, image=flag)).fired] == [edit]
    [later] = other.edit(Query(QUESTION, "Norway", flag))
    assert one.generate(Query(QUESTION, image=flag)) == ["Norway"]
    assert [row.superseded_by for row in one.history] == [later.id, ""]
    assert one.forget(later.id) == [later]
    assert other.generate(Query(QUESTION, image=flag)) == ["Brazil"]


def test_what_weights_no_longer_hold_is_kept_as_such(open_model, flag):
    """A superseded edit is dropped from weights that are made again."""
    one = open_model("ft-l")
    for answer in ("Brazil", "Norway"):
        one.edit(Query(QUESTION, answer, flag))
    assert [edit.held for edit in one.history] == [False, True]
    other = open_model("ft-l")
    assert other.history == one.history
    assert other.generate(Query(QUESTION, image=flag)) == ["Norway"]


def test_conflicts_are_those_of_one_process(open_model, model, flag, emblem):
    """Of two answers about images that look alike the later one overrules, in a store, too."""
    queries = [
        Query(QUESTION, answer, emblem.drawing(artist, "flag-jp"))
        for artist, answer in (("twemoji", "Brazil"), ("cif", "Norway"))
    ]
    for query in queries:
        model.edit(query)
        open_model().edit(query)
    kept = open_model()
    assert [row.conflicts != () for row in kept.history] == [
        row.conflicts != () for row in model.history
    ]
    assert kept.generate(queries) == model.generate(queries)


def test_images_and_thumbnails_are_kept(open_model, tmp_path, flag):
    flag.save(tmp_path / "flag.jpg", quality=80)
    content = (tmp_path / "flag.jpg").read_bytes()
    model = open_model()
    model.edit([Query(QUESTION, "Brazil", tmp_path / "flag.jpg"), Query(QUESTION, "Peru", flag)])
    first, second = model.store.kept()
    assert model.store.images(first.number) == [content]
    [picture] = model.store.images(second.number)
    assert Image.open(BytesIO(picture)).tobytes() == flag.tobytes()
    thumbnail = Image.open(BytesIO(model.store.thumbnail(first.number)))
    assert thumbnail.format == "JPEG"
    assert max(thumbnail.size) <= 160


def test_a_change_that_is_not_kept_does_not_act(open_model, flag, monkeypatch):
    model = open_model()
    before = model.generate(Query(QUESTION, image=flag))

    def fail(*_args, **_kwargs):
        raise StorageError("the disk is full: free some space")

    with monkeypatch.context() as patch:
        patch.setattr(Change, "add", fail)
        with pytest.raises(StorageError, match="disk is full"):
            model.edit(Query(QUESTION, "Brazil", flag))
    assert model.generate(Query(QUESTION, image=flag)) == before
    assert model.history == ()
    model.edit(Query(QUESTION, "Brazil", flag))
    assert len(model.store.kept()) == 1


def test_another_model_s_store_is_named(open_model, flag, file, vlm):
    open_model().edit(Query(QUESTION, "Brazil", flag))
    from liveedit.editors import new_editor

    with pytest.raises(Mismatch, match="another model"):
        EditableVLM(vlm, new_editor(vlm, "ft-l"), Store(file))


def test_another_prompt_format_is_named(open_model, flag, file, monkeypatch):
    open_model().edit(Query(QUESTION, "Brazil", flag))
    monkeypatch.setattr(open_model().vlm, "prompt_format", "vlkeb")
    with pytest.raises(Mismatch, match=r"another prompt format \(.*\)"):
        open_model()


@pytest.mark.of_every_method("method")
@pytest.mark.parametrize("method", SHIPPED)
def test_a_folder_is_loaded_into_a_store(
    method, embedded_vlm, shipped_editor, open_model, asked, flag, tmp_path
):
    folder = tmp_path / "folder"
    former = EditableVLM(embedded_vlm, shipped_editor(method))
    former.edit(Query(QUESTION, "Brazil", flag))
    former.save(folder)
    open_model(method).load(folder)
    kept = open_model(method)
    assert [edit.target for edit in kept.edits] == ["Brazil"]
    assert same(logits(kept, asked), logits(former, asked))
    assert verify(kept.store) == []
    kept.forget(kept.edits[0].id)
    assert open_model(method).edits == ()


def test_an_edit_that_fails_makes_no_store(open_model, file, flag, monkeypatch):
    def fail(*_):
        raise MemoryError

    model = open_model()
    with monkeypatch.context() as patch:
        patch.setattr(type(model.editor), "edit", fail)
        with pytest.raises(MemoryError):
            model.edit(Query(QUESTION, "Brazil", flag))
    assert not file.exists()
    assert model.edits == ()


def rows_read(store, monkeypatch):
    """A list to which the parts and numbers of all rows that a store reads are added."""
    read = []
    original = store.rows

    def rows(numbers, part):
        read.append((part, list(numbers)))
        return original(numbers, part)

    monkeypatch.setattr(store, "rows", rows)
    return read


def test_factors_are_read_when_they_fire(open_model, asked, flag, emblem, monkeypatch):
    one = open_model()
    one.edit(Query(QUESTION, "Brazil", flag))
    one.edit(Query(QUESTION, "Norway", emblem.drawing("twemoji", "flag-fr")))
    other = open_model()
    read = rows_read(other.store, monkeypatch)
    assert len(other.patch) == 2
    assert [part for part, _ in read] == ["keys"]
    other.generate(asked[2])
    assert "factors" not in [part for part, _ in read]
    assert other.generate(Query(QUESTION, image=flag)) == ["Brazil"]
    other.generate([Query(QUESTION, image=flag), *asked])
    assert read.count(("factors", [int(other.kept.numbers[0])])) == 1
    assert same(logits(other, asked), logits(one, asked))


def test_factors_made_here_are_not_read(open_model, flag, monkeypatch):
    model = open_model()
    read = rows_read(model.store, monkeypatch)
    model.edit(Query(QUESTION, "Brazil", flag))
    assert model.generate(Query(QUESTION, image=flag)) == ["Brazil"]
    assert read == []


@pytest.mark.of_every_method("method")
@pytest.mark.parametrize("method", ["pinpoint", "liveedit"])
def test_answers_are_those_of_a_bank_in_memory(
    method, embedded_vlm, shipped_editor, open_model, asked, flag, emblem
):
    queries = [
        Query(QUESTION, "Brazil", flag),
        Query(QUESTION, "Norway", emblem.drawing("twemoji", "flag-fr")),
        Query("What is the capital?", "Lima", flag),
    ]
    memory = EditableVLM(embedded_vlm, shipped_editor(method))
    for query in queries:
        memory.edit(query)
        open_model(method).edit(query)
    kept = open_model(method)
    assert isinstance(kept.patch.bank, ShelvedBank)
    everything = [*asked, *queries]
    assert same(logits(kept, everything), logits(memory, everything))
    assert kept.patch.nbytes == memory.patch.nbytes


def test_a_damaged_factor_is_named_and_stops_only_its_own_answers(open_model, asked, flag):
    one = open_model()
    before = one.generate(asked[2])
    [edit] = one.edit(Query(QUESTION, "Brazil", flag))
    with one.store.database.writing() as connection:
        connection.execute(text("UPDATE experts SET factors = :other"), {"other": b"damaged"})
    other = open_model()
    assert other.generate(asked[2]) == before
    with pytest.raises(BadInput, match=f"edit {edit.id} .* is damaged"):
        other.generate(Query(QUESTION, image=flag))
    other.forget(edit.id)
    assert other.edits == ()


def test_a_copy_and_a_trial_share_the_bank(open_model, flag, emblem):
    model = open_model()
    model.edit(Query(QUESTION, "Brazil", flag))
    where = model.patch.bank["vision_keys"].data_ptr()
    twin = copy.deepcopy(model)
    assert twin.patch.bank["vision_keys"].data_ptr() == where
    assert twin.generate(Query(QUESTION, image=flag)) == ["Brazil"]
    twin.edit(Query(QUESTION, "Norway", flag))
    assert twin.generate(Query(QUESTION, image=flag)) == ["Norway"]
    assert model.generate(Query(QUESTION, image=flag)) == ["Brazil"]
    assert model.try_edit(Query(QUESTION, "Peru", flag), among=[]).after == "Peru"
    assert [edit.target for edit in model.edits] == ["Brazil"]


@pytest.mark.families("llava")
def test_a_store_whose_edits_are_taken_back_is_free_for_another_model(vlm, open_model, file, flag):
    one = open_model()
    one.edit(Query(QUESTION, "Brazil", flag))
    editor = new_editor(vlm, "grace")
    with pytest.raises(Mismatch, match="were made on another model"):
        EditableVLM(vlm, editor, file)
    one.forget([edit.id for edit in one.history])
    assert default_editor("llava", one.store) == "direct"
    other = EditableVLM(vlm, editor, file)
    [made] = other.edit(Query(QUESTION, "Norway", flag))
    assert EditableVLM(vlm, editor, file).history == (made,)
    with pytest.warns(UserWarning, match="some edits do not act"):
        assert one.generate(Query(QUESTION, image=flag)) == ["Japan"]
    with pytest.raises(Mismatch, match="were made on another model"):
        one.edit(Query(QUESTION, "Kenya", flag))


def test_edits_of_one_editor_on_another_model_do_not_act(vlm, embedded_vlm, file, tmp_path, flag):
    """An editor without training is the same on every model."""
    one = EditableVLM(embedded_vlm, new_editor(embedded_vlm, "grace"), file)
    other = EditableVLM(vlm, new_editor(vlm, "grace"), tmp_path / "other.db")
    other.edit(Query(QUESTION, "Norway", flag))
    assert merge(one.store, other.store) == 1  # the store is empty, and no model opens it
    with pytest.warns(UserWarning, match="some edits do not act"):
        assert one.history == ()
    with pytest.raises(Mismatch, match="were made on another model"):
        one.edit(Query(QUESTION, "Brazil", flag))


def test_a_store_opens_in_the_dtype_of_its_edits(file, flag):
    one = load(TINY, "grace", file)
    one.edit(Query(QUESTION, "Brazil", flag))
    message = "on this model in its default dtype, not in bfloat16: load it without --dtype"
    with pytest.raises(Mismatch, match=message):
        load(TINY, "grace", file, dtype=torch.bfloat16)
    one.forget(one.history[0].id)
    load(TINY, "grace", file, dtype=torch.bfloat16).edit(Query(QUESTION, "Brazil", flag))
    message = "on this model in bfloat16, not in float32: load it with --dtype bfloat16"
    with pytest.raises(Mismatch, match=message):
        load(TINY, "grace", file)
