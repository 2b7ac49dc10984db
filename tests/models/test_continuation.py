"""Only the tokens that predict answers are run, and the logits stay what they are."""

from dataclasses import replace

import pytest
import torch

from helpers.samples import BLUE, GREEN, RED
from liveedit.models.continuation import continued
from liveedit.models.tiny import tiny
from liveedit.types import Query

LAYER = 1
QUERIES = [
    Query("What is the country with this flag?", "Japan", RED),
    Query("Which film is this?", "a cup", BLUE),
    Query("What?", "Rain", GREEN),
]
CONTINUING = ("llava", "blip2", "qwen2_vl", "gemma3", "git")
"""Decoders that differ in positions, and in how far they look back."""


@pytest.fixture(scope="module", params=CONTINUING)
def read(request):
    """A model, and the states of queries at a layer."""
    vlm = tiny(request.param)
    return vlm, vlm.hidden(vlm.encode(QUERIES), LAYER)


def logits_of(vlm, hidden):
    """The logits that predict the answers."""
    return vlm.resume(LAYER, hidden, hidden.answer_positions())


def test_it_is_the_end_of_the_rows(read):
    vlm, hidden = read
    end = continued(vlm, LAYER, hidden)
    assert end.labels.shape[1] < hidden.labels.shape[1] - 1
    assert torch.equal(end.answer_tokens(), hidden.answer_tokens())
    assert torch.equal(end.answer_rows(), hidden.answer_rows())
    at_answers = end.hidden[end.answer_positions()]
    assert torch.equal(at_answers, hidden.hidden[hidden.answer_positions()])


def test_the_logits_are_those_of_all_tokens_again_and_again(read):
    vlm, hidden = read
    end = continued(vlm, LAYER, hidden)
    expected = logits_of(vlm, hidden)
    for _ in range(2):
        torch.testing.assert_close(logits_of(vlm, end), expected, rtol=1e-4, atol=1e-5)


def test_gradients_at_the_answers_are_those_of_all_tokens(read):
    vlm, hidden = read
    found = []
    for given in (hidden, continued(vlm, LAYER, hidden)):
        states = given.hidden.clone().requires_grad_()
        logits = logits_of(vlm, replace(given, hidden=states))
        torch.autograd.backward(logits.log_softmax(-1)[:, 5].sum())
        found.append(states.grad[given.answer_positions()])
    torch.testing.assert_close(found[1], found[0], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", ["gemma3n", "qwen3_5"])
def test_a_model_that_cannot_continue_runs_all_tokens(name):
    vlm = tiny(name)
    hidden = vlm.hidden(vlm.encode(QUERIES), 0)
    assert continued(vlm, 0, hidden) is hidden
