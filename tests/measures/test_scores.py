"""Scores of single records, and the locality of ranks against loops over positions and ranks."""

import pytest
import torch

from liveedit.measures.scores import (
    HEADLINES,
    LOGITS_SCORES,
    SCORES,
    normalise,
    score_heading,
    score_order,
    scores_of,
    share_kept,
    shown_scores,
    ten_best,
)

T, V = 9, 23
RIGHT = {"exact_match": 1.0, "contains": 1.0, "token_accuracy": 1.0, "unedited_match": 0.0}
KEPT = {"exact_match": 1.0, "token_accuracy": 1.0}


@pytest.mark.parametrize(
    ("answer", "same_as"),
    [
        (" Japan\n", "japan"),
        ("JAPAN.", "japan"),
        ("New   York .", "new york"),
        ("Straße", "STRASSE"),
        ("U.S.", "u.s"),
    ],
)
def test_normalise(answer, same_as):
    assert normalise(answer) == normalise(same_as)


def test_normalise_keeps_what_differs():
    assert normalise("Japan..") != normalise("Japan")
    assert normalise("new york") != normalise("newyork")


@pytest.mark.parametrize(
    ("changes", "scores"),
    [
        ({"answer_after": " japan. "}, RIGHT),
        ({"answer_after": "It is JAPAN, I think"}, RIGHT | {"exact_match": 0.0}),
        ({"answer_after": "Jap an"}, RIGHT | {"exact_match": 0.0, "contains": 0.0}),
        ({"answer_before": "japan"}, RIGHT | {"unedited_match": 1.0}),
        (
            {"tokens_wanted": (1, 2, 3, 4), "tokens_after": (1, 9, 3, 9)},
            RIGHT | {"token_accuracy": 0.5},
        ),
        ({"tokens_wanted": (1, 2, 3, 4), "tokens_after": (1, 2)}, RIGHT | {"token_accuracy": 0.5}),
        (
            {"tokens_wanted": (), "tokens_after": ()},
            {name: value for name, value in RIGHT.items() if name != "token_accuracy"},
        ),
        ({"answer_after": "nippon", "aliases": ("NIPPON.", "Nihon")}, RIGHT),
        (
            {"answer_after": "It is Nihon", "aliases": ("Nippon", "Nihon")},
            RIGHT | {"exact_match": 0.0},
        ),
        (
            {"answer_after": "Peru", "aliases": ("Nippon", ".")},
            RIGHT | {"exact_match": 0.0, "contains": 0.0},
        ),
        ({"answer_before": "Nihon", "aliases": ("Nihon",)}, RIGHT | {"unedited_match": 1.0}),
        ({"wanted": "before", "answer_after": "France"}, KEPT),
        ({"wanted": "before", "answer_after": "france"}, KEPT | {"exact_match": 0.0}),
        (
            {"wanted": "before", "answer_after": "France", "scores": {"top10_rank": 0.25}},
            KEPT | {"top10_rank": 0.25},
        ),
        (
            {"wanted": "before", "answer_after": "France", "scores": {"top1_kept": 0.0}},
            KEPT | {"top1_kept": 0.0},
        ),
        ({"scores": {"exact_match": 0.0, "bleu": 0.5}}, RIGHT | {"exact_match": 0.0, "bleu": 0.5}),
    ],
)
def test_scores_of_a_record(record, changes, scores):
    names = {"token_accuracy", "exact_match", "contains", "unedited_match", *scores}
    found = scores_of(record(**changes))
    assert {name: found[name] for name in names if name in found} == scores


@pytest.fixture
def logits():
    return torch.randn(4, T, V, generator=torch.Generator().manual_seed(0))


def slow_kept(before, after, real):
    """VLKEB: over all positions, the ordered ten best tokens, rank by rank."""
    same = slots = 0
    for t in range(T):
        if real[t]:
            ranked = [
                sorted(range(V), key=lambda token, x=x: -float(x[t, token]))[:10]
                for x in (before, after)
            ]
            same += sum(one == other for one, other in zip(*ranked, strict=True))
            slots += 10
    return same / slots


def test_top10_by_rank(logits):
    changed = logits + 0.3 * torch.randn(logits.shape, generator=torch.Generator().manual_seed(1))
    real = torch.tensor(
        [[True] * 9, [True] * 4 + [False] * 5, [False] * 2 + [True] * 7, [True] + [False] * 8]
    )
    for row in range(4):
        slow = slow_kept(logits[row], changed[row], real[row])
        before = ten_best(logits[row][real[row]])
        after = ten_best(changed[row][real[row]])
        assert LOGITS_SCORES["top10_rank"].compare(before, after) == pytest.approx(slow, abs=1e-12)
        first = (before[:, 0] == after[:, 0]).double().mean()
        assert LOGITS_SCORES["top1_kept"].compare(before, after) == pytest.approx(first)
        assert 0 < slow < 1
        assert share_kept(before, before, 10) == 1.0


def test_the_ten_best_are_small(logits):
    top = ten_best(logits[0])
    assert top.shape == (T, 10)
    assert top.dtype == torch.int32
    assert ten_best(logits[0][:, :6]).shape == (T, 6)


def test_a_longer_row_is_compared_at_its_end(logits):
    assert share_kept(ten_best(logits[0, 3:]), ten_best(logits[0]), 10) == 1.0


def test_every_score_has_one_formula():
    for score in SCORES:
        assert (score.of_record is None) != (score.of_logits is None)
    assert len({score.name for score in SCORES}) == len(SCORES)


def test_the_papers_scores_say_how_they_stand_in_a_text():
    assert [score.name for score in HEADLINES] == ["token_accuracy", "exact_match"]
    assert all(score.short and score.locality for score in HEADLINES)


def test_a_score_that_is_not_declared_comes_last_under_its_name():
    names = ["zeal", "exact_match", "awe", "unedited_match", "token_accuracy"]
    ordered = ["token_accuracy", "exact_match", "unedited_match", "awe", "zeal"]
    assert sorted(names, key=score_order) == ordered
    assert score_heading("zeal") == "zeal"
    assert shown_scores(names) == ["token_accuracy", "exact_match", "awe", "zeal"]
