"""Every editor on a model in half precision, in 8 and 4 bits, and spread over memory and disk."""

import importlib.util
import math
import re
from pathlib import Path

import pytest
import torch

from helpers.measures import target_loss
from helpers.samples import QUESTION, plain
from helpers.tiny_settings import only_prompts, small_settings, trainable
from liveedit.editors import EDITORS, new_editor
from liveedit.errors import UnsupportedModel
from liveedit.models.conformance.reference import cut, greedy
from liveedit.models.vlm import VLM
from liveedit.types import Case, Probe, Query

pytestmark = pytest.mark.of_every_method("method")

ON_WIDER = {
    "grace": {"layer": 2},
    "horen": {"lr": 0.1},
    "ke": {"hidden": 64, "condition": 1024, "layers": 2},
    "lemoe": {"steps": 8},
    "liveedit": {"module_dim": 32, "layer": 1, "rank": 16, "scale": 0.2},
    "lte": {"by": "text"},
    "locft-bf": {"lr": 1e-2, "epochs": 25},
    "mend": {"layers": 2},
    "pinpoint": {"layer": 1},
    "ultraedit": {"lr": 1e-2, "layers": 2},
}
"""Settings, besides those for tiny models, at which an edit takes in every form."""
FORMS = {
    "bfloat16": {"dtype": torch.bfloat16},
    "float16": {"dtype": torch.float16},
    "8 bits": {"quantize": "8bit"},
    "4 bits": {"quantize": "4bit"},
    "off-loaded": {"device_map": "auto", "max_memory": {"cpu": 300_000}},
}
COLUMN = {"bfloat16": 1, "float16": 1, "8 bits": 3, "4 bits": 3, "off-loaded": 4}
"""Where the table of the docs says what runs in a form."""
PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "large-models.md").read_text(
    encoding="utf-8"
)
ROW = re.compile(r"^\| ([\w-]+)" + r" \| (yes|no)" * 4 + r" \|$", re.MULTILINE)
TABLE = {row[0]: row for row in ROW.findall(PAGE)}
EDITS = [Query(QUESTION, "Japan", plain("red").resize((40, 30)))]


def case(edit):
    """A case of an edit with a probe of each kind."""
    smaller = edit.image.resize((30, 24))
    probes = (
        Probe("text_generality", Query("What do you see?", edit.target, edit.image)),
        Probe("image_generality", Query(edit.prompt, edit.target, smaller)),
        Probe("image_locality", Query("Who?", "nobody", plain("white")), "before"),
        Probe("text_locality", Query("Who sang?", "nobody"), "before"),
    )
    return Case(edit.target, (edit,), probes)


CASES = [case(EDITS[0]), case(Query("What is this?", "blue", plain("blue")))]
ROUNDS = 10
STEPS = 15
RATE = 3e-3
LIKELY = -math.log(0.5)
"""Nats: an edit by networks takes if each token of its target is likelier than not, on average."""
LOWER = 0.1
"""Nats: an edit without networks takes if it lowers the loss of each token by that much."""


@pytest.fixture(scope="module", params=FORMS)
def vlm(request, wide_llava):
    if "quantize" in FORMS[request.param] and importlib.util.find_spec("bitsandbytes") is None:
        pytest.skip("needs bitsandbytes")
    made = VLM.load(wide_llava, **FORMS[request.param])
    made.logits(made.encode(EDITS))
    made.form = request.param
    return made


@pytest.fixture(params=sorted(EDITORS))
def method(request):
    return request.param


@pytest.fixture
def settings(method, sentence_encoder):
    return small_settings(method, sentence_encoder) | ON_WIDER.get(method, {})


def runs(method, form):
    """Whether the table of the docs says that a method runs on a model in this form."""
    return TABLE[method][COLUMN[form]] == "yes"


def test_the_table_lists_every_method():
    assert set(TABLE) == set(EDITORS)


def test_a_method_that_does_not_run_is_refused_in_one_line(method, settings, vlm):
    if runs(method, vlm.form):
        pytest.skip("runs on a model in this form")
    message = "by a method that leaves the weights as they are"
    with pytest.raises(UnsupportedModel, match=message) as caught:
        new_editor(vlm, method, settings)
    assert "\n" not in str(caught.value)


def test_an_edit_takes_and_leaving_restores_bit_for_bit(method, settings, vlm, tmp_path):
    if not runs(method, vlm.form):
        pytest.skip("does not run on a model in this form")
    editor = new_editor(vlm, method, settings)
    batch = vlm.encode(EDITS)
    plain_logits = vlm.logits(batch)
    before = target_loss(vlm, EDITS)
    patch = trained_edit(editor) if trainable(method) else editor.edit(EDITS)
    with vlm.patched(patch):
        edited = vlm.logits(batch)
        assert torch.isfinite(edited).all()
        after = target_loss(vlm, EDITS)
        assert after != before
        if not only_prompts(method):  # which rely on what a model has learnt of examples
            assert after < (LIKELY if trainable(method) else before - LOWER)
        if "bits" not in vlm.form:  # they round the tokens of a call together
            assert vlm.generate(EDITS, max_new_tokens=3) == [cut(vlm, greedy(vlm, EDITS[0], 3))]
    assert torch.equal(vlm.logits(batch), plain_logits)
    patch.save(tmp_path)
    with vlm.patched(editor.load_patch(tmp_path)):
        assert torch.equal(vlm.logits(batch), edited)


def trained_edit(editor):
    """Train until an edit takes, every network moved by a finite gradient; the edit."""
    examples = editor.prepare(CASES)
    parameters = [value for value in editor.networks().parameters() if value.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=RATE)
    for step in range(ROUNDS * STEPS):
        loss, _ = editor.loss(examples, torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        loss.backward()
        assert loss.isfinite()
        gradients = [value.grad for value in parameters if value.grad is not None]
        assert all(gradient.isfinite().all() for gradient in gradients)
        assert any(gradient.any() for gradient in gradients)
        optimizer.step()
        if (step + 1) % STEPS == 0:
            patch = editor.edit(EDITS)
            with editor.vlm.patched(patch):
                if target_loss(editor.vlm, EDITS) < LIKELY:
                    break
    return patch
