"""MEND and KE: the gradient's factors, edits one after another and the loss, against long forms."""

import pytest
import torch
from torch.nn import functional as F

from helpers.samples import EDITS, plain
from helpers.tiny_settings import SMALL
from liveedit.editors import new_editor
from liveedit.editors.common.gradients import Factors
from liveedit.errors import BadInput
from liveedit.models.patch import Patch
from liveedit.models.tiny import tiny
from liveedit.train import TrainConfig, train
from liveedit.types import Case, Probe, Query

pytestmark = pytest.mark.families

SETTINGS = {
    "mend": SMALL["mend"] | {"alpha": 1e-3},
    "ke": SMALL["ke"]
    | {
        "max_scale": 3.0,
        "generality": ("text_generality", "image_generality"),
        "locality": ("text_locality", "image_locality"),
    },
}


CASES = [
    Case(
        f"case-{number}",
        (edit,),
        (
            Probe("text_generality", Query("Tell me: " + edit.prompt, edit.target, edit.image)),
            Probe("image_generality", Query(edit.prompt, edit.target, plain("orange"))),
            Probe("text_locality", Query("who wrote the movie", "nobody"), "before"),
            Probe("image_locality", Query("What is the film?", "a cup", plain("green")), "before"),
        )[number:],  # not every case has every probe
    )
    for number, edit in enumerate(EDITS)
]


class Exchange(Patch):
    """Weights in place of the model's own."""

    def __init__(self, values):
        self.values = values

    def weights(self):
        return self.values


def scatter(editor):
    """Untrained networks are (nearly) the identity: draw all of their weights anew."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in editor.networks().named_parameters():
            if "alpha" not in name and "constraint" not in name:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return editor


@pytest.fixture(params=["mend", "ke"])
def editor(request, vlm):
    torch.manual_seed(0)
    return scatter(new_editor(vlm, request.param, SETTINGS[request.param]))


def gradient(editor, query, patch):
    """The gradient of an edit's loss by autograd on the weights themselves."""
    names = [matrix.name for matrix in editor.matrices]
    with editor.vlm.patched(patch):
        values = {
            name: parameters_of(editor.vlm.model)[name].detach().clone().requires_grad_()
            for name in names
        }
        batch = editor.vlm.encode([query])
        with editor.vlm.patched(Exchange(values)):
            logits = editor.vlm.logits(batch)[batch.answer_positions()]
    return torch.autograd.grad(
        F.cross_entropy(logits, batch.labels[batch.labels >= 0]), list(values.values())
    )


def parameters_of(model):
    """The parameters that the model has at the moment, those of a patch included."""
    found = {}
    for path, module in model.named_modules():
        for name, value in module._parameters.items():
            found[f"{path}.{name}"] = value
    return found


def test_factors_make_the_gradient_of_each_row(vlm):
    editor = new_editor(vlm, "mend", SETTINGS["mend"])
    hidden = vlm.hidden(vlm.encode(EDITS), editor.below)
    factors = editor.gradients(hidden)
    for row, query in enumerate(EDITS):
        for matrix, wanted in zip(editor.matrices, gradient(editor, query, Patch()), strict=True):
            torch.testing.assert_close(
                factors[matrix.site].product()[row], wanted, rtol=1e-4, atol=1e-6
            )


def test_padding_has_no_part_in_an_edit(vlm):
    editor = new_editor(vlm, "mend", SETTINGS["mend"])
    batch = vlm.encode(EDITS)
    for factors in editor.gradients(vlm.hidden(batch, editor.below)).values():
        assert not factors.u[batch.inputs["attention_mask"] == 0].any()


def test_changes_add_up_each_from_the_model_that_those_before_left(editor):
    patch = Patch()
    values = {matrix.name: 0.0 for matrix in editor.matrices}
    for query in EDITS:
        gradients = gradient(editor, query, patch)
        with editor.vlm.patched(patch):
            found = editor.gradients(editor.vlm.hidden(editor.vlm.encode([query]), editor.below))
            about = editor.describe([query])
        for matrix, wanted in zip(editor.matrices, gradients, strict=True):
            torch.testing.assert_close(
                found[matrix.site].product()[0], wanted, rtol=1e-3, atol=1e-5
            )
        changes = editor.changes(found, about)
        for matrix in editor.matrices:
            values[matrix.name] = values[matrix.name] + changes[matrix.site].product()[0].detach()
        model = editor.vlm.model
        patch = Exchange(
            {name: model.get_parameter(name) + value for name, value in values.items()}
        )
    made = editor.edit(EDITS)
    for name, value in values.items():
        torch.testing.assert_close(made.values[name], value, rtol=1e-4, atol=1e-6)


def explicit_terms(editor):
    """Each term of the loss, from real edits made one at a time and whole forward passes."""
    terms = {}
    vlm = editor.vlm
    for case in CASES:
        patch = editor.edit([case.edits[0]])
        asked = [
            ("reliability", case.edits[0]),
            *((probe.metric, probe.query) for probe in case.probes),
        ]
        for kind, query in asked:
            batch = vlm.encode([query])
            before = vlm.logits(batch)[batch.answer_positions()].log_softmax(-1)
            with vlm.patched(patch):
                after = vlm.logits(batch)[batch.answer_positions()].log_softmax(-1)
            if "locality" in kind:
                values = [(p.exp() * (p - q)).sum() for p, q in zip(before, after, strict=True)]
            else:
                values = [
                    -q[label]
                    for q, label in zip(after, batch.labels[batch.labels >= 0], strict=True)
                ]
            terms.setdefault(kind, []).append(sum(values) / len(values))
    return {kind: sum(values) / len(values) for kind, values in terms.items()}


def test_the_loss_is_that_of_edits_made_one_at_a_time(editor):
    examples = editor.prepare(CASES)
    _, terms = editor.loss(examples, torch.Generator())
    for kind, wanted in explicit_terms(
        editor
    ).items():  # after the loss: MEND's statistics have taken the edits in
        torch.testing.assert_close(terms[kind].detach(), wanted, rtol=1e-3, atol=1e-5, msg=kind)


def test_gradients_reach_every_weight(editor):
    total, _ = editor.loss(editor.prepare(CASES), torch.Generator())
    total.backward()
    for name, parameter in editor.networks().named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    assert not any(parameter.requires_grad for parameter in editor.vlm.model.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mend", "ke"])
def test_training_lowers_the_loss(name, tmp_path):
    torch.manual_seed(0)
    editor = new_editor(tiny("llava"), name, SETTINGS[name])
    likelihood = []
    train(
        editor,
        CASES,
        TrainConfig(steps=40, batch_size=3, lr=3e-3),
        tmp_path,
        lambda stage, _, __, values: (
            likelihood.append(values["reliability"]) if stage == "training" else None
        ),
    )
    assert sum(likelihood[-5:]) < 0.8 * sum(likelihood[:5])


@pytest.mark.parametrize("name", ["mend", "ke"])
def test_networks_with_a_rate_of_their_own_move_at_it(name, tmp_path):
    editor = new_editor(tiny("llava"), name, SETTINGS[name])
    [(apart, rate)] = editor.rates().items()
    before = [parameter.detach().clone() for parameter in editor.networks()[apart].parameters()]
    train(editor, CASES, TrainConfig(steps=1, batch_size=3, lr=1e-9), tmp_path)
    for parameter, old in zip(editor.networks()[apart].parameters(), before, strict=True):
        torch.testing.assert_close(
            (parameter.detach() - old).abs(), torch.full_like(old, rate), rtol=0.01, atol=0
        )


@pytest.mark.parametrize("name", ["mend", "ke"])
@pytest.mark.parametrize("layers", [0, 4, 9])
def test_a_layer_has_to_be_left_below(name, layers):
    with pytest.raises(BadInput, match="needs 1 to 3 of this model's layers"):
        new_editor(tiny("llava"), name, {"layers": layers})


def test_a_case_of_two_edits_is_refused(editor):
    with pytest.raises(BadInput, match="case two is not one edit"):
        editor.prepare([Case("two", tuple(EDITS[:2]), ())])


def test_picking_edits():
    factors = Factors(torch.arange(6.0).view(3, 1, 2), torch.arange(3.0).view(3, 1, 1))
    assert factors.pick(torch.tensor([2, 2, 0])).delta.flatten().tolist() == [2, 2, 0]
