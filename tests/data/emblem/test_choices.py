"""What Emblem's cases draw at random, and what they must not: hands, strangers, look-alikes, spare
answers, orders.
"""

import json
from hashlib import sha256
from importlib.resources import files
from itertools import pairwise

import numpy as np
import pytest

from liveedit.data.emblem.cases import correction_cases, counterfactual_cases, pool
from liveedit.data.emblem.drawings import CHAIN, EDITED, part_of, role_of
from liveedit.data.emblem.wordings import IMAGE_RELATIONS, SEEN_FRAMES, TEXT_RELATIONS, wordings

PARTS = ("train", "val", "test")


@pytest.fixture(scope="module")
def cases(emblem):
    return {part: counterfactual_cases(emblem, part) for part in PARTS}


@pytest.fixture(scope="module", params=PARTS)
def made(request, cases):
    return cases[request.param]


def drawn(query):
    """The hand and the entity of a drawing."""
    return query.image.info["name"].removeprefix("emblem:").split("/")


def about(case):
    """Entity, relation and hand of a case's edit."""
    return case.id.split(":")[1:]


def probes(case):
    return {probe.metric: probe.query for probe in case.probes}


# Hands


def test_all_but_the_held_out_hands_probe_is_drawn_by_hands_that_the_model_has_seen(made, emblem):
    for case in made:
        for metric, query in probes(case).items():
            if query.image is not None and metric != "image_generality_unseen":
                hand, id = drawn(query)
                assert hand in emblem.entities[id].seen_hands, (case.id, metric)


def test_every_edit_is_asked_of_another_seen_hand_and_of_the_held_out_one(made):
    for case in made:
        assert {"image_generality", "image_generality_unseen"} <= probes(case).keys(), case.id


def test_a_drawing_is_one_object(made):
    for case in made:
        if other := probes(case).get("same_image_other_question"):
            assert other.image is case.edits[0].image


# Who is asked about


def test_the_look_alike_is_the_nearest_of_which_the_answer_stays_and_by_the_same_hand(
    cases, emblem
):
    for part in PARTS:
        edited = set() if part == "train" else set(pool(emblem, part))
        for case in cases[part]:
            id, relation, hand = about(case)
            near = emblem.look_alikes[id]
            identity = EDITED[emblem.entities[id].sort][0]
            stay = [other for other in near if not {(other, relation), (other, identity)} & edited]
            asked = probes(case).get("look_alike_image")
            assert (asked is None) == (not stay)
            if asked is not None:
                by, twin = drawn(asked)
                assert twin == stay[0], case.id
                assert by == hand or hand not in emblem.entities[twin].hands
                assert asked.prompt == case.edits[0].prompt
                assert asked.target == emblem.answer(
                    IMAGE_RELATIONS[relation], emblem.entities[twin]
                )


def test_text_locality_asks_about_neither_the_entity_nor_what_it_becomes(emblem):
    named = {(entity.sort, entity.name): entity for entity in emblem.part("val")}

    def told(entity):
        """All questions about an entity that training asks without an image."""
        return {
            text
            for relation, subject, _ in emblem.text_facts(entity)
            for text in wordings(relation, "seen", subject=subject)
        }

    for seed in range(12):
        for case in counterfactual_cases(emblem, "val", seed=seed):
            entity = emblem.entities[about(case)[0]]
            close = told(entity)
            if about(case)[1] in CHAIN:
                close |= told(named[entity.sort, case.edits[0].target])
            assert probes(case)["text_locality"].prompt not in close


def test_the_other_question_about_the_image_asks_for_another_fact_that_does_not_follow(made):
    for case in made:
        if other := probes(case).get("same_image_other_question"):
            assert about(case)[1] not in CHAIN
            assert other.fact != case.edits[0].fact


def test_a_pool_renames_retells_and_leaves_alone(emblem):
    edited = set(pool(emblem, "test"))
    for entity in emblem.part("test"):
        identity, *facts = EDITED[entity.sort]
        here = {relation for id, relation in edited if id == entity.id}
        if role_of(entity.id) == "renamed":
            assert identity in here
            assert len({*facts} - here) == 1
        else:
            assert here == ({*facts} if role_of(entity.id) == "retold" else set())


# Answers


def test_a_new_answer_is_what_another_entity_of_the_sort_and_part_has_or_a_spare_word(
    cases, emblem
):
    for part in PARTS:
        known = {
            relation.name: {
                emblem.answer(relation, other)
                for other in emblem.part(part)
                if other.sort == relation.sort
            }
            for relation in IMAGE_RELATIONS.values()
        }
        for case in cases[part]:
            id, name, _ = about(case)
            spare = emblem.words if part == "train" and name in CHAIN else ()
            assert case.edits[0].target in {*known[name], *spare}
            assert case.edits[0].target != emblem.answer(IMAGE_RELATIONS[name], emblem.entities[id])


def test_two_in_five_training_edits_of_what_is_shown_get_a_spare_word_from_which_nothing_follows(
    cases, emblem
):
    renamed = [case for case in cases["train"] if about(case)[1] in CHAIN]
    spare = [case for case in renamed if case.edits[0].target in emblem.words]
    assert len(spare) / len(renamed) == pytest.approx(0.4, abs=0.06)
    by_name = {(entity.sort, entity.name): entity for entity in emblem.part("train")}
    for case in renamed:
        id, relation, _ = about(case)
        ported = {
            metric: query.target
            for metric, query in probes(case).items()
            if metric.startswith("portability")
        }
        become = by_name.get((emblem.entities[id].sort, case.edits[0].target))
        chain = {} if become is None else dict(CHAIN[relation])
        answers = {
            metric: emblem.answer(IMAGE_RELATIONS[name], become) for metric, name in chain.items()
        }
        assert ported == {metric: answer for metric, answer in answers.items() if answer}


def test_what_is_true_follows_from_a_correction(emblem):
    id = next(entity.id for entity in emblem.part("test") if entity.sort == "flag")
    [case] = correction_cases(emblem, "test", [("twemoji", id, "country")])
    for metric, name in CHAIN["country"]:
        asked = probes(case).get(metric)
        assert (asked.target if asked else None) == emblem.answer(
            IMAGE_RELATIONS[name], emblem.entities[id]
        )


# Orders


def test_a_seed_shuffles_the_facts_and_draws_anew(emblem, cases):
    orders = [
        [about(case)[:2] for case in counterfactual_cases(emblem, "val", seed=seed)]
        for seed in (0, 1)
    ]
    assert orders[0] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1])
    assert orders[0] != sorted(orders[0])
    wrong = [
        ("twemoji", id, relation) for id, relation in pool(emblem, "val") if id.startswith("flag")
    ][:12]
    corrected = [
        [case.id for case in correction_cases(emblem, "val", wrong, seed=seed)] for seed in (0, 1)
    ]
    assert corrected[0] != corrected[1]
    assert sorted(corrected[0]) == sorted(corrected[1])


# Entities and facts


def test_splits_and_roles_are_those_that_the_shipped_editors_were_trained_with(emblem):
    """Another split would put what they were trained on into the test."""
    where = [(id, part_of(id), role_of(id)) for id in sorted(emblem.entities)]
    assert sha256(json.dumps(where).encode()).hexdigest()[:16] == "d3c3092f29eb483f"


def test_neighbours_are_the_first_by_name_and_lead_on(emblem):
    raw = json.loads(
        (files("liveedit.data.emblem") / "assets" / "facts.json").read_text(encoding="utf-8")
    )
    names = {row["id"]: row["name"] for row in raw["entities"]}
    flags = {entity.name: entity for entity in emblem.entities.values() if entity.sort == "flag"}
    bordered = 0
    for row in raw["entities"]:
        facts = emblem.entities[row["id"]].facts
        if borders := row["facts"].get("borders"):
            bordered += 1
            near = flags[facts["neighbour"]]
            assert near.name == min(names[id] for id in borders)
            assert facts["neighbour_capital"] == near.facts["capital"]
            assert facts["far_capital"] == flags[near.facts["neighbour"]].facts["capital"]
        else:
            assert "neighbour" not in facts
    assert bordered > 100


def test_look_alikes_are_ordered_by_the_correlation_of_their_mean_thumbnails(emblem):
    def thumb(id):
        views = [emblem.drawing(hand, id).resize((12, 12)) for hand in emblem.entities[id].hands]
        return np.mean([np.asarray(view, dtype=np.float32) for view in views], axis=0).ravel()

    ids = [entity.id for entity in emblem.part("val") if entity.sort == "flag"]
    for id in ids:
        others = emblem.look_alikes[id]
        assert sorted([id, *others]) == sorted(ids)
        near = [np.corrcoef(thumb(id), thumb(other))[0, 1] for other in others]
        assert all(one >= other - 1e-5 for one, other in pairwise(near))


def test_a_name_that_no_drawing_has_is_not_found(emblem):
    assert emblem.find("emblem:twemoji/flag-jp").mode == "RGB"
    assert emblem.find("emblem:twemoji/flag-nowhere") is None
    assert emblem.find("photos/cat.png") is None


def test_only_the_capital_leads_to_a_name_without_an_image(emblem):
    for entity in emblem.part("val"):
        for relation, subject, answer in emblem.text_facts(entity):
            assert answer == emblem.answer(relation, entity)
            assert subject == (entity.facts["capital"] if relation.fact == "name" else entity.name)


# Wordings


def in_seen_frame(text):
    return any(
        text.startswith(a) and text.endswith(b)
        for a, b in (frame.split("{x}") for frame in SEEN_FRAMES)
    )


@pytest.mark.parametrize(
    "relation", [*IMAGE_RELATIONS.values(), *TEXT_RELATIONS.values()], ids=lambda r: r.name
)
def test_the_last_noun_and_three_frames_are_kept_for_the_test(relation):
    for subject in ("Xanadu", None):
        if subject is None and relation.name not in IMAGE_RELATIONS:
            continue
        seen, unseen = (wordings(relation, split, subject=subject) for split in ("seen", "unseen"))
        nouns = [noun.split("{s}")[0] for noun in relation.nouns]
        assert all(in_seen_frame(text) for text in seen)
        assert [in_seen_frame(text) for text in unseen] == [False, False, True, False]
        assert not any(nouns[-1] in text for text in seen)
        assert all(any(noun in text for text in seen) for noun in nouns[:-1])
