"""The batched code against loops over rows, positions and ranks."""

import pytest
import torch

from liveedit.evaluate.metrics import answers, best, kept, predictions
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


def test_answers(labels):
    assert answers(labels) == [(4, 0, 22), (7,), (), (5, 5)]


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
    for row in range(B):
        slow = slow_kept(logits[row], changed[row], real[row])
        assert kept(best(logits[row], real[row]), best(changed[row], real[row])) == pytest.approx(
            slow, abs=1e-12
        )
        assert 0 < slow < 1
        assert kept(best(logits[row], real[row]), best(logits[row], real[row])) == 1.0


def test_best_is_small(logits):
    top = best(logits[0], torch.ones(T, dtype=torch.bool))
    assert top.shape == (T, 10)
    assert top.dtype == torch.int32
    assert best(logits[0][:, :6], torch.ones(T, dtype=torch.bool)).shape == (T, 6)


def test_a_longer_row_is_compared_at_its_end(logits):
    real = torch.ones(T, dtype=torch.bool)
    assert kept(best(logits[0, 3:], real[3:]), best(logits[0], real)) == 1.0
