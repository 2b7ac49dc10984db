"""KE: what the conditioner makes of a gradient against a loop, the constraint, what is read, and
recorded numbers.
"""

import pytest
import torch

from helpers.recordings import Recording
from helpers.samples import EDITS, TEXT_EDIT
from helpers.tiny_settings import SMALL
from liveedit.editors.common.gradients import Factors
from liveedit.editors.ke import KE, Conditioner, Constraint, KEConfig, Reader, change_size
from liveedit.models.tiny import tiny


def some_factors(rows=2, tokens=5, d_in=4, d_out=3):
    generator = torch.Generator().manual_seed(0)
    return Factors(*(torch.randn(rows, tokens, d, generator=generator) for d in (d_in, d_out)))


def test_the_change_against_a_loop():
    torch.manual_seed(0)
    network = Conditioner(3, 4, 6, 5, 0.7)
    gradient = some_factors()
    condition = torch.randn(2, 5)
    found = network(condition, gradient).product()
    for b in (0, 1):
        grad = sum(torch.outer(d, u) for d, u in zip(gradient.delta[b], gradient.u[b], strict=True))
        out = network.outer(torch.tanh(network.inner(condition[b])))
        column, row, column_shift, row_shift, [scale] = out.split([4, 3, 4, 3, 1])
        mask = row.exp() / row.exp().sum()
        shift = row_shift.exp() / row_shift.exp().sum()
        size = 0.7 * torch.sigmoid(scale)
        for i in range(3):
            for j in range(4):
                wanted = size * (grad[i, j] * mask[i] * column[j] + shift[i] * column_shift[j])
                torch.testing.assert_close(found[b, i, j], wanted, rtol=1e-4, atol=1e-6)


def test_texts_of_any_length_are_encoded_independently():
    torch.manual_seed(0)
    reader = Reader(4, 3, 5)
    texts = [torch.randn(length, 4) for length in (3, 7, 1)]
    together = reader(texts)
    for row, text in enumerate(texts):
        alone = reader([text])[0]
        torch.testing.assert_close(together[row], alone)
        both = reader.lstm(text[None])[0][0]
        torch.testing.assert_close(
            alone, reader.linear(torch.cat([both[-1, :3], both[0, 3:]])).tanh()
        )


def test_the_size_of_a_change_needs_only_its_factors():
    factors = some_factors()
    torch.testing.assert_close(change_size(factors), factors.product().square().mean((1, 2)).sqrt())


def test_too_large_a_change_is_pushed_down_and_the_multiplier_up():
    for value, sign in ((5e-3, -1), (1e-4, 1)):
        constraint = Constraint(KEConfig())
        measured = torch.tensor(value, requires_grad=True)
        total = constraint(measured)
        assert float(total.detach()) == pytest.approx(value - 1e-3, rel=1e-4)
        total.backward()
        assert float(measured.grad) == 1.0
        assert float(constraint.multiplier.grad) * sign > 0  # descent moves it the other way


def test_the_multiplier_is_never_negative():
    constraint = Constraint(KEConfig())
    with torch.no_grad():
        constraint.multiplier.fill_(-0.5)
    assert float(constraint(torch.tensor(1.0)).detach()) == 0.0
    assert float(constraint.multiplier.detach()) == 0.0


def test_the_margin_falls_as_long_as_edits_succeed():
    constraint = Constraint(KEConfig(margin=1e-3, margin_min=7e-4, patience=10))
    margins = []
    for right in (1.0, 1.0, 0.5, 0.5, 0.95, 0.95, 1.0, 1.0):
        constraint.anneal(right, 5)
        margins.append(round(float(constraint.margin) * 1e6))
    assert margins == [1000, 800, 800, 800, 800, 700, 700, 700]


def test_the_description_of_an_edit_has_old_answer_target_and_question():
    editor = KE(tiny("llava"), KEConfig(**SMALL["ke"]))
    edits = [EDITS[0], TEXT_EDIT]
    for query, text in zip(edits, editor.describe(edits), strict=True):
        [old] = editor.vlm.generate([query])
        assert text == f"{old} >> {query.target} || {query.prompt}"


def test_with_locality_the_divergence_is_constrained_and_without_it_the_size():
    terms = {
        name: torch.tensor(value)
        for name, value in {"reliability": 2.0, "image_locality": 0.5}.items()
    }
    changes = {"one": some_factors(), "other": some_factors(d_in=7)}
    sizes = torch.stack([change_size(change).mean() for change in changes.values()]).mean()
    for locality, constrained in ((("image_locality",), torch.tensor(0.5)), ((), sizes)):
        editor = KE(tiny("llava"), KEConfig(**SMALL["ke"], locality=locality))
        wanted = dict(terms) if locality else {"reliability": terms["reliability"]}
        total = editor.objective(wanted, changes, 1.0)
        torch.testing.assert_close(wanted["constraint"], constrained)
        torch.testing.assert_close(total.detach(), 2.0 + constrained - 1e-3)


def test_the_gate_is_not_edited():
    editor = KE(tiny("llava"), KEConfig(**SMALL["ke"]))
    assert [matrix.site for matrix in editor.matrices[:2]] == [
        "layers.1.mlp.up_proj",
        "layers.1.mlp.down_proj",
    ]
    assert [matrix.site for matrix in KE(tiny("blip2"), KEConfig(**SMALL["ke"])).matrices[:2]] == [
        "layers.1.fc1",
        "layers.1.fc2",
    ]


@pytest.fixture(scope="module")
def recording():
    return Recording("ke")


@pytest.fixture(scope="module")
def editor(recording):
    """The recorded editor, with its weights."""
    editor = KE(recording.vlm, KEConfig(**recording.config))
    editor.learner.load_state_dict(recording.starting_with("editor."))
    return editor


def test_parity_of_edits(recording, editor, monkeypatch):
    texts = recording.facts["about"]
    edits = recording.queries(recording.facts["edits"])[2:]
    patch = editor.empty()
    for number, (text, query) in enumerate(zip(texts, edits, strict=True), 1):
        monkeypatch.setattr(editor, "describe", lambda _, text=text: [text])
        size = mean_change_size(editor, patch, query, text)
        torch.testing.assert_close(size, recording.tensors[f"size_{number}"], rtol=1e-4, atol=0)
        patch = editor.edit([query], patch)
        recording.check_changes(patch, number)
        recording.check_logits(patch, number)


def mean_change_size(editor, patch, query, text):
    """The mean size of an edit's changes under a patch."""
    vlm = editor.vlm
    with vlm.patched(patch):
        gradients = editor.gradients(vlm.hidden(vlm.encode([query]), editor.below))
        changes = editor.changes(gradients, [text])
    return torch.stack([change_size(change)[0] for change in changes.values()]).mean().detach()
