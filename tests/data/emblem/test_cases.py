"""Emblem's cases: nothing leaks, every probe says what it should, random choices are fair."""

from collections import Counter
from pathlib import Path
from statistics import median

import pytest

from liveedit.data import load_cases
from liveedit.data.emblem.cases import correction_cases, counterfactual_cases, edited_facts
from liveedit.data.emblem.drawings import CHAIN, EDITED, PARTS, UNSEEN_ARTISTS, part_of, role_of
from liveedit.data.emblem.wordings import IMAGE_RELATIONS, wordings
from liveedit.editable import load_vlm
from liveedit.runinfo import digest

CARD = (Path(__file__).parents[3] / "docs" / "explanation" / "data-card.md").read_text(
    encoding="utf-8"
)
ALWAYS = {
    "reliability", "text_generality", "image_generality", "image_generality_unseen",
    "image_locality", "text_locality", "question_alone", "image_alone", "look_alike_image",
}  # fmt: skip
"""Metrics of which every counterfactual case has a probe."""
COUNTS = {
    "train": (1571, 1174, 227, 213, 42),
    "val": (90, 64, 4, 7, 2),
    "test": (1042, 520, 114, 102, 35),
}
"""Cases of a split, its other questions about the image, and its portability probes by hops."""
CORRECTED = {"train": 281, "val": 25, "test": 292}
"""Corrections of a split."""


def drawn(query):
    """The artist and the entity of a query's drawing."""
    return query.image.info["name"].removeprefix("emblem:").split("/")


def edited(case):
    """Entity, relation and artist of a case's edit."""
    return case.id.split(":")[1:]


def probes(case):
    """A case's queries by metric."""
    return {probe.metric: probe.query for probe in case.probes}


# Counts, order and splits


@pytest.mark.one_in(2)
def test_every_case_has_its_probes(made, part):
    counted = Counter()
    for case in made:
        counted.update(probe.metric for probe in case.probes)
    cases, others, *ported = COUNTS[part]
    assert len(made) == cases
    assert {metric for metric, count in counted.items() if count == cases} == ALWAYS
    assert counted["same_image_other_question"] == others
    assert [counted[f"portability_{hops}hop"] for hops in (1, 2, 3)] == ported


@pytest.mark.one_in(2)
def test_ids_are_unique(made):
    assert len({case.id for case in made}) == len(made)


@pytest.mark.slow
def test_cases_are_the_same_every_time(cases):
    assert digest(load_cases("emblem", "val")) == digest(cases["val"])
    assert digest(load_cases("emblem", "val", 1)) != digest(cases["val"])


@pytest.mark.slow
def test_a_seed_shuffles_the_facts_and_draws_anew(emblem):
    one, other = (
        [edited(case)[:2] for case in counterfactual_cases(emblem, "val", seed=seed)]
        for seed in (0, 1)
    )
    assert one != other
    assert sorted(one) == sorted(other)
    assert one != sorted(one)


def test_a_seed_shuffles_corrections(emblem):
    flags = [fact for fact in edited_facts(emblem, "val") if fact[0].startswith("flag")]
    wrong = [("twemoji", id, relation) for id, relation in flags[:12]]
    one, other = (
        [case.id for case in correction_cases(emblem, "val", wrong, seed=seed)] for seed in (0, 1)
    )
    assert one != other
    assert sorted(one) == sorted(other)


def test_images_stay_in_their_split(made, part):
    for case in made:
        for query in case.queries:
            if query.image is not None:
                assert part_of(drawn(query)[1]) == part, case.id


def test_answers_stay_in_their_split(made, part, emblem):
    own = {entity.name for entity in emblem.part(part)}
    others = {entity.name for entity in emblem.entities.values()} - own
    for case in made:
        if edited(case)[1] in CHAIN:
            assert case.edits[0].target not in others, case.id


# What is edited


def test_an_edit_changes_the_answer(made, emblem):
    for case in made:
        id, relation, _ = edited(case)
        assert case.edits[0].target != emblem.answer(IMAGE_RELATIONS[relation], emblem.entities[id])


def test_a_bank_edits_identities_or_facts_or_nothing(emblem):
    facts_of = {}
    for id, relation in edited_facts(emblem, "test"):
        facts_of.setdefault(id, set()).add(relation)
    for entity in emblem.part("test"):
        identity, *facts = EDITED[entity.sort]
        here = facts_of.get(entity.id, set())
        role = role_of(entity.id)
        if role == "identity_edited":
            assert identity in here
            [left] = {*facts} - here
            assert left == "capital" or entity.sort == "emoji"
        else:
            assert here == ({*facts} if role == "facts_edited" else set())


@pytest.mark.parametrize("part", ["val", "test"])
def test_a_bank_of_all_edits_contradicts_neither_itself_nor_a_probe(cases, part):
    facts = {case.edits[0].fact for case in cases[part]}
    assert len(facts) == len(cases[part])
    for case in cases[part]:
        for probe in case.probes:
            fact = probe.query.fact
            id = fact.partition(":")[0]
            if probe.wanted == "target":
                assert fact == case.edits[0].fact or fact not in facts
            elif fact:
                assert fact not in facts
                assert f"{id}:{EDITED[id.partition('-')[0]][0]}" not in facts


def known_answers(emblem, part, relation):
    """All answers to a relation in one split."""
    members = [entity for entity in emblem.part(part) if entity.sort == relation.sort]
    return {emblem.answer(relation, entity) for entity in members}


def test_a_new_answer_is_what_another_entity_of_the_sort_and_part_has_or_a_spare_word(
    made, part, emblem
):
    known = {
        name: known_answers(emblem, part, relation) for name, relation in IMAGE_RELATIONS.items()
    }
    for case in made:
        name = edited(case)[1]
        spare = emblem.words if part == "train" and name in CHAIN else ()
        assert case.edits[0].target in {*known[name], *spare}


def test_two_in_five_training_edits_of_what_is_shown_get_a_spare_word(cases, emblem):
    identities = [case for case in cases["train"] if edited(case)[1] in CHAIN]
    spare = [case for case in identities if case.edits[0].target in emblem.words]
    assert (len(spare), len(identities)) == (170, 397)
    for case in spare:
        assert not [metric for metric in probes(case) if metric.startswith("portability")]


# Generality


def test_wordings_of_text_generality_are_never_trained_on(made, part):
    trained = set()
    for relation in IMAGE_RELATIONS.values():
        trained |= {*wordings(relation, "seen")}
    for case in made:
        for metric, query in probes(case).items():
            if query.image is not None and metric != "image_alone":
                reworded = metric == "text_generality"
                assert (query.prompt in trained) == (part == "train" or not reworded), case.id
                assert query.prompt != case.edits[0].prompt or not reworded


def test_image_generality_is_by_another_artist_of_the_same_entity(made):
    for case in made:
        artist, id = drawn(case.edits[0])
        for metric, query in probes(case).items():
            if metric.startswith("image_generality"):
                other, same = drawn(query)
                assert same == id
                assert other != artist
                unseen = other == UNSEEN_ARTISTS[id.partition("-")[0]]
                assert unseen == (metric == "image_generality_unseen")


def test_all_other_drawings_are_by_seen_artists(made, emblem):
    for case in made:
        for metric, query in probes(case).items():
            if query.image is not None and metric != "image_generality_unseen":
                artist, id = drawn(query)
                assert artist in emblem.entities[id].seen_artists, (case.id, metric)


def test_a_drawing_is_one_object(made):
    for case in made:
        if other := probes(case).get("same_image_other_question"):
            assert other.image is case.edits[0].image


# Locality


def test_a_fact_names_entity_and_relation_of_what_is_shown(made):
    for case in made:
        for metric, query in probes(case).items():
            if metric == "image_alone":
                continue
            assert (query.image is not None) == bool(query.fact)
            if query.fact:
                id, _, relation = query.fact.partition(":")
                assert id == drawn(query)[1]
                asked = IMAGE_RELATIONS[relation]
                assert query.prompt in wordings(asked, "seen") + wordings(asked, "unseen")


def test_locality_probes_are_about_others(made):
    for case in made:
        id = drawn(case.edits[0])[1]
        for probe in case.probes:
            if probe.metric in ("image_locality", "look_alike_image"):
                assert drawn(probe.query)[1] != id
                assert probe.wanted == "before"
            if probe.metric in ("text_locality", "question_alone"):
                assert probe.query.image is None
                assert probe.wanted == "before"


def text_questions(emblem, entity):
    """All questions about an entity that training asks without an image."""
    questions = set()
    for relation, subject, _ in emblem.text_facts(entity):
        questions |= {*wordings(relation, "seen", subject=subject)}
    return questions


def test_text_locality_asks_about_neither_the_entity_nor_what_it_becomes(emblem):
    named = {(entity.sort, entity.name): entity for entity in emblem.part("val")}
    for seed in range(12):
        for case in counterfactual_cases(emblem, "val", seed=seed):
            id, relation, _ = edited(case)
            entity = emblem.entities[id]
            close = text_questions(emblem, entity)
            if relation in CHAIN:
                close |= text_questions(emblem, named[entity.sort, case.edits[0].target])
            assert probes(case)["text_locality"].prompt not in close


def test_an_image_alone_is_the_edited_one_without_a_question(made):
    for case in made:
        [alone] = [probe for probe in case.probes if probe.metric == "image_alone"]
        assert (alone.query.prompt, alone.query.target, alone.wanted) == ("", "", "before")
        assert alone.query.image is case.edits[0].image


def test_the_other_question_about_the_image_asks_for_another_fact_that_does_not_follow(made):
    for case in made:
        if other := probes(case).get("same_image_other_question"):
            assert edited(case)[1] not in CHAIN
            assert other.fact != case.edits[0].fact


@pytest.mark.parametrize("part", PARTS)
def test_the_look_alike_is_the_nearest_whose_answer_stays_by_the_same_artist(cases, emblem, part):
    changed = set() if part == "train" else set(edited_facts(emblem, part))
    for case in cases[part]:
        id, relation, artist = edited(case)
        identity = EDITED[emblem.entities[id].sort][0]
        asked = probes(case)["look_alike_image"]
        by, twin = drawn(asked)
        nearer = emblem.look_alikes[id][: emblem.look_alikes[id].index(twin)]
        assert not {(twin, relation), (twin, identity)} & changed
        assert all({(other, relation), (other, identity)} & changed for other in nearer), case.id
        assert by == artist or artist not in emblem.entities[twin].artists
        assert asked.prompt == case.edits[0].prompt
        assert asked.target == emblem.answer(IMAGE_RELATIONS[relation], emblem.entities[twin])


# Portability


def test_portability_follows_from_the_new_answer(made, part, emblem):
    by_name = {entity.name: entity for entity in emblem.part(part)}
    changed = set() if part == "train" else set(edited_facts(emblem, part))
    for case in made:
        id, relation, _ = edited(case)
        wanted = {}
        become = by_name.get(case.edits[0].target) if relation in CHAIN else None
        if become is not None:
            for metric, name in CHAIN[relation]:
                answer = emblem.answer(IMAGE_RELATIONS[name], become)
                if answer and (id, name) not in changed:
                    wanted[metric] = answer
        asked = probes(case).items()
        assert wanted == {
            metric: query.target for metric, query in asked if metric.startswith("portability")
        }


# Corrections


@pytest.fixture(scope="module")
def corrected(part):
    return load_cases("emblem-corrections", part)


def test_corrections_give_the_true_answer(corrected, part, emblem):
    assert len({case.id for case in corrected}) == len(corrected) == CORRECTED[part]
    for case in corrected:
        kind, id, relation, artist = case.id.split(":")
        assert (kind, part_of(id), drawn(case.edits[0])) == ("correct", part, [artist, id])
        assert case.edits[0].target == emblem.answer(IMAGE_RELATIONS[relation], emblem.entities[id])


def test_corrections_ask_about_nothing_that_the_bank_corrects(corrected):
    facts = {case.edits[0].fact for case in corrected}
    for case in corrected:
        kept = {probe.query.fact for probe in case.probes if probe.wanted == "before"}
        assert not facts & kept, case.id


def test_true_facts_follow_from_a_correction(emblem):
    id = next(entity.id for entity in emblem.part("test") if entity.sort == "flag")
    [case] = correction_cases(emblem, "test", [("twemoji", id, "country")])
    for metric, name in CHAIN["country"]:
        asked = probes(case).get(metric)
        answer = emblem.answer(IMAGE_RELATIONS[name], emblem.entities[id])
        assert (asked.target if asked else None) == answer


def test_the_embedded_model_is_wrong_about_corrections():
    """28 of 32 are answered wrongly.

    The list was measured in one wording of each question; a case may ask in another, which the
    model may answer right.
    """
    edits = [case.edits[0] for case in load_cases("emblem-corrections", "test")[:32]]
    answers = load_vlm().generate(edits)
    wrong = [answer != edit.target for answer, edit in zip(answers, edits, strict=True)]
    assert sum(wrong) >= 27


# The data card


@pytest.mark.slow
def test_the_card_says_how_many_answers_return(cases):
    trained = set()
    for seed in range(3):
        trained |= {case.edits[0].target for case in load_cases("emblem", "train", seed)}
    returned = {}
    for case in cases["test"]:
        returned.setdefault(edited(case)[1], []).append(case.edits[0].target in trained)
    total = sum(map(sum, returned.values()))
    assert f"{100 * total / len(cases['test']):.1f} % of the test edits" in CARD
    for relation in ("country", "name", "capital"):
        assert not any(returned[relation])
    for relation in ("continent", "group"):
        assert all(returned[relation])
    assert [returned[relation].count(False) for relation in ("kind", "region")] == [5, 2]


def test_the_card_says_how_alike_look_alikes_are(cases, emblem):
    named = {entity.name: entity.id for entity in emblem.entities.values()}
    ranks = []
    for case in cases["test"]:
        [twin] = [named[probe.note] for probe in case.probes if probe.metric == "look_alike_image"]
        ranks.append(1 + emblem.look_alikes[edited(case)[0]].index(twin))
    text = " ".join(CARD.split())
    share = f"{100 * ranks.count(1) / len(ranks):.1f} %"
    assert f"similar entity of all in {share} of the test cases" in text
    assert median(ranks) == 5
    assert "in the median the fifth" in text
