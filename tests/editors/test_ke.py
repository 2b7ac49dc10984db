"""KE: what the conditioner makes of a gradient against a loop, the constraint, what is read, and
recorded numbers.
"""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from liveedit.editors.common.gradient_transform import Factors
from liveedit.editors.ke import KE, Conditioner, Constraint, KEConfig, Reader, change_size
from liveedit.models.tiny import tiny
from liveedit.models.vlm import VLM
from liveedit.types import Query

PARITY = Path(__file__).parents[1] / "assets" / "parity"
EDITS = [
    Query("What is the country with this flag?", "Japan", Image.new("RGB", (32, 32), "red")),
    Query("who sang the song", "Elvis Presley"),
]
SMALL = {"hidden": 8, "condition": 12}


def some_factors(rows=2, tokens=5, d_in=4, d_out=3):
    generator = torch.Generator().manual_seed(0)
    return Factors(*(torch.randn(rows, tokens, d, generator=generator) for d in (d_in, d_out)))


def test_the_change_against_a_loop():
    torch.manual_seed(0)
    network, gradient, condition = Conditioner(3, 4, 6, 5, 0.7), some_factors(), torch.randn(2, 5)
    found = network(condition, gradient).product()
    for b in (0, 1):
        grad = sum(torch.outer(d, u) for d, u in zip(gradient.delta[b], gradient.u[b], strict=True))
        out = network.outer(torch.tanh(network.inner(condition[b])))
        column, row, column_shift, row_shift, scale = (
            out[:4],
            out[4:7],
            out[7:11],
            out[11:14],
            out[14],
        )
        mask, shift = row.exp() / row.exp().sum(), row_shift.exp() / row_shift.exp().sum()
        for i in range(3):
            for j in range(4):
                wanted = (
                    0.7
                    * torch.sigmoid(scale)
                    * (grad[i, j] * mask[i] * column[j] + shift[i] * column_shift[j])
                )
                torch.testing.assert_close(found[b, i, j], wanted, rtol=1e-4, atol=1e-6)


def test_texts_of_any_length_are_read_apart():
    torch.manual_seed(0)
    reader, texts = Reader(4, 3, 5), [torch.randn(length, 4) for length in (3, 7, 1)]
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
        constraint, measured = Constraint(KEConfig()), torch.tensor(value, requires_grad=True)
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


def test_what_is_read_tells_old_answer_target_and_question():
    editor = KE(tiny("llava"), KEConfig(**SMALL))
    for query, text in zip(EDITS, editor.describe(EDITS), strict=True):
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
        editor = KE(tiny("llava"), KEConfig(**SMALL, locality=locality))
        wanted = dict(terms) if locality else {"reliability": terms["reliability"]}
        total = editor.objective(wanted, changes, 1.0)
        torch.testing.assert_close(wanted["constraint"], constrained)
        torch.testing.assert_close(total.detach(), 2.0 + constrained - 1e-3)


def test_the_gate_is_not_edited():
    editor = KE(tiny("llava"), KEConfig(**SMALL))
    assert [matrix.site for matrix in editor.matrices[:2]] == [
        "layers.1.mlp.up_proj",
        "layers.1.mlp.down_proj",
    ]
    assert [matrix.site for matrix in KE(tiny("blip2"), KEConfig(**SMALL)).matrices[:2]] == [
        "layers.1.fc1",
        "layers.1.fc2",
    ]


@pytest.fixture(scope="module")
def recorded():
    """What ``tests/assets/parity/README.md`` describes."""
    facts = json.loads((PARITY / "ke" / "golden.json").read_text(encoding="utf-8"))
    tensors = load_file(PARITY / "ke" / "golden.safetensors")
    images = [Image.fromarray(pixels.numpy()) for pixels in tensors["images"]]
    edits, asked = (
        [Query(p, t, images[i]) for i, p, t in facts[name]] for name in ("edits", "queries")
    )
    editor = KE(VLM.load(PARITY / "tiny-llava", prompt_format="raw"), KEConfig(**facts["config"]))
    weights = {
        name.removeprefix("editor."): value
        for name, value in tensors.items()
        if name.startswith("editor.")
    }
    editor.learner.load_state_dict(weights)
    return editor, dict(zip(facts["about"], edits[2:], strict=True)), asked, tensors


def test_parity_of_edits(recorded, monkeypatch):
    editor, edits, asked, tensors = recorded
    patch = editor.empty()
    for number, (text, query) in enumerate(edits.items(), 1):
        monkeypatch.setattr(editor, "describe", lambda _, text=text: [text])
        with editor.vlm.patched(patch):
            changes = editor.changes(
                editor.gradients(editor.vlm.hidden(editor.vlm.encode([query]), editor.below)),
                [text],
            )
        sizes = torch.stack([change_size(change)[0] for change in changes.values()])
        torch.testing.assert_close(
            sizes.mean().detach(), tensors[f"size_{number}"], rtol=1e-4, atol=0
        )
        patch = editor.edit([query], patch)
        for name, value in tensors.items():
            if name.startswith(f"change_{number}."):
                change = patch.changes()[name.removeprefix(f"change_{number}.")]
                torch.testing.assert_close(
                    change, value, rtol=1e-4, atol=1e-5 * float(value.abs().max())
                )
        for index, question in enumerate(asked):
            batch = editor.vlm.encode([question])
            with editor.vlm.patched(patch):
                logits = editor.vlm.logits(batch)
            torch.testing.assert_close(
                logits, tensors[f"q{index}.edited_logits_{number}"], rtol=0, atol=1e-5
            )
