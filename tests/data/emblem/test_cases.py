"""Emblem's splits and cases: nothing leaks, every probe says what it should."""

from pathlib import Path
from statistics import median

import pytest

from liveedit.data import BENCHMARKS, load_cases
from liveedit.data.emblem.drawings import EDITED, UNSEEN_HANDS, Emblem, part_of
from liveedit.data.emblem.wordings import IMAGE_RELATIONS, TEXT_RELATIONS, wordings
from liveedit.editable import load_vlm
from liveedit.errors import UnknownName

CARD = (Path(__file__).parents[3] / "docs" / "explanation" / "data-card.md").read_text(
    encoding="utf-8"
)


@pytest.fixture(scope="module")
def emblem():
    return Emblem()


@pytest.fixture(scope="module", params=["train", "val", "test"])
def cases(request):
    return request.param, load_cases("emblem", request.param)


def drawn(query):
    return query.image.info["name"].removeprefix("emblem:").split("/")


def test_splits_share_no_entity(emblem):
    parts = {name: {entity.id for entity in emblem.part(name)} for name in ("train", "val", "test")}
    assert sum(map(len, parts.values())) == len(emblem.entities)
    assert not parts["train"] & parts["test"]
    assert not parts["val"] & (parts["train"] | parts["test"])


def test_there_are_a_thousand_test_edits():
    assert len(load_cases("emblem", "test")) >= 1000


def test_images_stay_in_their_split(cases):
    part, made = cases
    for case in made:
        for query in [*case.edits, *(probe.query for probe in case.probes)]:
            if query.image is not None:
                assert part_of(drawn(query)[1]) == part, case.id


def test_answers_stay_in_their_split(cases, emblem):
    part, made = cases
    own = {entity.name for entity in emblem.part(part)}
    others = {entity.name for entity in emblem.entities.values()} - own
    for case in made:
        if case.id.split(":")[2] in ("country", "name"):
            assert case.edits[0].target not in others, case.id


def test_an_edit_changes_the_answer(cases, emblem):
    _, made = cases
    for case in made:
        _, id, relation, _ = case.id.split(":")
        assert case.edits[0].target != emblem.answer(IMAGE_RELATIONS[relation], emblem.entities[id])


def test_wordings_of_text_generality_are_never_trained_on(cases):
    part, made = cases
    trained = {text for relation in IMAGE_RELATIONS.values() for text in wordings(relation, "seen")}
    for case in made:
        for probe in case.probes:
            if probe.query.image is not None and probe.metric != "image_alone":
                reworded = probe.metric == "text_generality"
                assert (probe.query.prompt in trained) == (part == "train" or not reworded), probe
                assert probe.query.prompt != case.edits[0].prompt or not reworded


def test_a_fact_names_entity_and_relation_of_what_is_shown(cases):
    _, made = cases
    for case in made:
        for query in [
            *case.edits,
            *(probe.query for probe in case.probes if probe.metric != "image_alone"),
        ]:
            id, _, relation = query.fact.partition(":")
            assert (query.image is not None) == bool(query.fact)
            if query.fact:
                assert id == drawn(query)[1]
                asked = IMAGE_RELATIONS[relation]
                assert query.prompt in wordings(asked, "seen") + wordings(asked, "unseen")


@pytest.mark.parametrize("part", ["val", "test"])
def test_one_pool_of_all_edits_contradicts_neither_itself_nor_a_probe(part):
    made = load_cases("emblem", part)
    edited = {query.fact for case in made for query in case.edits}
    assert len(edited) == len(made)
    for case in made:
        for probe in case.probes:
            id = probe.query.fact.partition(":")[0]
            if probe.wanted == "target":
                assert probe.query.fact == case.edits[0].fact or probe.query.fact not in edited
            elif probe.query.fact:
                assert probe.query.fact not in edited
                assert f"{id}:{EDITED[id.partition('-')[0]][0]}" not in edited


def test_image_generality_is_another_hand_of_the_same_entity(cases):
    _, made = cases
    for case in made:
        hand, id = drawn(case.edits[0])
        for probe in case.probes:
            if probe.metric.startswith("image_generality"):
                other, same = drawn(probe.query)
                assert same == id
                assert other != hand
                unseen = other == UNSEEN_HANDS["flag" if id.startswith("flag") else "emoji"]
                assert unseen == (probe.metric == "image_generality_unseen")


def test_locality_probes_are_about_others(cases):
    _, made = cases
    for case in made:
        id = drawn(case.edits[0])[1]
        for probe in case.probes:
            if probe.metric in ("image_locality", "look_alike_image"):
                assert drawn(probe.query)[1] != id
                assert probe.wanted == "before"
            if probe.metric in ("text_locality", "question_alone"):
                assert probe.query.image is None


def test_an_image_alone_is_the_edited_one_without_a_question(cases):
    _, made = cases
    for case in made:
        [alone] = [probe for probe in case.probes if probe.metric == "image_alone"]
        assert (alone.query.prompt, alone.query.target, alone.wanted) == ("", "", "before")
        assert alone.query.image is case.edits[0].image


def test_portability_follows_from_the_new_answer(emblem):
    by_name = {entity.name: entity for entity in emblem.entities.values()}
    seen = 0
    for case in load_cases("emblem", "test"):
        become = by_name.get(case.edits[0].target)
        for probe in case.probes:
            if probe.metric == "portability_1hop":
                assert become is not None
                assert (
                    probe.query.target
                    == become.facts["capital" if become.sort == "flag" else "kind"]
                )
                seen += 1
    assert seen > 100


def test_cases_are_the_same_every_time():
    first, again, other = (
        load_cases("emblem", "val"),
        load_cases("emblem", "val"),
        load_cases("emblem", "val", 1),
    )
    assert [c.id for c in first] == [c.id for c in again]
    assert [[p.query.prompt for p in c.probes] for c in first] == [
        [p.query.prompt for p in c.probes] for c in again
    ]
    assert [c.id for c in first] != [c.id for c in other]


def test_ids_are_unique(cases):
    _, made = cases
    assert len({case.id for case in made}) == len(made)


@pytest.mark.parametrize(
    "relation",
    [*IMAGE_RELATIONS.values(), TEXT_RELATIONS["country_of_capital"]],
    ids=lambda r: r.name,
)
def test_a_relation_has_twelve_seen_and_four_unseen_wordings(relation):
    subjects = [None, "Japan"] if relation.name in IMAGE_RELATIONS else ["Tokyo"]
    for subject in subjects:
        seen, unseen = (wordings(relation, split, subject=subject) for split in ("seen", "unseen"))
        assert len(set(seen)) == 12
        assert len(set(unseen)) == 4
        assert not set(seen) & set(unseen)


def test_first_neighbours_are_first_by_name(emblem):
    germany = emblem.entities["flag-de"]
    assert germany.facts["neighbour"] == "Austria"
    assert germany.facts["neighbour_capital"] == "Vienna"


def test_every_edited_relation_has_an_answer(emblem):
    for entity in emblem.entities.values():
        for name in EDITED[entity.sort]:
            assert emblem.answer(IMAGE_RELATIONS[name], entity), (entity.id, name)


def test_look_alikes_are_of_the_same_sort_and_split(emblem):
    for id, others in list(emblem.look_alikes.items())[::50]:
        assert all(
            part_of(other) == part_of(id) and other.split("-")[0] == id.split("-")[0]
            for other in others
        )


def test_an_unknown_benchmark_is_named_with_the_nearest():
    with pytest.raises(UnknownName, match="did you mean emblem"):
        load_cases("emblen", "test")
    assert "emblem" in BENCHMARKS


@pytest.fixture(scope="module", params=["train", "val", "test"])
def corrected(request):
    return request.param, load_cases("emblem-corrections", request.param)


def test_corrections_give_the_true_answer(corrected, emblem):
    part, made = corrected
    assert len({case.id for case in made}) == len(made) > 10
    for case in made:
        kind, id, relation, hand = case.id.split(":")
        assert (kind, part_of(id), drawn(case.edits[0])) == ("correct", part, [hand, id])
        assert case.edits[0].target == emblem.answer(IMAGE_RELATIONS[relation], emblem.entities[id])


def test_corrections_ask_about_nothing_that_the_pool_corrects(corrected):
    _, made = corrected
    edited = {case.edits[0].fact for case in made}
    for case in made:
        kept = [
            probe.query.fact
            for probe in case.probes
            if probe.wanted == "before" and probe.query.fact
        ]
        assert not edited & set(kept), case.id


def test_what_is_corrected_is_wrong():
    """The list was measured in one wording of each question; a case may ask in another, which may
    be answered right.
    """
    edits = [case.edits[0] for case in load_cases("emblem-corrections", "test")[:32]]
    wrong = [
        answer != edit.target
        for answer, edit in zip(load_vlm().generate(edits), edits, strict=True)
    ]
    assert sum(wrong) >= 0.8 * len(wrong)


def test_the_card_says_how_many_answers_return(emblem):
    trained = {
        case.edits[0].target for seed in range(3) for case in load_cases("emblem", "train", seed)
    }
    edits = [case.edits[0] for case in load_cases("emblem", "test")]
    returned = [edit.target in trained for edit in edits]
    assert f"{100 * sum(returned) / len(returned):.1f} % of the test edits" in CARD
    by_relation = {}
    for edit, again in zip(edits, returned, strict=True):
        by_relation.setdefault(edit.fact.partition(":")[2], []).append(again)
    for relation in ("country", "name", "capital"):
        assert not any(by_relation[relation])
    for relation in ("continent", "group"):
        assert all(by_relation[relation])
    for relation in ("kind", "region"):
        assert sum(by_relation[relation]) > 0.95 * len(by_relation[relation])


def test_the_card_says_how_alike_look_alikes_are(emblem):
    named, ranks = {entity.name: entity.id for entity in emblem.entities.values()}, []
    for case in load_cases("emblem", "test"):
        [twin] = [named[probe.note] for probe in case.probes if probe.metric == "look_alike_image"]
        ranks.append(1 + emblem.look_alikes[case.edits[0].fact.partition(":")[0]].index(twin))
    text = " ".join(CARD.split())
    assert (
        f"similar entity of all in {100 * ranks.count(1) / len(ranks):.1f} % of the test cases"
        in text
    )
    assert median(ranks) == 5
    assert "in the median the fifth" in text
