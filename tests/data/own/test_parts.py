"""Parts of an own benchmark share nothing, whatever the corrections have in common."""

from collections import Counter
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st

from liveedit.data.corrections import Correction
from liveedit.data.images import images_hash
from liveedit.data.own.benchmarks import Own
from liveedit.data.own.cases import BACKGROUND, cases_of
from liveedit.data.own.items import items_of
from liveedit.data.own.parts import LEAST, PARTS, divided
from liveedit.data.own.splits import joined
from liveedit.errors import BadInput
from liveedit.question import question
from liveedit.types import Query

few = st.integers(0, 39)
row = st.fixed_dictionaries(
    {
        "question": st.sampled_from(["What is it?", "what  IS it?", "What for?", "Name it."]),
        "answer": st.integers(0, 60).map("thing {}".format),
        "image": st.one_of(st.none(), few, few, few),
        "more": st.lists(few, max_size=1),
        "paraphrases": st.lists(st.sampled_from(["Name it.", "Say it."]), max_size=1),
    }
)


def made(photos, rows):
    """The corrections of drawn rows."""
    return [
        Correction(
            Query(
                each["question"],
                each["answer"],
                None if each["image"] is None else photos[each["image"]],
            ),
            number,
            paraphrases=tuple(each["paraphrases"]),
            more_images=tuple(photos[more] for more in each["more"])
            if each["image"] is not None
            else (),
        )
        for number, each in enumerate(rows, start=1)
    ]


def own_of(photos, rows, seed=0):
    """A benchmark that is kept nowhere, or ``None`` for too few corrections."""
    try:
        items = divided(items_of(made(photos, rows)), Path("corrections.jsonl"), seed)
    except BadInput:
        return None
    return Own("mine", "corrections.jsonl", tuple(items))


@cache
def pixels_of(path):
    return images_hash([path])


def pixels(image):
    """The hash of an image, worked out once for a path."""
    return pixels_of(image) if isinstance(image, Path) else images_hash([image])


def shared_marks(queries):
    """The pixels that queries show, and their questions with answers."""
    found = set()
    for query in queries:
        found |= {pixels(image) for image in query.images}
        if query.target:
            found.add((question(query.prompt), question(query.target)))
    return found


quick = settings(
    max_examples=25,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.filter_too_much],
)


@quick
@given(rows=st.lists(row, min_size=18, max_size=32), seed=st.integers(0, 3))
def test_no_image_and_no_question_with_its_answer_is_in_two_parts(photos, rows, seed):
    own = own_of(photos, rows, seed)
    assume(own is not None)
    seen = {}
    for part in PARTS:
        queries = []
        for case in cases_of(without_views(own), part, seed):
            queries += case.edits
            probes = [probe for probe in case.probes if probe.note != BACKGROUND]
            queries += [probe.query for probe in probes]
        for item in own.items:
            if item.part == part:
                images = [Path(path) for path in (*item.images, *item.more_images)]
                queries.append(Query(item.question, item.answer, images))
        for mark in shared_marks(queries):
            assert seen.setdefault(mark, part) == part, mark


def key_of(query):
    """The pixels that a question is about, and the question."""
    return tuple(map(pixels, query.images)), question(query.prompt)


def without_views(own):
    """The benchmark whose views are the images themselves, as nothing was written."""
    return replace(own, items=tuple(replace(item, views=item.images[-1:]) for item in own.items))


@quick
@given(rows=st.lists(row, min_size=18, max_size=32))
def test_no_probe_contradicts_an_edit_of_its_part(photos, rows):
    own = own_of(photos, rows)
    assume(own is not None)
    for part in ("val", "test"):
        cases = cases_of(without_views(own), part, 0)
        edits = [case.edits[0] for case in cases]
        edited = {edit.fact for edit in edits}
        asked = {key_of(edit) for edit in edits}
        for case in cases:
            for probe in case.probes:
                query = probe.query
                if probe.wanted == "before":
                    assert not query.fact or query.fact not in edited
                    assert key_of(query) not in asked
                else:
                    assert query.fact == case.edits[0].fact


@given(st.lists(st.sets(st.integers(0, 30), max_size=3), max_size=30))
def test_items_are_joined_exactly_where_marks_lead_from_one_to_the_other(marked):
    groups = joined(marked)
    for number, marks in enumerate(marked):
        reached = {number}
        known = set(marks)
        grown = True
        while grown:
            near = {other for other, theirs in enumerate(marked) if theirs & known} - reached
            reached |= near
            grown = bool(near)
            for other in near:
                known |= marked[other]
        same = {other for other, group in enumerate(groups) if group == groups[number]}
        assert same == reached


def test_parts_depend_on_corrections_and_seed_alone(photos):
    rows = [
        {"question": "What?", "answer": f"{n}", "image": n, "more": [], "paraphrases": []}
        for n in range(30)
    ]
    first = {item.id: item.part for item in own_of(photos, rows).items}
    assert first == {item.id: item.part for item in own_of(photos, rows[::-1]).items}
    assert first != {item.id: item.part for item in own_of(photos, rows, seed=1).items}
    assert Counter(first.values()) == {"train": 18, "val": 3, "test": 9}


def test_too_few_corrections_are_refused_with_the_number_that_is_missing(photos):
    rows = [
        {"question": f"What {n}?", "answer": f"{n}", "image": 0, "more": [], "paraphrases": []}
        for n in range(50)
    ]
    with pytest.raises(BadInput, match=f"has 1 corrections .* add {LEAST - 1} more"):
        divided(items_of(made(photos, rows)), Path("corrections.jsonl"), 0)


def test_the_last_correction_of_a_question_holds(photos):
    rows = [
        {"question": text, "answer": answer, "image": 0, "more": [], "paraphrases": []}
        for text, answer in [("What is it?", "a cup"), ("what is  it?", "a pot")]
    ]
    [item] = items_of(made(photos, rows))
    assert item.answer == "a pot"
