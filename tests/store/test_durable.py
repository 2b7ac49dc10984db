"""Models whose edits are kept in a store: the same answers in every process, after every change."""

from io import BytesIO

import pytest
import torch
from PIL import Image

from helpers.samples import QUESTION
from helpers.shipped import SHIPPED
from liveedit.editable import EditableVLM
from liveedit.errors import Mismatch, StorageError
from liveedit.store.store import Change, Store
from liveedit.store.upkeep import verify
from liveedit.types import Query


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
