"""MEND: Eq. 3 and the running statistics against loops, the two ways to combine tokens, and
recorded numbers.
"""

import pytest
import torch

from helpers.recordings import Recording
from helpers.samples import EDITS, TEXT_EDIT
from liveedit.editors.common.gradients import Factors
from liveedit.editors.mend import MEND, GradientTransform, MENDConfig
from liveedit.errors import BadInput
from liveedit.models.tiny import tiny

TWO_EDITS = [EDITS[0], TEXT_EDIT]
SMALL_STEP = {"rank": 8, "alpha": 1e-3}


def drawn(network):
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn_like(parameter))
    return network


def some_factors(rows=2, tokens=5, d_in=4, d_out=3):
    generator = torch.Generator().manual_seed(0)
    u, delta = (torch.randn(rows, tokens, d, generator=generator) for d in (d_in, d_out))
    for factor in (u, delta):
        factor[0, 2:] = 0  # a row with two tokens
    return Factors(u, delta)


def test_the_transformation_against_a_loop():
    network = drawn(GradientTransform(3, 4, rank=2, modes=2))
    factors = some_factors()
    network.observe(factors)
    both = torch.cat([factors.u, factors.delta], dim=2)
    seen = torch.cat([both[0, :2], both[1]])
    mean = seen.mean(0)
    std = seen.std(0)
    for mode in (0, 1):
        found = network(factors, mode)
        for b in (0, 1):
            for t in range(5):
                if b == 0 and t > 1:
                    assert not found.u[b, t].any()
                    assert not found.delta[b, t].any()
                    continue
                z = (torch.cat([factors.u[b, t], factors.delta[b, t]]) - mean) / std
                for layer in (network.first, network.second):
                    inner = layer.u @ (layer.v @ z) + layer.bias
                    z = z + torch.relu(layer.scale[mode] * inner + layer.shift[mode])
                torch.testing.assert_close(
                    torch.cat([found.u[b, t], found.delta[b, t]]), z, rtol=1e-4, atol=1e-4
                )


def test_statistics_of_parts_are_those_of_the_whole():
    whole, parts = GradientTransform(3, 4, 2, 1), GradientTransform(3, 4, 2, 1)
    factors = some_factors()
    whole.observe(factors)
    for row in (0, 1):
        parts.observe(factors.pick(torch.tensor([row])))
    for name, value in whole.named_buffers():
        torch.testing.assert_close(parts.get_buffer(name), value)


def test_at_first_the_network_is_the_identity():
    network = GradientTransform(3, 4, rank=2, modes=1)
    factors = some_factors()
    found = network(factors, 0)
    assert torch.equal(found.u, factors.u)
    assert torch.equal(found.delta, factors.delta)
    (found.u.sum() + found.delta.sum()).backward()
    assert network.first.u.grad.any(), "at the identity, too, there is something to learn from"


def test_matrices_of_one_shape_share_a_network_and_have_a_mode_each():
    editor = MEND(
        tiny("llava"), MENDConfig(**SMALL_STEP)
    )  # 3 layers: gate and up 64 x 32, down 32 x 64
    assert {name: len(network.first.scale) for name, network in editor.transforms.items()} == {
        "64x32": 6,
        "32x64": 3,
    }
    assert editor.modes == [0, 1, 0, 2, 3, 1, 4, 5, 2]
    assert [matrix.name.rsplit("layers.")[-1] for matrix in editor.matrices[:3]] == [
        f"1.mlp.{name}_proj.weight" for name in ("gate", "up", "down")
    ]


def test_the_mean_is_over_the_tokens_of_all_edits():
    vlm = tiny("llava")
    torch.manual_seed(0)
    summed = MEND(vlm, MENDConfig(**SMALL_STEP))
    mean = MEND(vlm, MENDConfig(**SMALL_STEP, combine="mean"))
    mean.networks().load_state_dict(summed.networks().state_dict())
    with pytest.raises(AssertionError):
        torch.testing.assert_close(mean.edit(TWO_EDITS).changes(), summed.edit(TWO_EDITS).changes())
    patch = mean.empty()
    counts, sums = {}, {}
    for query in TWO_EDITS:
        with vlm.patched(patch):
            factors = summed.gradients(vlm.hidden(vlm.encode([query]), summed.below))
        for matrix in summed.matrices:
            found = summed.changes(factors, [""])[matrix.site]
            counts[matrix.name] = counts.get(matrix.name, 0) + int((found.u[0] != 0).any(-1).sum())
            for u, delta in zip(found.u[0].detach(), found.delta[0].detach(), strict=True):
                sums[matrix.name] = sums.get(matrix.name, 0) + torch.outer(delta, u)
        patch = mean.edit([query], patch)
    for name, change in patch.changes().items():
        torch.testing.assert_close(change, sums[name] / counts[name], rtol=1e-3, atol=1e-7)
    assert len(set(counts.values())) > 1, "the last layer has a gradient at the answer alone"


def test_the_loss_weighs_its_terms():
    editor = MEND(tiny("llava"), MENDConfig(**SMALL_STEP, c_edit=0.5, c_loc=2.0))
    terms = {
        name: torch.tensor(value)
        for name, value in {"reliability": 1.0, "image_generality": 3.0}.items()
    }
    terms["text_locality"] = torch.tensor(5.0)
    assert float(editor.objective(terms, {}, 0.0)) == 0.5 * 1 + 0.5 * 3 + 2 * 5


def test_another_way_to_combine_is_refused():
    with pytest.raises(BadInput, match="it should be 'sum' or 'mean'"):
        MEND(tiny("llava"), MENDConfig(combine="max"))


@pytest.fixture(scope="module")
def recording():
    return Recording("mend")


@pytest.fixture
def editor(recording):
    """The recorded editor, before its weights are loaded."""
    return MEND(recording.vlm, MENDConfig(**recording.config))


def test_parity_of_the_statistics(recording, editor):
    for query in recording.queries(recording.facts["edits"])[:2]:
        hidden = editor.vlm.hidden(editor.vlm.encode([query]), editor.below)
        editor.adapt(editor.gradients(hidden))
    weights = recording.starting_with("editor.")
    for name, buffer in editor.networks().named_buffers():
        atol = 1e-5 * float(weights[name].abs().max())
        torch.testing.assert_close(buffer, weights[name], rtol=1e-4, atol=atol)


def test_parity_of_edits(recording, editor):
    editor.networks().load_state_dict(recording.starting_with("editor."))
    patch = editor.empty()
    for number, query in enumerate(recording.queries(recording.facts["edits"])[2:], 1):
        patch = editor.edit([query], patch)
        recording.check_changes(patch, number)
        recording.check_logits(patch, number)
