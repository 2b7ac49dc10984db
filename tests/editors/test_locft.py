"""LocFT-BF: against training the whole model epoch by epoch, and edits that join later."""

import copy

import pytest
import torch
from torch.nn import functional as F

from helpers.measures import target_loss
from helpers.samples import EDITS
from liveedit.editors import locft
from liveedit.editors.locft import LocFT, LocFTConfig
from liveedit.errors import UnsupportedModel
from liveedit.models.tiny import tiny

pytestmark = pytest.mark.families

BRIEF = {"lr": 3e-3, "epochs": 3, "batch": 2, "stop": 0.0}


def slow_training(vlm, editor):
    """The matrix after epochs of the whole model on its own, an edit at a time."""
    config = editor.config
    model = copy.deepcopy(vlm.model)
    weight = model.get_parameter(editor.matrix).requires_grad_()
    optimizer = torch.optim.Adam([weight], lr=config.lr)
    generator = torch.Generator().manual_seed(config.seed)
    for _ in range(config.epochs):
        order = torch.randperm(len(EDITS), generator=generator).tolist()
        for start in range(0, len(order), config.batch):
            numbers = order[start : start + config.batch]
            losses = []
            for number in numbers:
                batch = vlm.encode([EDITS[number]], eos=config.eos)
                logits = model(**batch.inputs).logits[batch.answer_positions()]
                losses.append(F.cross_entropy(logits, batch.answer_tokens()))
            optimizer.zero_grad()
            torch.stack(losses).mean().backward()
            optimizer.step()
    return weight.detach()


def test_it_is_training_the_whole_model_epoch_by_epoch(vlm):
    editor = LocFT(vlm, LocFTConfig(**BRIEF))
    [(name, made)] = editor.edit(EDITS).weights().items()
    before = vlm.parameter(name)
    expected = slow_training(vlm, editor) - before
    close = (made - before - expected).abs() <= 2e-4 + 2e-2 * expected.abs()
    assert expected.abs().max() > 3e-3
    assert close.float().mean() > 0.97  # elsewhere the gradient is only noise


def test_edits_are_learnt(vlm):
    editor = LocFT(vlm, LocFTConfig(lr=1e-2))
    before = target_loss(vlm, EDITS)
    with vlm.patched(editor.edit(EDITS)):
        assert target_loss(vlm, EDITS) < before - 1


@pytest.mark.families("llava")
def test_a_mini_batch_in_parts_is_the_same(vlm, monkeypatch):
    editor = LocFT(vlm, LocFTConfig(**BRIEF | {"batch": 3}))
    whole = editor.edit(EDITS).weights()[editor.matrix]
    monkeypatch.setattr(locft, "TOGETHER", 2)
    parts = editor.edit(EDITS).weights()[editor.matrix]
    before = vlm.parameter(editor.matrix)
    close = (parts - whole).abs() <= 1e-5 + 1e-2 * (whole - before).abs()
    assert close.float().mean() > 0.97


@pytest.mark.families("llava")
def test_the_seed_orders_the_edits(vlm):
    def made(seed):
        return LocFT(vlm, LocFTConfig(**BRIEF | {"batch": 1, "seed": seed})).edit(EDITS)

    first, other = (made(seed).weights() for seed in (0, 1))
    assert not torch.equal(*(next(iter(weights.values())) for weights in (first, other)))


def test_edits_that_join_are_trained_with_the_others(vlm, tmp_path):
    editor = LocFT(vlm, LocFTConfig(**BRIEF))
    editor.edit(EDITS[:2]).save(tmp_path)
    apart = editor.edit(EDITS[2:], editor.load_patch(tmp_path))
    together = editor.edit(EDITS)
    assert len(apart) == len(together) == 3
    assert torch.equal(apart.weights()[editor.matrix], together.weights()[editor.matrix])


@pytest.mark.families("llava")
def test_what_is_learnt_takes_no_step_and_ends_the_training(vlm):
    """The layers below run once an edit, the trained one once for all edits of one epoch."""
    counts = [0] * vlm.num_layers

    def count(module, *_):
        counts[[layer.mlp for layer in vlm.layers].index(module)] += 1

    handles = [layer.mlp.register_forward_hook(count) for layer in vlm.layers]
    editor = LocFT(vlm, LocFTConfig(stop=1e9))
    made = editor.edit(EDITS).weights()[editor.matrix]
    for handle in handles:
        handle.remove()
    assert torch.equal(made, vlm.parameter(editor.matrix))
    assert counts == [3, 3, 1, 1]


@pytest.mark.families("llava")
def test_a_single_batch_below_stop_takes_no_step(vlm):
    """With ``stop`` between the losses of two edits, only one of them moves the matrix."""
    losses = sorted((target_loss(vlm, [edit]), number) for number, edit in enumerate(EDITS[:2]))
    (low, easy), (high, hard) = losses
    stop = (low + high) / 2
    settings = {"epochs": 1, "batch": 1, "stop": stop, "eos": False}
    editor = LocFT(vlm, LocFTConfig(**settings))
    alone, hardest, both = (
        editor.edit(edits).weights()[editor.matrix]
        for edits in ([EDITS[easy]], [EDITS[hard]], EDITS[:2])
    )
    assert torch.equal(alone, vlm.parameter(editor.matrix))
    assert not torch.equal(hardest, alone)
    assert not torch.equal(both, alone)


def test_a_model_without_a_down_projection_is_refused():
    vlm = tiny("llava")
    vlm.layers[2].mlp = torch.nn.Identity()
    with pytest.raises(UnsupportedModel, match="linear layers for every token"):
        LocFT(vlm, LocFTConfig(layer=2))
