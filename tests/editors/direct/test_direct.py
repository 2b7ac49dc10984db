"""Direct: keys, thresholds and fitting against slow loops, and the rates that it states."""

import math
import random
from dataclasses import replace
from itertools import combinations

import pytest
import torch
from torch.nn import functional as F

from helpers.samples import BLUE, GREEN, QUESTION, RED, picture
from helpers.tiny_settings import small_settings
from liveedit.editors import new_editor
from liveedit.editors.direct.background import Background, Features, read_features
from liveedit.editors.direct.editor import DirectPatch
from liveedit.editors.direct.keys import SHRINKAGE, KeySpace
from liveedit.editors.direct.threshold import (
    OWN,
    Edits,
    Reach,
    conformal,
    nearest_edits,
    question_reach,
)
from liveedit.editors.direct.variants import seed_of, variants
from liveedit.errors import BadInput
from liveedit.types import Query

EDITS = [Query(QUESTION, "Japan", RED), Query("Which film is this?", "Rain", BLUE)]


@pytest.fixture(scope="module")
def editor(vlm):
    return new_editor(vlm, "direct", small_settings("direct"))


@pytest.fixture(scope="module")
def patch(editor):
    """Two edits; no test may change it."""
    return editor.edit(EDITS)


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def features_like(rows, width, seed):
    return Features(*(drawn(rows, width, seed=seed + part) for part in range(3)))


# Keys


def test_keys_against_dense_matrices():
    rows, width = 6, 10
    background = Background(*(features_like(rows, width, 10 * n) for n in range(5)))
    asked = features_like(4, width, 77)
    asked.image[1] = torch.nan
    meanings = ["capital", "country", "capital", "country", "capital", "country"]
    images, questions = KeySpace.learned(background, meanings).keys(asked)
    common = background.common
    within = common.asked.clone()
    for rest in (0, 1):
        within[rest::2] -= common.asked[rest::2].mean(0)
    covariance = within.T @ within / rows
    least = SHRINKAGE * covariance.trace() / width
    values, vectors = torch.linalg.eigh(covariance)
    # Directions without variance keep their length.
    W = vectors @ torch.diag((least / (values.clamp(min=0) + least)).sqrt()) @ vectors.T
    for row in (0, 2, 3):
        torch.testing.assert_close(
            images[row], F.normalize(asked.image[row] - common.image.mean(0), dim=0)
        )
        text = F.normalize(asked.alone[row] - common.alone.mean(0), dim=0)
        seen = F.normalize((asked.asked[row] - common.asked.mean(0)) @ W, dim=0)
        torch.testing.assert_close(questions[row], torch.cat([text, seen]))
    assert images[1].isnan().all()
    text = F.normalize(asked.alone[1] - background.alone.alone.mean(0), dim=0)
    torch.testing.assert_close(questions[1], torch.cat([text, text]))


def test_an_image_is_read_before_any_layer(editor, vlm):
    """Whatever is asked of it."""
    asked = [Query(QUESTION, image=RED), Query("Which film is this?", image=RED)]
    read, _ = read_features(vlm, editor.layer, vlm.encode(asked))
    torch.testing.assert_close(read.image[0], read.image[1])
    torch.testing.assert_close(read.image[0], vlm.image_states(RED).float().mean(0))


def test_a_question_is_read_without_the_image(editor, vlm):
    """The same question about two images: the same text, other states."""
    batch = vlm.encode([Query(QUESTION, image=RED), Query(QUESTION, image=GREEN), Query("Who?")])
    read, _ = read_features(vlm, editor.layer, batch)
    torch.testing.assert_close(read.alone[0], read.alone[1])
    assert not torch.allclose(read.asked[0], read.asked[1])
    assert read.shown.tolist() == [True, True, False]
    alone, _ = read_features(vlm, editor.layer, vlm.encode([Query("Who?")]))
    torch.testing.assert_close(read.alone[2], alone.alone[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(read.alone[2], read.asked[2], rtol=1e-4, atol=1e-5)


# Thresholds


@pytest.mark.parametrize("rate", [0.0, 0.01, 0.05, 0.3])
@pytest.mark.parametrize("count", [10, 99, 400])
def test_a_further_score_exceeds_the_threshold_as_often_as_stated(rate, count):
    chance = torch.Generator().manual_seed(count)
    exceeded = 0
    rounds = 2000
    for _ in range(rounds):
        scores = torch.rand(count + 1, generator=chance)
        exceeded += bool(scores[-1] > conformal(scores[:-1], rate))
    assert exceeded / rounds <= max(rate, 1 / (count + 1)) + 3 * math.sqrt(0.25 / rounds)


def test_features_that_tell_nothing_apart_leave_an_edit_within_reach_of_itself():
    assert conformal(torch.ones(9), 0.1) == OWN


def test_the_reach_is_that_of_the_questions_harder_to_tell_apart():
    flags, others = (drawn(9, n, 12, seed=n) / 4 for n in (4, 3))
    found = question_reach([flags, others, drawn(0, 2, 12)], 0.1)
    for half, threshold in zip((slice(0, 6), slice(6, 12)), found, strict=True):
        largest = []
        for keys in (flags[..., half], others[..., half]):
            scores = []
            for one, other in combinations(range(keys.shape[1]), 2):
                scores += [float(row[one] @ row[other]) for row in keys]
            exceeding = max(0, math.floor(0.1 * (len(scores) + 1)) - 1)
            largest.append(sorted(scores, reverse=True)[exceeding])
        assert threshold == pytest.approx(min(OWN, max(largest)))


def test_a_question_is_within_reach_by_its_words_or_by_what_it_asks_of_the_image():
    edit = torch.tensor([[1.0, 0.0, 1.0, 0.0]])
    same_words = torch.tensor([1.0, 0.0, 0.0, 1.0])
    other_words = torch.tensor([0.0, 1.0, 1.0, 0.0])
    neither = torch.tensor([0.6, 0.8, 0.6, 0.8])
    above = Reach(0.7, 0.8).above(torch.stack([same_words, other_words, neither]), edit)
    torch.testing.assert_close(above, torch.tensor([[0.3], [0.2], [-0.1]]))


def slow_threshold(images, vision, questions, numbers, reach, rate):
    """For each image the nearest of the edits that one edit's question reaches; their quantile."""
    nearest = []
    for number, image in enumerate(images):
        asked = min(range(len(vision)), key=lambda edit: slow_hash(int(numbers[edit]), number))
        reached = [
            float(image @ vision[edit])
            for edit in range(len(vision))
            if float(questions[asked][:6] @ questions[edit][:6]) > reach.alone
            or float(questions[asked][6:] @ questions[edit][6:]) > reach.asked
        ]
        nearest.append(max(reached, default=-1.0))
    exceeding = max(0, math.floor(rate * (len(images) + 1)) - 1)
    return sorted(nearest, reverse=True)[exceeding]


def slow_hash(number, image):
    """The hash of an edit and an image, in 64 bits."""
    bits = 2**64 - 1
    value = (number + image * 0x9E3779B97F4A7C15 % 2**62) & bits
    for shift, factor in ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15), (31, 1)):
        signed = value - 2**64 if value >= 2**63 else value
        value = ((signed ^ (signed >> shift)) * factor) & bits
    return value & (2**63 - 1)


def some_edits(count):
    """Random edits of which every fifth has no image, and every seventh is superseded."""
    vision = F.normalize(drawn(count, 6, seed=count), dim=1)
    vision[::5] = torch.nan
    numbers = torch.tensor([random.Random(n).getrandbits(56) for n in range(count)])
    in_force = torch.arange(count) % 7 > 0
    return Edits(vision, F.normalize(drawn(count, 12, seed=3), dim=1), numbers, in_force)


def chosen(edits, index):
    return Edits(*(column[index] for column in edits))


@pytest.mark.parametrize("rate", [0.02, 0.2])
def test_the_image_threshold_against_a_slow_loop(monkeypatch, rate):
    monkeypatch.setattr("liveedit.editors.direct.threshold.CHUNK", 4)
    images = F.normalize(drawn(60, 6, seed=60), dim=1)
    edits = some_edits(40)
    reach = Reach(0.2, 0.3)
    found = nearest_edits(images, edits, reach).threshold(rate)
    *held, _ = chosen(edits, edits.shown())
    assert found == pytest.approx(slow_threshold(images, *held, reach, rate))
    order = torch.randperm(40, generator=torch.Generator().manual_seed(1))
    assert nearest_edits(images, chosen(edits, order), reach).threshold(rate) == found


@pytest.mark.parametrize("steps", [(0, 1, 2, 3), (0, 30, 31, 60), (6, 59)])
def test_the_threshold_after_each_edit_is_that_of_all_at_once(steps):
    images = F.normalize(drawn(50, 6, seed=50), dim=1)
    edits = some_edits(60)
    reach = Reach(0.2, 0.3)
    known = None
    for count in steps:
        here = chosen(edits, slice(count))
        here.in_force[: count // 2] &= torch.arange(count // 2) % 3 > 0
        known = nearest_edits(images, here, reach, known)
        whole = nearest_edits(images, here, reach)
        assert known.drawn.tolist() == whole.drawn.tolist()
        assert known.edit.tolist() == whole.edit.tolist()
        assert known.cosine.tolist() == whole.cosine.tolist()
    assert known.count == steps[-1]


def test_edits_without_an_image_have_no_threshold():
    none = torch.full((2, 6), torch.nan)
    edits = Edits(none, drawn(2, 12), torch.tensor([1, 2]), torch.ones(2, dtype=torch.bool))
    assert nearest_edits(drawn(9, 6), edits, Reach(0.1, 0.1)).threshold(0.1) == 1.0


# Routing


def test_only_the_nearest_edit_above_both_thresholds_acts(editor, patch):
    bank = patch.bank.tensors()
    found = patch.nearest(own_features(editor, EDITS))
    assert found.keep.tolist() == [[True, False], [False, True]]
    assert found.weight.sum(1).tolist() == [1.0, 1.0]
    far = patch.nearest(own_features(editor, [Query("Which film is this?", image=RED)]))
    image = bank["vision_keys"][:, 0] @ bank["vision_keys"][0, 0]
    assert far.keep[0, 1] == bool(image[1] > patch.threshold)


def test_of_several_edits_that_are_near_one_acts(editor, patch):
    twice = DirectPatch(editor, patch.bank.select([1, 0, 0, 0]))
    found = twice.nearest(own_features(editor, EDITS))
    assert found.keep.sum(1).tolist() == [1, 1]
    assert found.keep[1].tolist() == [True, False, False, False]


def own_features(editor, queries):
    read, _ = read_features(editor.vlm, editor.layer, editor.vlm.encode(queries))
    return read


def test_an_edit_of_a_text_acts_on_texts_alone(editor):
    patch = editor.edit([Query("Who sang the song?", "Anna")])
    routed = patch.nearest(
        own_features(editor, [Query("Who sang the song?"), Query("Who sang the song?", image=RED)])
    )
    assert routed.keep.tolist() == [[True], [False]]


def test_thresholds_follow_the_pool_and_come_back(editor, patch):
    before = patch.threshold
    more = editor.edit([Query(QUESTION, "Chad", picture("orange"))], patch)
    assert more.threshold >= before
    assert editor.select(more, [0, 1]).threshold == before
    assert editor.select(more, [0, 1, 2]).threshold == more.threshold


def test_an_edit_that_is_superseded_elsewhere_does_not_set_the_threshold(editor, patch):
    before = patch.threshold
    alone = editor.select(patch, [1]).threshold
    superseded = patch.with_ledger(patch.ledger, torch.tensor([True, False]))
    assert superseded.threshold == alone != before


# Fitting


def test_an_edit_takes_also_in_its_variants(editor, patch, vlm):
    for query in EDITS:
        asked = [query, *variants(query, 2)]
        batch = vlm.encode(asked, eos=True)
        positions = batch.answer_positions()
        before = F.cross_entropy(vlm.logits(batch)[positions], batch.answer_tokens())
        with vlm.patched(editor.edit([query])):
            after = F.cross_entropy(vlm.logits(batch)[positions], batch.answer_tokens())
        assert after < before - 1


def test_an_expert_does_not_depend_on_what_is_fitted_with_it(editor, patch):
    for number, query in enumerate(EDITS):
        for name, alone in editor.edit([query]).bank.tensors().items():
            torch.testing.assert_close(patch.bank[name][number], alone[0], rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_the_edit_itself_is_learnt_without_noise(vlm):
    """Noise is for variants alone."""
    quiet = {"variants": 0, "noise": 0.0}
    made = []
    for changes in (quiet, quiet | {"noise": 5.0}):
        made.append(new_editor(vlm, "direct", small_settings("direct") | changes).edit(EDITS))
    assert torch.equal(made[0].bank["expert_out"], made[1].bank["expert_out"])


def test_the_residual_begins_at_the_last_prompt_token(patch, vlm):
    batch = vlm.encode(EDITS[:1], eos=True)
    before = vlm.hidden(batch, patch.editor.layer).hidden
    with vlm.patched(patch):
        after = vlm.hidden(batch, patch.editor.layer).hidden
    changed = (before != after).any(-1)[0]
    first = batch.spans[0].prompt[1] - 1
    assert not changed[:first].any()
    assert changed[first]


# Variants and background


def test_variants_are_the_same_every_time():
    made = variants(EDITS[0], 4)
    again = variants(EDITS[0], 4)
    assert [query.prompt for query in made] == [query.prompt for query in again]
    for one, other in zip(made, again, strict=True):
        assert [image.tobytes() for image in one.images] == [
            image.tobytes() for image in other.images
        ]
    assert all(query.target == "Japan" for query in made)
    assert [query.prompt == QUESTION for query in made] == [True, False, True, False]
    assert seed_of(EDITS[0]) != seed_of(EDITS[1])
    assert all(QUESTION in query.prompt for query in made)


def test_variants_of_a_text_are_other_wordings():
    made = variants(Query("Who sang?", "Anna"), 3)
    assert len({query.prompt for query in made}) >= 2
    assert all(query.image is None for query in made)


def test_variants_begin_with_the_wordings_that_a_query_knows():
    words = ("Whose flag is it?", "Name the country.")
    made = variants(replace(EDITS[0], wordings=words), 6)
    assert [query.prompt for query in made[1:4:2]] == [*words]
    assert QUESTION in made[5].prompt
    alone = [query.prompt for query in variants(Query("Who sang?", "Anna", wordings=words), 3)]
    assert alone[:2] == [*words]
    assert "Who sang?" in alone[2]


def test_a_background_of_one_s_own(vlm, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    settings = small_settings("direct") | {"background": str(folder)}
    for number in range(15):
        picture((number, 90, 10 * number)).save(folder / f"{number}.png")
    with pytest.raises(BadInput, match="has 15 images, too few"):
        new_editor(vlm, "direct", settings).edit(EDITS[:1])
    picture("pink").save(folder / "more.PNG")
    editor = new_editor(vlm, "direct", settings)
    assert len(editor.edit(EDITS[:1])) == 1
    with pytest.raises(BadInput, match="no folder"):
        new_editor(vlm, "direct", settings | {"background": "nowhere"}).edit(EDITS[:1])


# The embedded model


@pytest.mark.slow
def test_the_stated_rate_of_false_firing_is_the_measured_one(embedded_vlm, emblem):
    """Drawings of other entities by other artists, asked an edit's question: at most 1 % fire."""
    editor = new_editor(embedded_vlm, "direct", {"steps": 1})
    chance = random.Random(0)
    entities = chance.sample(emblem.part("test"), 200)
    edited, others = entities[:60], entities[60:]
    edits = []
    for entity in edited:
        question = QUESTION if entity.sort == "flag" else "What is the thing in this picture?"
        image = emblem.drawing(chance.choice(entity.seen_artists), entity.id)
        edits.append(Query(question, "Brazil", image))
    patch = editor.edit(edits)
    asked = []
    for entity in others:
        for artist in entity.artists:
            asked.append(
                Query(chance.choice(edits).prompt, image=emblem.drawing(artist, entity.id))
            )
    fired = 0
    for start in range(0, len(asked), 32):
        routed = patch.nearest(own_features(editor, asked[start : start + 32]))
        fired += int(routed.keep.any(1).sum())
    assert len(asked) > 500
    assert fired / len(asked) <= 0.01 + 3 * math.sqrt(0.01 * 0.99 / len(asked))


# Answers that take longer


@pytest.mark.one_in(2)
@pytest.mark.parametrize("target", ["Brazil", "Two words", "x"])
@pytest.mark.parametrize("image", [RED, None], ids=["image", "text"])
def test_an_edit_is_fitted_until_it_gives_its_answer(editor, vlm, target, image):
    """The usual steps are too few for most answers of a random model."""
    query = Query(QUESTION, target, image)
    with vlm.patched(editor.edit([query])):
        assert vlm.generate([query]) == [target]


@pytest.mark.slow
def test_edits_that_are_fitted_together_do_not_wait_for_each_other(editor):
    """One that is fitted early gets the factors that it gets alone."""
    early, late = (Query(QUESTION, target, RED) for target in ("x", "Two words"))
    together = editor.experts([early, late])
    alone = editor.experts([early])
    for name in ("expert_in", "expert_out"):
        torch.testing.assert_close(together[name][0], alone[name][0], rtol=1e-3, atol=1e-4)
