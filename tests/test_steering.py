"""Explain, try, check and disabled: what they say is so, and they change nothing."""

import asyncio
import math
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import replace
from threading import Barrier

import pytest
import torch

from helpers.samples import BLUE, GREEN, QUESTION, RED, noise
from helpers.shipped import SHIPPED
from helpers.tiny_settings import SMALL, small_settings
from liveedit.editable import EditableVLM
from liveedit.editors import new_editor
from liveedit.editors.direct.background import read_features
from liveedit.editors.direct.threshold import Reach
from liveedit.errors import BadInput
from liveedit.steering import checking, trying
from liveedit.store.roll import ListedRoll
from liveedit.types import Query

EDITS = [
    Query(QUESTION, "Japan", RED),
    Query("Which film is this?", "Rain", BLUE),
    Query("who sang", "Elvis", GREEN),
    Query(QUESTION, "Peru", noise(1)),
    Query("How many?", "seven", noise(2)),
]
ASKED = [Query(QUESTION, image=RED), Query("Who is it?", image=noise(3)), Query("Who sang?")]


def tiny_model(vlm, name, encoder=None, **settings):
    """A tiny model with the edits above."""
    model = EditableVLM(vlm, new_editor(vlm, name, small_settings(name, encoder) | settings))
    model.edit(EDITS)
    return model


def logits(model, asked):
    with model.vlm.unpatched(), model.vlm.patched(model.patch), torch.no_grad():
        return [model.vlm.logits(model.vlm.encode([query])) for query in asked]


def same(first, second):
    return all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


# Scores


@pytest.mark.parametrize("name", ["liveedit", "pinpoint"])
def test_an_expert_fires_if_and_only_if_its_scores_exceed_their_thresholds(vlm, name):
    model = tiny_model(vlm, name, margin=-1e3)
    with vlm.patched(model.patch):
        every = torch.stack([reply.scores.above for reply in vlm.answers(ASKED[:2], scores=True)])
    middle = float((every - 1e3).median())
    model.editor.config = replace(model.editor.config, margin=middle)
    with vlm.patched(model.patch):
        replies = vlm.answers(ASKED[:2], scores=True)
    assert 0 < sum(len(reply.fired) for reply in replies) < every.numel()
    for reply in replies:
        scores = reply.scores
        fired = dict(reply.fired)
        for edit in range(len(EDITS)):
            by_image = float(scores.image[edit]) > float(scores.image_threshold[edit])
            least = float(scores.question_threshold[edit])
            by_question = math.isnan(least) or float(scores.question[edit]) > least
            assert (edit in fired) == (float(scores.above[edit]) > 0)
            assert (edit in fired) == (by_image and by_question)


def test_direct_reports_cosines_and_thresholds(vlm):
    model = tiny_model(vlm, "direct")
    editor = model.editor
    keys = [
        editor.calibration.space.keys(read_features(vlm, editor.layer, vlm.encode([query]))[0])
        for query in (ASKED[1], *EDITS)
    ]
    (image, question), *edits = [(one[0][0], one[1][0]) for one in keys]
    found = model.explain(ASKED[1])
    reported = {firing.edit.target: firing for firing in (*found.fired, *found.near)}
    margins = {}
    for query, (its_image, its_question) in zip(EDITS, edits, strict=True):
        by_image = float(image @ its_image)
        readings = []
        reach = editor.calibration.reach
        halves = zip(question.chunk(2), its_question.chunk(2), reach, strict=True)
        for half, its_half, threshold in halves:
            cosine = float(half @ its_half)
            readings.append((cosine - threshold, cosine, threshold))
        margin, by_question, threshold = max(readings)
        margins[query.target] = min(by_image - model.patch.threshold, margin)
        if query.target in reported:
            firing = reported[query.target]
            assert firing.image == pytest.approx(by_image, abs=1e-4)
            assert firing.question == pytest.approx(by_question, abs=1e-4)
            assert firing.image_threshold == pytest.approx(model.patch.threshold)
            assert firing.question_threshold == pytest.approx(threshold)
    passing = [firing.edit.target for firing in found.near]
    left = sorted(set(margins) - {one.edit.target for one in found.fired}, key=margins.get)
    assert passing == left[::-1][:3]


SCORED = ["direct", "grace", "horen", "ike", "lte", "recipe", "scr", "serac", "t-patcher"]


@pytest.mark.of_every_method("name")
@pytest.mark.parametrize("name", SCORED)
def test_what_fires_is_above_and_what_is_below_does_not_fire(vlm, name, sentence_encoder):
    model = tiny_model(vlm, name, sentence_encoder)
    for query in (*EDITS, *ASKED):
        with vlm.patched(model.patch):
            [reply] = vlm.answers([replace(query, target="")], scores=True)
        above = reply.scores.above.tolist()
        assert len(above) == len(EDITS)
        assert all(above[edit] >= 0 for edit, _ in reply.fired)
        found = model.explain(query)
        assert found.answer == reply.text
        assert [one.weight for one in found.near] == [0.0] * len(found.near)
        for firing in (*found.fired, *found.near):
            assert math.isfinite(score_of(firing))


def score_of(firing):
    return firing.question if firing.image is None else firing.image


@pytest.mark.slow
def test_a_query_without_image_is_near_no_edit_with_one(vlm):
    for name in ("direct", "serac"):
        found = tiny_model(vlm, name).explain(ASKED[2])
        assert found.fired == found.near == ()


@pytest.mark.parametrize("margin", [-1.0, 0.0, 1.0, 3.0])
def test_the_thresholds_of_pinpoint_are_its_gate(vlm, margin):
    editor = new_editor(vlm, "pinpoint", SMALL["pinpoint"] | {"margin": margin})
    drawn = torch.Generator().manual_seed(0)
    above = 8 * torch.randn(1000, generator=drawn)
    z = 8 * torch.randn(1000, generator=drawn)
    least, least_z = editor.thresholds(z)
    assert torch.equal((above > least) & (z > least_z), editor.keeps(above, z))


# Explain


def test_an_explanation_names_what_fired_what_did_not_and_the_other_answer(model, emblem, flag):
    other = emblem.drawing("circle-flags", "flag-jp")
    [first] = model.edit(Query(QUESTION, "Canada", flag))
    [second] = model.edit(Query(QUESTION, "Brazil", flag))
    [elsewhere] = model.edit(Query(QUESTION, "Norway", emblem.drawing("twemoji", "flag-fr")))
    [overruling] = model.edit(Query(QUESTION, "Kenya", other))
    found = model.explain(Query(QUESTION, image=flag))
    assert (found.answer, found.unedited) == ("Kenya", "Japan")
    assert [firing.edit for firing in found.fired] == [overruling]
    assert overruling.conflicts == (second.id,)
    assert [firing.edit.id for firing in found.near] == [second.id, elsewhere.id]
    assert first.id not in {firing.edit.id for firing in found.near}, "it is superseded"
    assert found.near[0].image > found.near[0].image_threshold, "but it is overruled"
    assert found.near[1].image < found.near[1].image_threshold


def test_no_more_than_three_are_near(vlm):
    found = tiny_model(vlm, "liveedit", margin=1e3).explain(ASKED[0])
    assert found.fired == ()
    gaps = [firing.image - firing.image_threshold for firing in found.near]
    assert len(gaps) == 3
    assert gaps == sorted(gaps, reverse=True)


def test_a_method_without_scores_is_explained_without_them(vlm):
    found = tiny_model(vlm, "lemoe").explain(ASKED[0])
    assert found.near == ()
    assert found.fired
    assert {score_of(firing) for firing in found.fired} == {None}


# Try


@pytest.mark.of_every_method("method")
@pytest.mark.parametrize("method", SHIPPED)
@pytest.mark.parametrize("kept", [True, False], ids=["store", "memory"])
def test_a_trial_changes_nothing_and_foretells_the_edit(
    method, kept, embedded_vlm, shipped_editor, flag, emblem, tmp_path
):
    store = tmp_path / "edits.db" if kept else None
    model = EditableVLM(embedded_vlm, shipped_editor(method), store)
    model.edit(Query(QUESTION, "Canada", flag))
    elsewhere = Query(QUESTION, image=emblem.drawing("twemoji", "flag-fr"))
    asked = [Query(QUESTION, image=emblem.drawing("circle-flags", "flag-jp")), elsewhere]
    before = logits(model, [*asked, Query(QUESTION, image=flag)])
    listed = model.history
    version = model.store.version if kept else None
    answers = model.generate(asked)
    model.explain(asked[0])
    trial = model.try_edit(Query(QUESTION, "Brazil", flag), asked)
    assert same(logits(model, [*asked, Query(QUESTION, image=flag)]), before)
    assert model.history == listed
    if kept:
        assert model.store.version == version
    assert trial.before == model.generate(Query(QUESTION, image=flag))[0]
    [made] = model.edit(Query(QUESTION, "Brazil", flag))
    assert (trial.edit.took, trial.edit.conflicts) == (made.took, made.conflicts)
    assert [trial.after] == model.generate(Query(QUESTION, image=flag))
    after = model.generate(asked)
    expected = [
        (query, old, new) for query, old, new in zip(asked, answers, after, strict=True)
        if old != new
    ]  # fmt: skip
    assert [(one.query, one.before, one.after) for one in trial.changes] == expected
    assert trial.asked == len(asked)
    if kept:
        model.store.close()


def test_a_trial_asks_a_background_and_the_questions_of_edits(
    embedded_vlm, shipped_editor, flag, emblem, tmp_path, monkeypatch
):
    monkeypatch.setattr(trying, "IMAGES", 8)
    model = EditableVLM(embedded_vlm, shipped_editor("pinpoint"), tmp_path / "edits.db")
    alone = model.try_edit(Query(QUESTION, "Brazil", flag))
    assert alone.asked == 8 + 2  # each image once, and a quarter of the questions alone
    assert not (tmp_path / "edits.db").exists()
    assert alone.changes == ()
    model.edit(Query(QUESTION, "Canada", flag))
    trial = model.try_edit(Query(QUESTION, "Brazil", emblem.drawing("circle-flags", "flag-jp")))
    assert trial.asked == alone.asked + 1
    assert trial.edit.conflicts == (model.edits[0].id,)
    [change] = trial.changes
    assert (change.query.prompt, change.before, change.after) == (QUESTION, "Canada", "Brazil")
    model.store.close()


def test_a_bad_trial_is_refused_as_the_edit_would_be(model, flag):
    for query in (Query("", "Brazil", flag), Query(QUESTION, "", flag), QUESTION):
        with pytest.raises(BadInput):
            model.try_edit(query)


def test_trials_of_several_threads_do_not_meet(model, emblem, flag):
    model.edit(Query(QUESTION, "Canada", flag))
    targets = ["Brazil", "Norway", "Kenya", "Peru"]
    asked = [Query(QUESTION, image=emblem.drawing("circle-flags", "flag-jp"))]
    begin = Barrier(len(targets))

    def tried(target):
        begin.wait()
        return model.try_edit(Query(QUESTION, target, flag), asked)

    with ThreadPoolExecutor(len(targets)) as threads:
        trials = list(threads.map(tried, targets))
    assert [trial.after for trial in trials] == targets
    assert [trial.before for trial in trials] == ["Canada"] * len(targets)
    assert model.generate(Query(QUESTION, image=flag)) == ["Canada"]


# Disabled


def test_within_disabled_answers_are_the_unedited_models_to_the_bit(model, flag):
    query = Query(QUESTION, image=flag)
    batch = model.vlm.encode([query])
    unedited = model.vlm.logits(batch)
    model.edit(Query(QUESTION, "Brazil", flag))
    with model.vlm.patched(model.patch), model.disabled():
        assert model.generate(query) == ["Japan"]
        with model.disabled():
            assert torch.equal(model.vlm.logits(batch), unedited)
            assert torch.equal(model.vlm.model(**batch.inputs).logits, unedited)
        assert model.generate(query) == ["Japan"]
        assert model.explain(query).answer == "Japan"
    assert model.generate(query) == ["Brazil"]
    with pytest.raises(LookupError), model.disabled():
        raise LookupError
    assert model.generate(query) == ["Brazil"]


@pytest.mark.parametrize("name", ["grace", "serac", "ft-l", "ike"])
def test_within_disabled_nothing_sees_an_edit(vlm, name):
    model = tiny_model(vlm, name)
    edited = model.explain(ASKED[0])
    with model.disabled():
        found = model.explain(ASKED[0])
        trial = model.try_edit(Query(QUESTION, "Chad", RED), [ASKED[0]])
        assert model.check() == ()
        [answer] = model.generate(ASKED[0])
    assert (found.answer, found.unedited, found.fired, found.near) == (answer, answer, (), ())
    assert trial.before == answer
    assert trial.edit.conflicts == ()
    assert model.explain(ASKED[0]) == edited


def test_disabled_is_of_one_model_and_one_thread(model, flag):
    query = Query(QUESTION, image=flag)
    model.edit(Query(QUESTION, "Brazil", flag))
    other = EditableVLM(model.vlm, model.editor)
    other.edit(Query(QUESTION, "Kenya", flag))
    with model.disabled():
        assert other.generate(query) == ["Kenya"]
        with ThreadPoolExecutor(1) as thread:
            assert thread.submit(model.generate, query).result() == ["Brazil"]


def test_disabled_may_be_left_in_another_context(model, flag):
    """As by a generator that a server advances in one thread after another."""
    query = Query(QUESTION, image=flag)
    model.edit(Query(QUESTION, "Brazil", flag))

    def stream():
        with model.disabled():
            yield model.generate(query)

    answers = stream()
    assert copy_context().run(next, answers) == ["Japan"]
    assert model.generate(query) == ["Brazil"]
    copy_context().run(answers.close)
    assert model.generate(query) == ["Brazil"]


def test_disabled_is_of_one_task(model, flag):
    query = Query(QUESTION, image=flag)
    model.edit(Query(QUESTION, "Brazil", flag))

    async def ask(off):
        if not off:
            await asyncio.sleep(0)
            return model.generate(query)
        with model.disabled():
            await asyncio.sleep(0)
            return model.generate(query)

    async def ask_all():
        return await asyncio.gather(ask(True), ask(False), ask(True))

    assert asyncio.run(ask_all()) == [["Japan"], ["Brazil"], ["Japan"]]


# Check


@pytest.fixture
def few_images(monkeypatch):
    monkeypatch.setattr(checking, "IMAGES", 8)


@pytest.fixture
def kept(embedded_vlm, shipped_editor, tmp_path):
    """The embedded model with a store."""
    model = EditableVLM(embedded_vlm, shipped_editor("pinpoint"), tmp_path / "edits.db")
    yield model
    model.store.close()


def test_a_pool_without_edits_or_faults_has_no_findings(kept, flag, few_images):
    assert kept.check() == ()
    kept.edit([Query(QUESTION, "Brazil", flag)])
    seen = []
    assert kept.check(progress=lambda *step: seen.append(step)) == ()
    assert ("edits", 1, 1) in seen
    stage, done, of = seen[-1]
    assert stage == "background"
    assert done == of > 8


def test_edits_that_do_not_take_and_contradict_each_other_are_found(kept, flag, emblem, few_images):
    [first] = kept.edit(Query(QUESTION, "Brazil", flag))
    [second] = kept.edit(Query(QUESTION, "Kenya", emblem.drawing("circle-flags", "flag-jp")))
    untaken, contradiction = kept.check()
    assert (untaken.kind, contradiction.kind) == ("does_not_take", "contradiction")
    assert [edit.id for edit in untaken.edits] == [first.id]
    assert "no longer takes" in untaken.text
    assert "'Kenya', not 'Brazil'" in untaken.text
    assert [edit.id for edit in contradiction.edits] == [second.id, first.id]
    kept.forget(second.id)
    assert kept.check() == ()


def test_a_contradiction_that_was_not_recorded_is_seen_when_asked_again(vlm, few_images):
    model = tiny_model(vlm, "liveedit", margin=-1e3)
    bare = [replace(edit, conflicts=()) for edit in model.pool.edits]
    model._pool = replace(model.pool, roll=ListedRoll(tuple(bare)), queries=by_id(model))
    found = {tuple(edit.target for edit in one.edits) for one in model.check()}
    assert ("Peru", "Japan") in found


def by_id(model):
    return {edit.id: query for edit, query in zip(model.edits, EDITS, strict=True)}


def test_edits_that_fire_on_the_background_are_found_with_their_share(vlm, few_images):
    found = [
        finding
        for finding in tiny_model(vlm, "liveedit", margin=-1e3).check()
        if finding.kind == "fires_on_background"
    ]
    fired = {finding.edits[0].target for finding in found}
    assert fired == {edit.target for edit in EDITS} - {"Japan"}, "which Peru overrules"
    shown = [finding.share for finding in found]
    assert max(shown) == min(shown) < 1, "texts without an image reach no edit"
    assert all(finding.stated is None for finding in found)


def test_a_stated_rate_allows_for_chance_and_no_more(vlm, few_images):
    model = tiny_model(vlm, "direct", false_firing=0.5)
    folder = {finding.kind for finding in model.check()}
    assert "fires_on_background" not in folder
    model.patch.threshold = -2.0
    vars(model.editor)["reach"] = Reach(-2.0, -2.0)
    [finding, *_] = [one for one in model.check() if one.kind == "fires_on_background"]
    assert finding.stated == 0.5
    assert "stated for all edits together: 50.0%" in finding.text


def test_a_method_with_edits_in_its_weights_is_checked_by_its_answers(vlm, few_images):
    model = tiny_model(vlm, "ft-l", lr=1.0)
    [finding] = [one for one in model.check() if one.kind == "fires_on_background"]
    assert finding.edits == ()
    assert 0 < finding.share <= 1


@pytest.mark.parametrize(("count", "of", "rate"), [(0, 5, 0.1), (1, 5, 0.1), (3, 9, 0.3)])
def test_the_chance_of_a_count_is_that_of_all_outcomes(count, of, rate):
    total = 0.0
    for outcome in range(2**of):
        events = outcome.bit_count()
        if events >= count:
            total += rate**events * (1 - rate) ** (of - events)
    assert checking.chance_of(count, of, rate) == pytest.approx(total)
