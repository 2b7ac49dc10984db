"""T-Patcher: its neurons and its losses against loops, and what an edit learns."""

import pytest
import torch
from torch.nn import functional as F

from helpers.measures import states_under, target_loss
from helpers.samples import EDITS
from liveedit.editors.tpatcher import TPatcher, TPatcherConfig
from liveedit.models.patch import Patch

pytestmark = pytest.mark.families

FAST = TPatcherConfig(lr=5e-2, steps=60)


def test_every_neuron_adds_its_value_where_it_is_active(vlm):
    editor = TPatcher(vlm, FAST)
    patch = editor.edit(EDITS)
    place = editor.network
    q, _ = states_under(Patch(), vlm, EDITS, place.reads)
    expected, _ = states_under(Patch(), vlm, EDITS, place.writes)
    found, _ = states_under(patch, vlm, EDITS, place.writes)
    for row in range(q.shape[0]):
        for token in range(q.shape[1]):
            expected[row, token] += slow_neurons(patch.bank, q[row, token])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def slow_neurons(bank, q):
    """The sum of all neurons' outputs for one token."""
    rows = zip(bank["key"], bank["bias"], bank["value"], strict=True)
    return sum(max(float(q @ key + bias), 0.0) * value for key, bias, value in rows)


def test_the_losses_against_loops():
    generator = torch.Generator().manual_seed(0)
    states, key, bias = (
        torch.randn(*shape, generator=generator) for shape in ((7, 5), (1, 5), (1,))
    )
    scores = [float(state @ key[0] + bias) for state in states]
    active = sum(torch.exp(torch.tensor(-score)) for score in scores) / 7
    silent = sum(torch.exp(torch.tensor(max(score, 0.0))) for score in scores) / 7
    torch.testing.assert_close(TPatcher.activity_loss(states, key, bias), active)
    torch.testing.assert_close(TPatcher.silence_loss(states, key, bias), silent)


@pytest.mark.parametrize("query", EDITS, ids=lambda query: query.target)
def test_an_edit_takes(vlm, query):
    before = target_loss(vlm, [query])
    with vlm.patched(TPatcher(vlm, FAST).edit([query])):
        assert target_loss(vlm, [query]) < 0.75 * before


def test_a_silent_neuron_leaves_the_model_bit_equal(vlm):
    editor = TPatcher(vlm, FAST)
    patch = editor.edit(EDITS)
    patch.bank["bias"].fill_(-1e6)
    batch = vlm.encode(EDITS)
    plain = vlm.logits(batch)
    with vlm.patched(patch):
        assert torch.equal(vlm.logits(batch), plain)


def test_the_memory_loss_keeps_a_neuron_silent_elsewhere(vlm):
    """A neuron trained with a heavy memory loss is less active on the question than one trained
    with none.
    """

    def activity(weight):
        editor = TPatcher(vlm, TPatcherConfig(lr=5e-2, steps=60, silent=weight))
        patch = editor.edit(EDITS[:1])
        states, batch = states_under(Patch(), vlm, EDITS[:1], editor.network.reads)
        rest = states[~batch.answer_positions()]
        return float(F.relu(rest @ patch.bank["key"].T + patch.bank["bias"]).mean())

    assert activity(1.0) < 0.5 * activity(0.0)


def test_earlier_neurons_stay(vlm):
    editor = TPatcher(vlm, FAST)
    first = editor.edit(EDITS[:1])
    both = editor.edit(EDITS[1:2], first)
    for name, rows in first.bank.tensors().items():
        assert torch.equal(both.bank[name][:1], rows)
    assert both.bank["memory"].shape[1] == FAST.memory
