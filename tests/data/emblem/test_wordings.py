"""Wordings of Emblem's questions: how many there are, and which are kept for the test."""

import pytest

from liveedit.data.emblem.wordings import IMAGE_RELATIONS, SEEN_FRAMES, TEXT_RELATIONS, wordings


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
