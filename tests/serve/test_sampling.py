"""Tokens that a request draws."""

from collections import Counter

import pytest
import torch

from liveedit.serve.sampling import Sampling

SCORES = torch.tensor([1.0, 3.0, 2.0, -torch.inf])


@pytest.mark.parametrize("options", [{"temperature": 5e-324}, {"top_p": 1e-30}, {"top_p": 0.0}])
def test_at_the_limits_the_likeliest_is_drawn(options):
    sampling = Sampling(**{"temperature": 1.0, "seed": 1} | options)
    assert {sampling.draw(SCORES) for _ in range(50)} == {1}


def test_tokens_are_drawn_by_their_chances():
    sampling = Sampling(1.0, seed=1)
    drawn = Counter(sampling.draw(SCORES) for _ in range(4000))
    for token, chance in enumerate(SCORES.softmax(0).tolist()):
        assert drawn[token] / 4000 == pytest.approx(chance, abs=0.03)
