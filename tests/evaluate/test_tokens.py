"""Token ids of batches, against loops over rows and positions."""

import pytest
import torch

from liveedit.evaluate.tokens import answer_tokens, predictions, shown_answer
from liveedit.models.batch import IGNORED, predicting

B, T, V = 4, 9, 23


@pytest.fixture
def logits():
    return torch.randn(B, T, V, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def labels():
    labels = torch.full((B, T), IGNORED)
    labels[0, 3:6] = torch.tensor([4, 0, 22])  # token 0 is an answer too
    labels[1, 8:] = 7
    labels[3, 1:3] = torch.tensor([5, 5])
    return labels


def test_answer_tokens(labels):
    assert answer_tokens(labels) == [(4, 0, 22), (7,), (), (5, 5)]


def test_predictions_stand_one_left_of_the_answers(logits, labels):
    slow = []
    for row in range(B):
        tokens = []
        for t in range(1, T):
            if labels[row, t] != IGNORED:
                tokens.append(
                    max(range(V), key=lambda token, row=row, t=t: float(logits[row, t - 1, token]))
                )
        slow.append(tuple(tokens))
    assert predictions(logits, predicting(labels)) == slow


STOP = 9


@pytest.mark.parametrize(
    ("forced", "predicted", "answer"),
    [
        ((1, 2), (1, 2, STOP), (1, 2)),
        ((1, 2), (1, STOP, 5), (1,)),
        ((1, 2), (STOP, 2, STOP), ()),
        ((), (STOP,), ()),
        ((1, 2), (1, 2, 3), None),
        ((1, 2), (1, 3, STOP), None),
        ((), (1,), None),
        ((1, 2, 3, 4), (1, 2, 3, 4, 5), (1, 2, 3)),
        ((1, 2, 3, 4), (1, 2, 3, 7, 5), (1, 2, 3)),
        ((1, 2, 3), (1, 2, 3, 4), (1, 2, 3)),
    ],
)
def test_an_answer_is_shown_as_far_as_it_is_forced(forced, predicted, answer):
    """Of three tokens at most."""
    assert shown_answer(forced, predicted, {STOP}, 3) == answer
