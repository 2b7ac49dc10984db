"""Stores whose edits several editors made: all of them hold, and the last word is the owner's."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import replace
from functools import cache
from itertools import permutations
from pathlib import Path

import pytest
import torch

from helpers.samples import QUESTION
from liveedit.editable import EditableVLM, default_editor, embedded, load
from liveedit.editors import load_editor, new_editor
from liveedit.errors import BadInput, Mismatch
from liveedit.store.browsing import page
from liveedit.store.exchange import export, import_edits, merge
from liveedit.store.store import Store
from liveedit.store.upkeep import verify
from liveedit.types import Query

MIXING = ["grace", "liveedit", "pinpoint", "serac"]
FORMER = Path(__file__).parents[1] / "assets" / "pool-1"


@pytest.fixture
def file(tmp_path):
    return tmp_path / "edits.db"


@pytest.fixture(scope="module")
def shipped(embedded_vlm):
    """A function that loads an editor that ships, once."""
    return cache(lambda name: load_editor(embedded_vlm, embedded(name)))


@pytest.fixture
def opened(embedded_vlm, shipped, file):
    """A function that opens a store with an editor, given itself or as one that ships."""
    made = []

    def open_(editor="pinpoint", where=file):
        if isinstance(editor, str):
            editor = shipped(editor)
        made.append(EditableVLM(embedded_vlm, editor, where))
        return made[-1]

    yield open_
    for model in made:
        model.store.close()


@pytest.fixture
def pictures(emblem):
    return [emblem.drawing("twemoji", name) for name in ("flag-jp", "flag-fr", "flag-nz")]


@pytest.fixture
def asked(pictures):
    return [Query(QUESTION, image=picture) for picture in pictures]


def about(picture, answer):
    return Query(QUESTION, answer, picture)


@torch.no_grad()
def logits(model, asked):
    with model.vlm.patched(model.patch):
        return [model.vlm.logits(model.vlm.encode([query])) for query in asked]


def same(first, second):
    return all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


def fired(model, query):
    return [firing.edit.id for firing in model.explain(query, max_new_tokens=1).fired]


def goes_from_one_editor_to_another(opened, one, other, pictures, asked):
    """Make edits with both, the last of a question that the first has answered; take all back."""
    early, late = opened(one), opened(other)
    unedited = logits(early, asked)
    [first] = early.edit(about(pictures[0], "Brazil"))
    before = logits(early, asked)
    assert same(logits(late, asked), before)
    [second] = late.edit(about(pictures[1], "Norway"))
    both = logits(late, asked)
    [third] = late.edit(about(pictures[0], "Kenya"))
    after = logits(late, asked)
    for model in (early, opened(one), opened(other)):
        assert [edit.superseded_by for edit in model.history] == [third.id, "", ""]
        assert model.edits == (second, third)
        assert same(logits(model, asked), after)
    assert fired(early, asked[0]) == [third.id]
    early.forget(third.id)
    assert all(same(logits(model, asked), both) for model in (early, late))
    late.forget(second.id)
    assert all(same(logits(model, asked), before) for model in (early, late))
    early.forget(first.id)
    assert all(same(logits(model, asked), unedited) for model in (early, opened(other)))
    assert verify(late.store) == []
    assert [row.edit.id for row in late.store.kept(at=3)] == [first.id, second.id, third.id]


def test_the_edits_of_two_editors_hold_in_one_store(opened, pictures, asked):
    goes_from_one_editor_to_another(opened, "liveedit", "pinpoint", pictures, asked[:2])


@pytest.mark.slow
@pytest.mark.parametrize("pair", [*permutations(MIXING, 2)], ids="-".join)
def test_so_do_those_of_any_two(pair, opened, pictures, asked):
    goes_from_one_editor_to_another(opened, *pair, pictures, asked)


def test_one_begins_without_training_and_goes_on_with_a_trained_editor(
    opened, embedded_vlm, pictures, asked
):
    """The settings of a method without training are kept, so that it opens by itself."""
    early = opened(new_editor(embedded_vlm, "direct", {"images": 8, "steps": 10, "variants": 1}))
    early.edit(about(pictures[0], "Brazil"))
    model = opened()
    model.edit(about(pictures[1], "Norway"))
    assert [type(part.editor).__name__ for part in model.patch.parts] == ["Pinpoint", "Direct"]
    assert model.generate(asked) == ["Brazil", "Norway", *model.unedited(asked[2])]
    found = model.explain(asked[0])
    assert [(firing.edit.target, firing.weight) for firing in found.fired] == [("Brazil", 1.0)]
    assert [firing.edit.target for firing in found.near] == ["Norway"]
    with model.disabled():
        assert model.generate(asked) == model.unedited(asked)
    trial = model.try_edit(about(pictures[2], "Kenya"), asked[:2])
    assert (trial.after, trial.changes) == ("Kenya", ())
    assert [edit.target for edit in model.edits] == ["Brazil", "Norway"]
    assert [told.editor for told in page(model.store)[0]] == ["pinpoint", "direct"]


def test_of_edits_that_contradict_each_other_the_later_overrules(opened, emblem):
    """Also if another editor made it; taking it back undoes that."""
    first, later = (emblem.drawing(artist, "flag-jp") for artist in ("twemoji", "cif"))
    early, late = opened("liveedit"), opened("pinpoint")
    [made] = late.edit(about(first, "Brazil"))
    [against] = early.edit(about(later, "Norway"))
    assert against.conflicts == (made.id,)
    assert fired(late, about(first, "")) == [against.id]
    early.forget(against.id)
    assert fired(late, about(first, "")) == [made.id]


@pytest.mark.slow
def test_a_check_holds_each_editor_to_the_rate_that_it_states(opened, embedded_vlm, pictures):
    """Edits of liveedit, which states none, fire on the background; those of direct as stated."""
    settings = {"images": 64, "steps": 10, "variants": 1, "false_firing": 0.2}
    direct = opened(new_editor(embedded_vlm, "direct", settings))
    direct.edit(about(pictures[0], "Brazil"))
    eager = load_editor(embedded_vlm, embedded("liveedit"))
    eager.config = replace(eager.config, margin=-1e9)
    model = opened(eager)
    assert {finding.kind for finding in model.check()} <= {"does_not_take"}
    [made] = model.edit(about(pictures[1], "Norway"))
    found = [row.edits for row in model.check() if row.kind == "fires_on_background"]
    assert [edit.id for [edit] in found] == [made.id]


def test_edits_move_between_stores_with_their_editors(opened, pictures, asked, tmp_path):
    opened("liveedit").edit(about(pictures[0], "Brazil"))
    model = opened("pinpoint")
    model.edit(about(pictures[1], "Norway"))
    export(model.store, tmp_path / "edits.safetensors")
    expected = logits(model, asked)
    imported = opened("pinpoint", tmp_path / "imported.db")
    assert imported.import_edits(tmp_path / "edits.safetensors") == 2
    assert same(logits(imported, asked), expected)
    merged = opened("liveedit", tmp_path / "merged.db")
    merged.edit(about(pictures[2], "Kenya"))
    assert merge(merged.store, model.store) == 2
    assert [fired(merged, query) for query in asked] == [
        [edit.id] for edit in (*model.history, merged.history[0])
    ]


def test_a_folder_of_a_former_editor_goes_on_with_the_present_one(opened, emblem):
    model = opened()
    model.load(FORMER)
    for again in (model, opened()):
        asked = Query(QUESTION, image=emblem.drawing("twemoji", "flag-jp"))
        assert again.generate(asked) == ["Papua New Guinea"]
    again.edit(about(emblem.drawing("twemoji", "flag-fr"), "Norway"))
    assert opened().generate(Query(QUESTION, image=emblem.drawing("twemoji", "flag-fr"))) == [
        "Norway"
    ]
    assert [maker.editor for maker in again.store.makers_of_edits()] == ["pinpoint", "pinpoint"]


def test_a_mixed_pool_is_copied_but_not_saved_to_a_folder(opened, pictures, asked, tmp_path):
    opened("liveedit").edit(about(pictures[0], "Brazil"))
    model = opened("pinpoint")
    model.edit(about(pictures[1], "Norway"))
    other = deepcopy(model)
    other.edit(about(pictures[2], "Kenya"))
    assert other.generate(asked) == ["Brazil", "Norway", "Kenya"]
    assert model.generate(asked[2]) == model.unedited(asked[2])
    with pytest.raises(BadInput, match="keep them in a store"):
        model.save(tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


def test_methods_that_do_not_mix_are_refused_by_name(opened, pictures, tmp_path):
    opened("pinpoint").edit(about(pictures[0], "Brazil"))
    for method in ("ft-l", "ike"):
        with pytest.raises(Mismatch, match=rf"\(pinpoint\), which does not mix with {method}: "):
            opened(method)
    opened("ft-l", tmp_path / "other.db").edit(about(pictures[0], "Brazil"))
    with pytest.raises(Mismatch, match=r"\(ft-l\), which does not mix with pinpoint: load that"):
        opened("pinpoint", tmp_path / "other.db")


@pytest.fixture
def moved(embedded_vlm, file, pictures, tmp_path):
    """The folder of an editor that made an edit of the store."""
    folder = tmp_path / "trained"
    load_editor(embedded_vlm, embedded("liveedit")).save_pretrained(folder)
    model = EditableVLM(
        embedded_vlm, load_editor(embedded_vlm, folder), file, {"editor": str(folder)}
    )
    [made] = model.edit(about(pictures[0], "Brazil"))
    model.store.close()
    return folder, made.id


def test_an_editor_that_is_gone_or_was_changed_is_named(opened, moved, embedded_vlm, asked):
    folder, id = moved
    assert opened("pinpoint").generate(asked[0]) == ["Brazil"]
    other = folder.rename(folder.parent / "elsewhere")
    with pytest.raises(Mismatch) as gone:
        opened("pinpoint")
    assert str(gone.value).count("\n") == 0
    assert f"({id}) were made by the editor in {folder}, which no longer exists" in str(gone.value)
    assert opened(load_editor(embedded_vlm, other)).generate(asked[0]) == ["Brazil"]
    changed = load_editor(embedded_vlm, other)
    with torch.no_grad():
        changed.norm.weight.add_(0.1)
    changed.save_pretrained(folder)
    with pytest.raises(Mismatch, match=rf"\({id}\) were made by {folder} before it was trained"):
        opened("pinpoint")


def test_a_running_process_goes_on_without_an_editor_that_it_lacks(
    opened, pictures, asked, embedded_vlm, shipped, file
):
    model = opened("pinpoint")
    model.edit(about(pictures[0], "Brazil"))
    other = EditableVLM(embedded_vlm, shipped("liveedit"), file, {"editor": "/elsewhere/editor"})
    other.edit(about(pictures[1], "Norway"))
    with pytest.warns(UserWarning, match="some edits do not act: .* /elsewhere/editor"):
        assert model.generate(asked[:2]) == ["Brazil", *model.unedited(asked[1])]
    with pytest.raises(Mismatch, match="no longer exists"):
        model.edit(about(pictures[2], "Kenya"))
    assert [fired(other, query) for query in asked[:2]] == [[edit.id] for edit in other.history]
    other.store.close()


def test_the_editor_of_the_newest_edit_makes_the_next_one(shipped, embedded_vlm, file, pictures):
    made = []
    for name in ("liveedit", "pinpoint", "liveedit"):
        opens_with = {"model": "emblem", "editor": name}
        model = EditableVLM(embedded_vlm, shipped(name), file, opens_with)
        made += model.edit(about(pictures[len(made)], "Brazil"))
    assert default_editor("emblem", model.store) == "liveedit"
    assert default_editor("another/model", model.store) == "direct"
    model.forget(made[2].id)
    assert default_editor("emblem", model.store) == "pinpoint"
    model.store.close()
    reopened = load(store=file)
    assert reopened.editor.name == "pinpoint"
    assert [edit.id for edit in reopened.edits] == [edit.id for edit in made[:2]]
    reopened.store.close()


def test_threads_answer_while_another_editor_edits(opened, pictures, asked):
    early, late = opened("liveedit"), opened("pinpoint")
    early.edit(about(pictures[0], "Brazil"))
    with ThreadPoolExecutor(3) as threads:
        answers = [threads.submit(early.generate, asked[0]) for _ in range(8)]
        for answer in ("Norway", "Kenya"):
            late.edit(about(pictures[1], answer))
        assert {tuple(future.result()) for future in answers} == {("Brazil",)}
    assert early.generate(asked[:2]) == ["Brazil", "Kenya"]


WRITER = """
import json, sys
from PIL import Image
import liveedit
store, editor, answers, picture = json.loads(sys.argv[1])
model = liveedit.load(editor=editor, store=store)
for number, answer in enumerate(answers):
    image = Image.open(picture)
    image.putpixel((0, 0), (number, ord(editor[0]), 0))
    model.edit(liveedit.Query("What is this?", answer, image))
"""


@pytest.mark.slow
def test_two_processes_write_with_different_editors(opened, file, pictures, tmp_path):
    pictures[0].save(tmp_path / "flag.png")
    names = {"liveedit": [f"L{n}" for n in range(8)], "pinpoint": [f"P{n}" for n in range(8)]}
    running = [
        subprocess.Popen(
            [
                sys.executable,
                "-c",
                WRITER,
                json.dumps([str(file), name, answers, str(tmp_path / "flag.png")]),
            ]
        )
        for name, answers in names.items()
    ]
    assert [process.wait(300) for process in running] == [0, 0]
    model = opened()
    assert {edit.target for edit in model.history} == {*names["liveedit"], *names["pinpoint"]}
    assert sorted(told.editor for told in page(model.store)[0]) == [
        *["liveedit"] * 8,
        *["pinpoint"] * 8,
    ]
    assert verify(Store(file)) == []


def test_a_file_of_another_model_or_lost_editor_is_not_imported(
    opened, pictures, tmp_path, embedded_vlm, shipped
):
    opens_with = {"editor": "/elsewhere/editor"}
    other = EditableVLM(embedded_vlm, shipped("liveedit"), tmp_path / "other.db", opens_with)
    other.edit(about(pictures[0], "Brazil"))
    export(other.store, tmp_path / "edits.safetensors")
    other.store.close()
    model = opened()
    with pytest.raises(Mismatch, match="the edits in the file were made by the editor in /else"):
        model.import_edits(tmp_path / "edits.safetensors")
    assert model.store.kept() == []
    assert import_edits(model.store, tmp_path / "edits.safetensors") == 1
