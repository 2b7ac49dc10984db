"""T-Patcher: its neurons and its losses against loops, and what an edit learns."""

import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from liveedit.editors.common.branch import Recorder
from liveedit.editors.tpatcher import TPatcher, TPatcherConfig
from liveedit.models.tiny import tiny
from liveedit.types import Query

EDITS = [
    Query("What is the country with this flag?", "Japan", Image.new("RGB", (32, 32), "red")),
    Query("Which film is this?", "Casablanca", Image.new("RGB", (32, 32), "blue")),
    Query("who sang the song", "Elvis Presley"),
]
FAST = TPatcherConfig(lr=5e-2, steps=60)


@pytest.fixture(scope="module", params=["llava", "blip2", "qwen2_vl"])
def vlm(request):
    return tiny(request.param)


def test_what_the_neurons_add(vlm):
    editor = TPatcher(vlm, FAST)
    patch, place = editor.edit(EDITS), editor.network
    batch = vlm.encode(EDITS)
    plain, edited = Recorder(place.reads, place.writes), Recorder(place.writes)
    with vlm.patched(plain):
        vlm.logits(batch)
    with vlm.patched(edited), vlm.patched(patch):
        vlm.logits(batch)
    q, bank = plain.seen[place.reads], patch.bank
    expected = plain.seen[place.writes].clone()
    for row in range(q.shape[0]):
        for token in range(q.shape[1]):
            for k, b, v in zip(bank["key"], bank["bias"], bank["value"], strict=True):
                expected[row, token] += max(float(q[row, token] @ k + b), 0.0) * v
    torch.testing.assert_close(edited.seen[place.writes], expected, rtol=1e-4, atol=1e-4)


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
    batch = vlm.encode([query])
    target = batch.labels[batch.labels >= 0]

    def loss():
        with torch.no_grad():
            return float(F.cross_entropy(vlm.logits(batch)[batch.answer_positions()], target))

    before = loss()
    with vlm.patched(TPatcher(vlm, FAST).edit([query])):
        assert loss() < 0.75 * before


def test_a_silent_neuron_leaves_the_model_bit_equal(vlm):
    editor = TPatcher(vlm, FAST)
    patch = editor.edit(EDITS)
    patch.bank["bias"].fill_(-1e6)
    batch = vlm.encode(EDITS)
    plain = vlm.logits(batch)
    with vlm.patched(patch):
        assert torch.equal(vlm.logits(batch), plain)


def test_memory_keeps_it_silent_elsewhere(vlm):
    """A neuron trained with a heavy memory loss is less active on the question than one trained
    with none.
    """

    def activity(weight):
        editor = TPatcher(vlm, TPatcherConfig(lr=5e-2, steps=60, silent=weight))
        patch, record = editor.edit(EDITS[:1]), Recorder(editor.network.reads)
        batch = vlm.encode(EDITS[:1])
        with vlm.patched(record):
            vlm.logits(batch)
        rest = record.seen[editor.network.reads][~batch.answer_positions()]
        return float(F.relu(rest @ patch.bank["key"].T + patch.bank["bias"]).mean())

    assert activity(1.0) < 0.5 * activity(0.0)


def test_earlier_neurons_stay(vlm):
    editor = TPatcher(vlm, FAST)
    first = editor.edit(EDITS[:1])
    both = editor.edit(EDITS[1:2], first)
    for name, rows in first.bank.tensors().items():
        assert torch.equal(both.bank[name][:1], rows)
    assert both.bank["memory"].shape[1] == FAST.memory
