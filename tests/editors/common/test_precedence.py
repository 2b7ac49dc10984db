"""The most recent edit wins, for every editor that ships: edited again, taken back, in conflict."""

from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

from helpers.remembered import remember_edits
from helpers.samples import QUESTION
from helpers.shipped import SHIPPED
from liveedit import Query
from liveedit.data.emblem import Emblem
from liveedit.editable import EditableVLM, embedded
from liveedit.editors import EDITORS, load_editor
from liveedit.editors.common.bank_editor import BankEditor
from liveedit.registry import resolve
from liveedit.store.listing import Listing

pytestmark = pytest.mark.of_every_method("editor")

FLAG, OTHER_ARTIST = (Emblem().drawing(artist, "flag-jp") for artist in ("twemoji", "circle-flags"))
ELSEWHERE = Emblem().drawing("twemoji", "flag-fr")
ASKED = Query(QUESTION, image=FLAG)


def to(answer, image=FLAG):
    return Query(QUESTION, answer, image)


BANKS = [name for name in SHIPPED if issubclass(resolve("editor", name, EDITORS), BankEditor)]
EXACT = ["grace"]
"""Edits of these act on their own picture alone, so that no two pictures of a thing are in
conflict.
"""
WEAK = ["ke", "liveedit", "t-patcher", "ultraedit"]
"""These do not write every answer on the embedded model, and say so."""
of_banks = pytest.mark.parametrize("editor", BANKS, indirect=True)
"""For what holds of edits that are kept apart; weights that hold all of them give way in no order.
"""


@pytest.fixture(scope="module", params=SHIPPED)
def editor(request, shipped_editor):
    return remember_edits(shipped_editor(request.param))


@pytest.fixture
def model(editor):
    return EditableVLM(editor.vlm, editor)


def edited(editor, *answers):
    """A model whose only edits are these, one by one."""
    made = EditableVLM(editor.vlm, editor)
    for answer in answers:
        made.edit(to(answer))
    return made


@pytest.mark.parametrize(
    "answers", [("Canada", "Brazil"), ("Brazil", "Canada"), ("Canada", "Brazil", "Canada")]
)
@pytest.mark.parametrize("at_once", [False, True], ids=["one by one", "in one batch"])
def test_the_last_edit_of_a_question_is_answered(model, editor, answers, at_once):
    if at_once:
        model.edit([to(answer) for answer in answers])
    else:
        for answer in answers:
            model.edit(to(answer))
    *older, newest = model.history
    assert newest.took or editor.name in WEAK
    if newest.took:
        assert model.generate(ASKED) == [answers[-1]]
    else:
        assert model.generate(ASKED) not in ([answer] for answer in answers)
    assert {edit.superseded_by for edit in older} <= {edit.id for edit in model.history}
    assert all(edit.superseded_by for edit in older)
    assert model.edits == (newest,)
    assert not newest.superseded_by


def test_taking_the_newer_back_brings_the_older_back(model, editor):
    first, second = (model.edit(to(answer))[0] for answer in ("Canada", "Brazil"))
    model.forget(second.id)
    assert [edit.id for edit in model.edits] == [edit.id for edit in model.history] == [first.id]
    assert model.generate(ASKED) == edited(editor, "Canada").generate(ASKED)
    model.forget(first.id)
    assert model.generate(ASKED) == model.unedited(ASKED)


def test_other_edits_stand_when_one_is_superseded_and_taken_back(model, editor):
    model.edit([to("Canada"), to("Kenya", ELSEWHERE)])
    [newer] = model.edit(to("Brazil"))
    model.forget(newer.id)
    alone = EditableVLM(editor.vlm, editor)
    alone.edit([to("Canada"), to("Kenya", ELSEWHERE)])
    for query in (ASKED, Query(QUESTION, image=ELSEWHERE)):
        assert model.generate(query) == alone.generate(query)


@pytest.mark.one_in(3)
@pytest.mark.parametrize(
    "spelled", [f"  {QUESTION.upper()} ", QUESTION.replace(" ", "\t"), QUESTION.title()]
)
def test_white_space_and_case_make_no_other_question(model, spelled):
    model.edit(to("Canada"))
    [newer] = model.edit(Query(spelled, "Brazil", FLAG))
    assert model.edits == (newer,)
    assert model.generate(ASKED) == ["Brazil"] or model.editor.name in WEAK
    answers = [model.generate(Query(prompt, image=FLAG)) for prompt in (QUESTION, spelled)]
    assert newer.took == (answers == [["Brazil"]] * 2)
    model.edit(to("Peru", ELSEWHERE))
    model.forget(newer.id)
    assert [edit.target for edit in model.edits] == ["Canada", "Peru"]


@pytest.mark.parametrize(
    ("one", "other", "listed"), [(-2, 0, 0), (1, -1, -1), (np.int64(1), 1, -1), (None, None, None)]
)
def test_a_place_is_the_same_from_either_end(embedded_vlm, tmp_path, one, other, listed):
    both = [OTHER_ARTIST, FLAG]
    model = EditableVLM(embedded_vlm, load_editor(embedded_vlm, embedded("pinpoint")))
    model.edit(Query(QUESTION, "Canada", both, about=one))
    [newest] = model.edit(Query(QUESTION, "Brazil", both, about=other))
    assert model.edits == (newest,)
    assert newest.about == listed
    model.edit(Query(QUESTION, "Peru", both, about=None if listed is not None else 0))
    assert len(model.edits) == 2
    model.save(tmp_path / "pool")
    kept = [replace(edit, conflicts=()) for edit in Listing.read(tmp_path / "pool").edits]
    assert kept == [replace(edit, superseded_by="", conflicts=()) for edit in model.history]


def test_another_answer_about_another_of_the_same_images_is_a_conflict_where_both_fire(
    model, editor
):
    both = [FLAG, ELSEWHERE]
    [first] = model.edit(Query(QUESTION, "Brazil", both, about=0))
    acting = model.generate(Query(QUESTION, image=both, about=-1)) == ["Brazil"]
    [second] = model.edit(Query(QUESTION, "Kenya", both, about=-1))
    answered = model.generate(Query(QUESTION, image=both, about=0)) == ["Brazil"]
    assert answered or second.conflicts == (first.id,) or editor.name in WEAK
    assert second.conflicts in ((), (first.id,))
    assert second.conflicts or not acting


@pytest.mark.parametrize("about", [0, -1, None])
def test_of_a_single_image_there_is_one_place(embedded_vlm, about):
    model = EditableVLM(embedded_vlm, load_editor(embedded_vlm, embedded("pinpoint")))
    [edit] = model.edit(Query(QUESTION, "Canada", FLAG, about=about))
    assert edit.about == -1


def test_an_edit_about_another_image_supersedes_nothing(model):
    model.edit([to("Canada"), to("Kenya", ELSEWHERE)])
    assert [edit.target for edit in model.edits] == ["Canada", "Kenya"]


def test_what_was_superseded_is_kept_in_a_folder(model, editor, tmp_path):
    model.edit(to("Canada"))
    [newer] = model.edit(to("Brazil"))
    model.save(tmp_path / "pool")
    opened = EditableVLM(editor.vlm, editor)
    opened.load(tmp_path / "pool")
    assert opened.history == model.history
    assert opened.generate(ASKED) == model.generate(ASKED)
    opened.forget(newer.id)
    assert opened.generate(ASKED) == edited(editor, "Canada").generate(ASKED)


def test_an_edit_says_whether_it_took(model):
    [made] = model.edit(to("Canada"))
    assert made.took == (model.generate(ASKED) == ["Canada"])


def test_another_answer_about_another_picture_of_the_thing_is_a_conflict(model):
    [older] = model.edit(to("Canada"))
    asked = Query(QUESTION, image=OTHER_ARTIST)
    fires = model.generate(asked) == ["Canada"] or older.id in {
        firing.edit.id for firing in model.explain(asked).fired
    }
    [newer] = model.edit(to("Brazil", OTHER_ARTIST))
    assert fires == (model.editor.name not in EXACT)
    assert newer.conflicts == ((older.id,) if fires else ())
    assert len(model.edits) == 2
    if newer.took:
        assert model.generate(Query(QUESTION, image=OTHER_ARTIST)) == ["Brazil"]


@of_banks
def test_of_two_in_conflict_only_the_last_fires(model):
    [older] = model.edit(to("Canada"))
    [newer] = model.edit(to("Brazil", OTHER_ARTIST))
    for image in (FLAG, OTHER_ARTIST):
        fired = {firing.edit.id for firing in model.explain(Query(QUESTION, image=image)).fired}
        assert len(fired & {older.id, newer.id}) <= 1
    assert bool(newer.conflicts) == (model.editor.name not in EXACT)


@of_banks
def test_an_edit_that_supersedes_the_most_recent_one_wins_then(model):
    """Also over what that one was in conflict with, and did not let act."""
    [first] = model.edit(to("Canada"))
    [second], [third] = (model.edit(to(answer, OTHER_ARTIST)) for answer in ("Brazil", "Peru"))
    assert (
        third.conflicts == second.conflicts == (() if model.editor.name in EXACT else (first.id,))
    )
    fired = {firing.edit.id for firing in model.explain(Query(QUESTION, image=OTHER_ARTIST)).fired}
    assert len(fired & {first.id, third.id}) <= 1


def independent(editor):
    """Whether an edit comes out the same whatever is made with it; weights that take several in one
    step differ.
    """
    return isinstance(editor, BankEditor) and editor.independent


def dotted(*places):
    """The flag with some pixels grey: another picture, which looks the same."""
    picture = FLAG.copy()
    for place in places:
        picture.putpixel((place, 0), (250, 250, 250))
    return picture


@of_banks
def test_an_edit_overrules_others_also_when_those_between_are_taken_back(model):
    """Of three about pictures of a thing the last holds alone, also once what overruled the first
    is gone.
    """
    model.edit(to("Canada"))
    [second] = model.edit(to("Brazil", OTHER_ARTIST))
    [third] = model.edit(to("Kenya", dotted(0)))
    model.forget(second.id)
    fired = [firing.edit.id for firing in model.explain(Query(QUESTION, image=dotted(0))).fired]
    assert third.conflicts
    assert fired in ([third.id], [])
    assert (model.generate(Query(QUESTION, image=dotted(0))) == ["Kenya"]) == third.took


@of_banks
def test_the_most_recent_edit_wins_when_one_of_the_same_answer_is_taken_back(model):
    alike = dotted(0)
    model.edit(to("Canada"))
    [between] = model.edit(to("Brazil", OTHER_ARTIST))
    [last] = model.edit(to("Brazil", alike))
    model.forget(between.id)
    two = EditableVLM(model.vlm, model.editor)
    two.edit(to("Canada"))
    two.edit(to("Brazil", alike))
    for image in (FLAG, alike):
        assert model.generate(Query(QUESTION, image=image)) == two.generate(
            Query(QUESTION, image=image)
        )
    assert [len(edit.conflicts) for edit in model.edits] == [
        len(edit.conflicts) for edit in two.edits
    ]
    assert last.took == two.edits[-1].took or not independent(model.editor)


@of_banks
def test_an_edit_that_comes_back_is_overruled_as_its_successor_was(model):
    [first] = model.edit(to("Canada"))
    [second] = model.edit(to("Peru"))
    [third] = model.edit(to("Kenya", dotted(0)))
    assert third.conflicts == (second.id,)
    model.forget(second.id)
    [first_again, third_again] = model.edits
    assert (first_again.id, third_again.id) == (first.id, third.id)
    assert third_again.conflicts == (first.id,)
    fired = {firing.edit.id for firing in model.explain(Query(QUESTION, image=dotted(0))).fired}
    assert len(fired & {first.id, third.id}) <= 1


@of_banks
def test_the_last_overrules_as_many_as_there_are(model):
    older = [model.edit(to("Canada", dotted(place)))[0].id for place in range(6)]
    [newest] = model.edit(to("Brazil", dotted(0, 1, 2, 3, 4, 5)))
    assert 5 <= len(newest.conflicts) <= len(older)
    assert set(newest.conflicts) <= set(older)
    assert newest.took
    fired = [
        firing.edit.id
        for firing in model.explain(Query(QUESTION, image=dotted(0, 1, 2, 3, 4, 5))).fired
    ]
    assert not set(fired) & set(newest.conflicts)


def test_what_is_superseded_does_not_act_on_other_pictures_either(model, editor):
    images = (FLAG, OTHER_ARTIST, ELSEWHERE)
    for answer in ("Canada", "Brazil"):
        model.edit(to(answer))
    alone = edited(editor, "Brazil")
    for image in images:
        asked = Query(QUESTION, image=image)
        assert (
            model.generate(asked) == alone.generate(asked) or editor.name == "t-patcher"
        )  # whose neurons are drawn
        superseded = {edit.id for edit in model.history if edit.superseded_by}
        assert not superseded & {
            firing.edit.id for firing in model.explain(Query(QUESTION, image=image)).fired
        }


@pytest.mark.slow
def test_conflicts_within_a_batch_are_those_of_its_edits_one_by_one(model, editor):
    batch = [to("Canada"), to("Kenya", ELSEWHERE)]
    batch += [to("Brazil", OTHER_ARTIST), to("Peru", OTHER_ARTIST)]
    alone = EditableVLM(editor.vlm, editor)
    places = {}
    for query in batch:
        alone.edit(query)
    model.edit(batch)
    for made in (model, alone):
        order = [edit.id for edit in made.history]
        places[made] = [[order.index(id) for id in edit.conflicts] for edit in made.history]
    assert places[model] == places[alone]
    queries = [Query(QUESTION, image=image) for image in (FLAG, OTHER_ARTIST, ELSEWHERE)]
    if independent(editor):
        assert model.generate(queries) == alone.generate(queries)


def test_no_conflict_with_the_same_answer_or_another_thing(model):
    model.edit(to("Canada"))
    [same] = model.edit(to("Canada", OTHER_ARTIST))
    assert same.conflicts == ()


@pytest.mark.slow
def test_on_the_command_line(editor, tmp_path, monkeypatch):
    """`edit` twice, `edits`, `ask` and `forget`, with one model in memory."""
    from liveedit import editable
    from liveedit.cli import app

    monkeypatch.setattr(editable, "load_vlm", lambda *_, **__: editor.vlm)
    if hasattr(editor, "demonstrations"):
        monkeypatch.setattr(type(editor), "demonstrations", editor.demonstrations)
    FLAG.save(tmp_path / "flag.png")
    store, image = ["--store", str(tmp_path / "edits.db")], ["--image", str(tmp_path / "flag.png")]

    def said(*words):
        found = CliRunner().invoke(app, [*words, *store])
        assert found.exception is None or isinstance(found.exception, SystemExit), found.exception
        return found

    named = [*image, "--editor", editor.name]
    codes = [said("edit", QUESTION, answer, *named).exit_code for answer in ("Canada", "Brazil")]
    assert set(codes) <= {0, 3}
    expected = edited(editor, "Brazil").generate(ASKED)[0]
    answer = said("ask", QUESTION, *image).stdout.splitlines()[0]
    assert answer in (expected, "Brazil")
    assert (codes[1] == 0) == (answer == "Brazil")
    listed = said("edits").stdout
    older, newer = (line.split()[0] for line in listed.splitlines() if "flag.png" in line)
    assert newer in listed.replace(newer, "", 1)
    assert "superseded" in listed
    said("forget", newer)
    assert (
        said("ask", QUESTION, *image).stdout.splitlines()[0]
        == edited(editor, "Canada").generate(ASKED)[0]
    )
    assert older in said("edits").stdout
