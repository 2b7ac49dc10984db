"""Edits as a file, merged stores, damages found, space given back."""

import random
from dataclasses import replace
from io import BytesIO

import pytest
from PIL import Image
from sqlalchemy import text

from liveedit.data.images import images_hash
from liveedit.errors import BadInput, Mismatch
from liveedit.store import exchange
from liveedit.store.exchange import export, import_edits, merge
from liveedit.store.store import Hit, Maker, Store
from liveedit.store.upkeep import compact, stand_alone, take_back, verify
from store.conftest import MAKER, add, content, new_edit


def picture(number):
    """A picture and its file."""
    image = Image.new("RGB", (8, 8), (number, 20, 90))
    stream = BytesIO()
    image.save(stream, "PNG")
    return image, stream.getvalue()


def add_shown(store, *numbers):
    """Add edits with images."""
    rows = []
    with store.change("edit", "ann") as change:
        maker = change.maker(MAKER).number
        for number in numbers:
            image, file = picture(number)
            edit = new_edit(number, image=images_hash([image]), who="ann", why="wrong")
            rows.append(
                change.add(edit, maker, images=[file], thumbnail=b"t", text="x", **content(number))
            )
    return rows


def whole(store):
    """All that a store keeps of its edits."""
    rows = store.kept()
    numbers = [row.number for row in rows]
    return [
        (row.edit, keys, factors, words, store.images(row.number), store.thumbnail(row.number))
        for row, keys, factors, words in zip(
            rows,
            store.rows(numbers, "keys"),
            store.rows(numbers, "factors"),
            store.texts(numbers),
            strict=True,
        )
    ]


@pytest.fixture
def other(tmp_path):
    made = Store(tmp_path / "other.db")
    yield made
    made.close()


def test_a_file_brings_edits_into_another_store(store, other, tmp_path):
    add_shown(store, 1, 2, 3)
    file = tmp_path / "edits.safetensors"
    assert export(store, file) == 3
    assert import_edits(other, file) == 3
    assert whole(other) == whole(store)
    assert import_edits(other, file) == 0
    assert import_edits(store, file) == 0
    assert [maker.identity for maker in other.makers()] == [MAKER.identity]


def test_a_selection_is_given_by_beginnings_of_ids(store, other, tmp_path):
    _, second, third = add_shown(store, 1, 2, 3)
    export(store, tmp_path / "some", [third.edit.id[:8], second.edit.id])
    import_edits(other, tmp_path / "some")
    assert [edit.id for edit in other.edits()] == [third.edit.id, second.edit.id]
    with pytest.raises(BadInput, match="no edit 'zzz'"):
        export(store, tmp_path / "more", ["zzz"])
    assert not (tmp_path / "more").exists()


def test_an_existing_file_is_not_replaced(store, tmp_path):
    add_shown(store, 1)
    (tmp_path / "notes").write_text("mine")
    with pytest.raises(BadInput):
        export(store, tmp_path / "notes")
    assert (tmp_path / "notes").read_text() == "mine"


def test_damaged_files_are_refused_whole(store, other, tmp_path):
    add_shown(store, 1, 2)
    file = tmp_path / "edits"
    export(store, file)
    content = file.read_bytes()
    chance = random.Random(0)
    for number in range(20):
        broken = bytearray(content)
        if number % 2:
            broken = broken[: chance.randrange(len(broken))]
        else:
            broken[chance.randrange(len(broken))] ^= 255
        file.write_bytes(broken)
        with pytest.raises(BadInput):
            import_edits(other, file)
        assert other.kept() == []


def test_a_changed_listing_is_refused(store, other, tmp_path):
    add_shown(store, 1)
    file = tmp_path / "edits"
    export(store, file)
    whole_file = file.read_bytes()
    for was, becomes in ((b"answer 1", b"answer 2"), (b"pinpoint", b"liveedit"), (b"ann", b"bob")):
        assert was in whole_file
        file.write_bytes(whole_file.replace(was, becomes))
        with pytest.raises(BadInput, match="its content is not what was saved"):
            import_edits(other, file)


def test_merging_adds_what_is_missing(store, other):
    shared = add_shown(store, 1)
    merge(other, store)
    add_shown(store, 2)
    add_shown(other, 3)
    assert merge(store, other) == 1
    assert merge(other, store) == 1
    assert {row.edit.id for row in store.kept()} == {row.edit.id for row in other.kept()}
    assert shared[0].edit.id in store.ids()
    assert merge(store, other) == 0


ELSEWHERE = {
    "on another model \\(llava\\), those in .* on emblem": {
        "model_fingerprint": "model-2",
        "opens_with": {"model": "llava"},
    },
    "on another model \\(emblem bfloat16\\), those in .* on emblem:": {
        "model_fingerprint": "model-2",
        "opens_with": {"model": "emblem", "dtype": "bfloat16"},
    },
    "emblem with the weights model-2\\), those in .* with model-1": {
        "model_fingerprint": "model-2"
    },
    "another prompt format \\(chat\\), those in .* with raw": {
        "opens_with": {"model": "emblem", "prompt_format": "chat"}
    },
    "by recipe, those in .* by pinpoint, and these do not mix": {
        "editor": "recipe",
        "editor_fingerprint": "editor-2",
    },
}
"""Fields of a maker whose edits cannot be with those of another, by the message."""


def add_by(store, maker, number):
    with store.change("edit") as change:
        return change.add(new_edit(number), change.maker(maker).number, **content(number))


@pytest.mark.parametrize("message", ELSEWHERE)
def test_edits_that_cannot_be_together_are_refused_by_name(store, other, tmp_path, message):
    own = replace(MAKER, opens_with={"model": "emblem", "prompt_format": "raw"})
    ours = add_by(store, own, 1)
    theirs = add_by(other, replace(own, **ELSEWHERE[message]), 2)
    export(other, tmp_path / "edits")
    before = store.version
    for refused in (lambda: merge(store, other), lambda: import_edits(store, tmp_path / "edits")):
        with pytest.raises(Mismatch, match=message):
            refused()
    assert (store.version, [row.edit.id for row in store.kept()]) == (before, [ours.edit.id])
    take_back(store, None)
    assert merge(store, other) == 1  # nothing is left that they would have to fit
    assert [row.edit.id for row in store.kept()] == [theirs.edit.id]


def test_a_merge_adds_all_or_nothing(store, other, monkeypatch):
    monkeypatch.setattr(exchange, "BATCH", 2)
    rows = add_shown(other, 1, 2, 3, 4, 5)
    with other.database.writing() as connection:
        statement = text("UPDATE experts SET factors = keys WHERE edit = :number")
        connection.execute(statement, {"number": rows[-1].number})
    with pytest.raises(BadInput, match="tensors are damaged"):
        merge(store, other)
    assert (store.kept(), store.version) == ([], 0)
    take_back(other, [rows[-1].edit.id])
    assert merge(store, other) == 4
    assert whole(store) == whole(other)


def test_what_was_taken_back_does_not_come_back(store, other):
    [row] = add_shown(store, 1)
    merge(other, store)
    with store.change("forget") as change:
        change.forget([row.number])
    assert merge(store, other) == 0
    assert store.kept() == []


def test_weights_that_hold_all_edits_are_not_moved(store, tmp_path):
    with store.change("edit") as change:
        maker = change.maker(Maker("ft-l", "e", "m"))
        change.add(new_edit(1), maker.number)
    with pytest.raises(BadInput, match="ft-l holds all edits in its weights"):
        export(store, tmp_path / "file")


def test_a_whole_store_has_no_damages(store):
    add_shown(store, 1, 2)
    assert verify(store) == []


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("UPDATE experts SET factors = keys WHERE edit = :number", "tensors are damaged"),
        ("DELETE FROM experts WHERE edit = :number", "tensors are missing"),
        ("UPDATE edits SET answer = 'other' WHERE number = :number", "texts are damaged"),
        ("DELETE FROM images WHERE edit = :number", "images are damaged"),
    ],
)
def test_damages_are_named(store, statement, message):
    first, second = add_shown(store, 1, 2)
    with store.database.writing() as connection:
        connection.execute(text(statement), {"number": second.number})
    found = verify(store)
    assert found
    assert all(message in line and second.edit.id in line for line in found)
    assert first.edit.id not in "".join(found)


def test_compacting_keeps_history_and_what_is_in_force(store):
    first, second = add_shown(store, 1, 2)
    with store.change("forget") as change:
        change.forget([first.number])
    store.record_hits([Hit(second.number, 1.0, str(time)) for time in range(1005)])
    before = whole(store)
    assert compact(store) == 1
    assert compact(store) == 0
    assert whole(store) == before
    assert verify(store) == []
    assert store.images(first.number) == []
    assert [row.edit.id for row in store.kept(first.made_in)] == [first.edit.id, second.edit.id]
    assert len(store.hits(second.number, 2000)) == 1000
    assert store.hits(second.number, 1)[0].time == "1004"


def test_compacting_makes_the_file_smaller(tmp_path):
    store = Store(tmp_path / "edits.db")
    rows = add(store, *range(3))
    with store.change("edit") as change:
        maker = change.maker(MAKER).number
        large = change.add(new_edit(9), maker, images=[b"\1" * 3_000_000], **content(9))
    with store.change("forget") as change:
        change.forget([large.number])
    compact(store)
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < 1_000_000
    assert len(store.kept()) == len(rows)
    store.close()


def test_edits_are_taken_back_without_their_model(store):
    first, second, third = add(store, 1, 2, 3)
    with pytest.raises(BadInput, match="no edit 'zz'"):
        take_back(store, [first.edit.id, "zz"], "ann")
    assert len(store.kept()) == 3
    assert take_back(store, [first.edit.id[:11], first.edit.id], "ann") == 1
    with pytest.raises(BadInput, match=f"edit {first.edit.id} is taken back already"):
        take_back(store, [first.edit.id])
    assert [row.number for row in store.kept()] == [second.number, third.number]
    assert store.find(first.edit.id).forgotten_in == store.version
    assert take_back(store, None) == 2
    assert store.kept() == []


def test_edits_in_common_weights_do_not_stand_alone(store):
    add(store, 1)
    assert stand_alone(store)
    with store.change("edit") as change:
        weights = change.maker(Maker("lora", "editor-2", "model-1"))
        change.add(new_edit(2), weights.number)
    assert not stand_alone(store)
