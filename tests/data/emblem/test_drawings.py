"""Emblem's entities: splits, roles, facts and look-alikes."""

import json
from hashlib import sha256
from importlib.resources import files
from itertools import pairwise

import numpy as np
import pytest

from liveedit.data.emblem.drawings import EDITED, PARTS, part_of, role_of
from liveedit.data.emblem.wordings import IMAGE_RELATIONS


def test_splits_share_no_entity(emblem):
    parts = [{entity.id for entity in emblem.part(part)} for part in PARTS]
    assert sum(map(len, parts)) == len(emblem.entities)
    assert set.union(*parts) == {*emblem.entities}


def test_splits_and_roles_are_those_that_the_shipped_editors_were_trained_with(emblem):
    """Another split would put what they were trained on into the test."""
    where = [(id, part_of(id), role_of(id)) for id in sorted(emblem.entities)]
    assert sha256(json.dumps(where).encode()).hexdigest()[:16] == "7c47a794fd501663"


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
    assert bordered == 154


def test_first_neighbours_are_first_by_name(emblem):
    germany = emblem.entities["flag-de"]
    assert germany.facts["neighbour"] == "Austria"
    assert germany.facts["neighbour_capital"] == "Vienna"


def test_every_edited_relation_has_an_answer(emblem):
    for entity in emblem.entities.values():
        for name in EDITED[entity.sort]:
            assert emblem.answer(IMAGE_RELATIONS[name], entity), (entity.id, name)


@pytest.mark.slow
def test_look_alikes_are_all_others_of_the_same_sort_and_split(emblem):
    groups = {}
    for id in emblem.entities:
        groups.setdefault((id.partition("-")[0], part_of(id)), set()).add(id)
    assert emblem.look_alikes.keys() == emblem.entities.keys()
    for id, others in emblem.look_alikes.items():
        assert len(others) == len({*others})
        assert {id, *others} == groups[id.partition("-")[0], part_of(id)]


def test_look_alikes_are_ordered_by_the_correlation_of_their_mean_thumbnails(emblem):
    def thumb(id):
        views = [
            emblem.drawing(artist, id).resize((12, 12)) for artist in emblem.entities[id].artists
        ]
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
