"""UltraEdit: a turn against loops over the paper's equations and whole forward passes, turns."""

import pytest
import torch
from torch.nn import functional as F

from helpers.measures import target_loss
from helpers.samples import EDITS, plain
from liveedit.editors.common.moments import Moments
from liveedit.editors.ultraedit import UltraEdit, UltraEditConfig, coefficients
from liveedit.errors import BadInput, UnsupportedModel
from liveedit.models.patch import Patch
from liveedit.models.tiny import tiny
from liveedit.types import Query

pytestmark = pytest.mark.families

MORE = [*EDITS, Query("What is the film?", "a cup", plain("green"))]
TURNS = {"turn": 2, "lr": 1e-3, "layers": 2}


class Exchange(Patch):
    """Weights in place of the model's own."""

    def __init__(self, values):
        self.values = values

    def weights(self):
        return self.values


def normalised(rows, seen):
    """``rows`` minus mean, divided by standard deviation of ``seen``, number by number."""
    found = torch.zeros_like(rows)
    for j in range(rows.shape[1]):
        mean = sum(float(row[j]) for row in seen) / len(seen)
        square = sum((float(row[j]) - mean) ** 2 for row in seen) / (len(seen) - 1)
        for i, row in enumerate(rows):
            found[i, j] = (float(row[j]) - mean) / (square**0.5 + 1e-7)
    return found


def slow_change(z, seen, d_in, lr):
    """ΔW (d_out, d_in) of a turn by the equations as printed, in double precision."""
    z = z.double()
    hat = normalised(z, seen.double())
    left = torch.eye(d_in, dtype=torch.float64)
    right = torch.zeros(d_in, z.shape[1] - d_in, dtype=torch.float64)
    for row, unit in zip(z, hat, strict=True):
        h = row[:d_in]
        v = -lr * sum(float(x) ** 2 for x in unit[:d_in]) * unit[d_in:]
        left += torch.outer(h, h)
        right += torch.outer(h, v)
    return (left.inverse() @ right).T.float()


@pytest.mark.families("llava")
@pytest.mark.parametrize("tokens", [3, 9], ids=["fewer than d_in", "more than d_in"])
def test_a_turn_against_loops(vlm, tokens):
    generator = torch.Generator().manual_seed(0)
    before, z = (3 * torch.randn(n, 5 + 4, generator=generator) + 1 for n in (6, tokens))
    none = torch.zeros(9)
    moments = Moments(torch.zeros(()), none, none).joined(before).joined(z)
    found = coefficients(z, moments, d_in=5, lr=0.1).T @ z[:, :5]
    expected = slow_change(z, torch.cat([before, z]), d_in=5, lr=0.1)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def whole_pass(editor, query, weights):
    """z of each matrix by one whole pass: inputs, and gradients at outputs, where it answers."""
    vlm = editor.vlm
    seen = {}

    def watch(name):
        def hook(_, inputs, output):
            output.retain_grad()
            seen[name] = (inputs[0], output)

        return hook

    handles = [
        vlm.decoder.get_submodule(matrix.site).register_forward_hook(watch(matrix.name))
        for matrix in editor.matrices
    ]
    batch = vlm.encode([query])
    with torch.enable_grad(), vlm.patched(Exchange(weights)):
        logits = vlm.logits(batch)[batch.answer_positions()]
        F.cross_entropy(logits, batch.answer_tokens(), reduction="sum").backward()
    for handle in handles:
        handle.remove()
    here = batch.answer_positions()[0]
    return {
        name: torch.cat([inputs.detach().flatten(0, -2), output.grad.flatten(0, -2)], -1)[here]
        for name, (inputs, output) in seen.items()
    }  # flat, since OPT's matrices have rows of all tokens


def slow_edits(editor, turns):
    """The weights after turns of edits, and z of all of them by the matrix."""
    weights = {
        matrix.name: editor.vlm.parameter(matrix.name).detach().clone().requires_grad_()
        for matrix in editor.matrices
    }
    seen = {}
    for turn in turns:
        each = [whole_pass(editor, query, weights) for query in turn]
        z = {name: torch.cat([found[name] for found in each]) for name in weights}
        for matrix in editor.matrices:
            seen.setdefault(matrix.shape, []).append(z[matrix.name])
        for matrix in editor.matrices:
            alike = torch.cat(seen[matrix.shape])
            change = slow_change(z[matrix.name], alike, matrix.shape[1], editor.config.lr)
            new = weights[matrix.name].detach() + change
            weights[matrix.name] = new.requires_grad_()
    return weights


def test_edits_against_whole_passes_of_the_model(vlm):
    """Two turns: the second at the weights of the first, with the statistics of both."""
    editor = UltraEdit(vlm, UltraEditConfig(**TURNS))
    made = editor.edit(MORE[:3]).weights()
    expected = slow_edits(editor, [MORE[:2], MORE[2:3]])
    assert made.keys() == expected.keys()
    for name, value in expected.items():
        before = vlm.parameter(name)
        change = value.detach() - before
        assert change.abs().max() > 1e-4
        torch.testing.assert_close(
            made[name] - before, change, rtol=2e-2, atol=1e-3 * float(change.abs().max())
        )


def test_an_edit_raises_its_target(vlm):
    patch = UltraEdit(vlm, UltraEditConfig(lr=1e-2, layers=2)).edit(EDITS)
    before = target_loss(vlm, EDITS)
    with vlm.patched(patch):
        assert target_loss(vlm, EDITS) < before - 0.1


@pytest.mark.families("llava")
def test_only_a_turn_that_is_not_full_keeps_features(vlm):
    editor = UltraEdit(vlm, UltraEditConfig(**TURNS))
    sizes = [len(editor.edit(MORE[:count]).values) for count in range(5)]
    matrices = len(editor.matrices)
    assert sizes == [0, 2 * matrices, matrices + 3, 3 * matrices + 3, matrices + 3]


@pytest.mark.families("llava")
@pytest.mark.parametrize("first", [1, 2, 3])
def test_a_saved_patch_goes_on_bit_for_bit(vlm, first, tmp_path):
    editor = UltraEdit(vlm, UltraEditConfig(**TURNS))
    editor.edit(MORE[:first]).save(tmp_path)
    apart = editor.edit(MORE[first:], editor.load_patch(tmp_path)).weights()
    for name, value in editor.edit(MORE).weights().items():
        assert torch.equal(apart[name], value)


@pytest.mark.families("llava")
def test_the_layers_end_before_the_last(vlm):
    def edited(**settings):
        editor = UltraEdit(vlm, UltraEditConfig(**settings))
        return [matrix.site for matrix in editor.matrices], editor.below

    assert edited() == (["layers.2.mlp.gate_proj", "layers.2.mlp.up_proj"], 1)
    down = [f"layers.{layer}.mlp.down_proj" for layer in (1, 2)]
    assert edited(layers=2, matrices="down") == (down, 0)
    with pytest.raises(BadInput, match="can edit 1 to 2 layers here: change layers"):
        edited(layers=3)


@pytest.mark.families("llava")
def test_unknown_matrices_are_refused(vlm):
    with pytest.raises(BadInput, match="it should be 'up' or 'down'"):
        UltraEdit(vlm, UltraEditConfig(matrices="all"))


def test_a_model_without_a_known_network_is_refused():
    vlm = tiny("llava")
    for layer in vlm.layers:
        layer.mlp = torch.nn.Identity()
    with pytest.raises(UnsupportedModel, match="linear layers for every token"):
        UltraEdit(vlm)
