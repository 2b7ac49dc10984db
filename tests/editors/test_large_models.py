"""Every editor on a model in half precision, in 8 and 4 bits, and spread over memory and disk."""

import importlib.util
import math
import re
from pathlib import Path

import pytest
import torch
from PIL import Image

from liveedit.editors import EDITORS, new_editor
from liveedit.errors import UnsupportedModel
from liveedit.models.conformance.reference import cut, greedy
from liveedit.models.vlm import VLM
from liveedit.types import Case, Probe, Query

SMALL = {
    "grace": {"layer": 2},
    "ke": {"layers": 2},
    "lemoe": {"batch": 2, "rank": 4, "steps": 8, "lr": 1e-2},
    "liveedit": {"module_dim": 32, "heads": 2, "layer": 1, "rank": 16, "scale": 0.2},
    "lte": {"by": "text"},
    "mend": {"layers": 2},
    "pinpoint": {"module_dim": 16, "heads": 2, "layer": 1, "rank": 24},
    "recipe": {"key_dim": 16, "layer": 2},
    "serac": {"module_dim": 16, "heads": 2, "layer": 2, "width": 16, "depth": 1},
}
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
FLAG = Image.new("RGB", (40, 30), "red")
EDITS = [Query("What is the country with this flag?", "Japan", FLAG)]
CASES = [
    Case(
        edit.target,
        (edit,),
        (
            Probe("text_generality", Query("What do you see?", edit.target, edit.image), "target"),
            Probe(
                "image_generality",
                Query(edit.prompt, edit.target, edit.image.resize((30, 24))),
                "target",
            ),
            Probe(
                "image_locality",
                Query("Who?", "nobody", Image.new("RGB", (24, 24), "white")),
                "unchanged",
            ),
            Probe("text_locality", Query("Who sang?", "nobody"), "unchanged"),
        ),
    )
    for edit in (*EDITS, Query("What is this?", "blue", Image.new("RGB", (24, 24), "blue")))
]
ROUNDS, STEPS, RATE = 10, 15, 3e-3
LIKELY, HIGHER = math.log(0.5), 0.1
"""An edit takes if each token of its target is likelier than not, on average; by a method without
networks, if it is that much likelier than before."""


@pytest.fixture(scope="module", params=FORMS)
def vlm(request, wide_llava):
    if "quantize" in FORMS[request.param] and importlib.util.find_spec("bitsandbytes") is None:
        pytest.skip("needs bitsandbytes")
    made = VLM.load(wide_llava, **FORMS[request.param])
    made.logits(made.encode(EDITS))
    made.form = request.param
    return made


@pytest.fixture(params=sorted(EDITORS))
def editor(request, vlm, sentence_encoder):
    settings = SMALL.get(request.param, {})
    settings |= {"retriever": sentence_encoder} if request.param in ("ike", "lte") else {}
    if TABLE[request.param][COLUMN[vlm.form]] == "no":
        with pytest.raises(
            UnsupportedModel, match="by a method that leaves the weights as they are"
        ) as caught:
            new_editor(vlm, request.param, settings)
        assert "\n" not in str(caught.value)
        return None
    return new_editor(vlm, request.param, settings)


def test_the_table_holds_every_method():
    assert set(TABLE) == set(EDITORS)


def likelihood(vlm, queries):
    """The mean log-probability of the targets' tokens."""
    batch = vlm.encode(queries)
    positions = batch.answer_positions()
    with torch.no_grad():
        logs = vlm.logits(batch)[positions].float().log_softmax(-1)
    return float(logs.gather(1, batch.answer_tokens()[:, None]).mean())


def test_an_edit_takes_and_leaving_restores_bit_for_bit(editor, tmp_path):
    if editor is None:  # refused, as it should be
        return
    vlm = editor.vlm
    trained = hasattr(editor, "networks")
    batch = vlm.encode(EDITS)
    plain, before = vlm.logits(batch), likelihood(vlm, EDITS)
    patch = fit(editor) if trained else editor.edit(EDITS)
    with vlm.patched(patch):
        assert torch.isfinite(vlm.logits(batch)).all()
        if editor.name != "ike":  # which relies on what a model has learnt of examples
            assert likelihood(vlm, EDITS) > (LIKELY if trained else before + HIGHER)
        if "bits" not in vlm.form:  # which round what a call takes in together
            assert vlm.generate(EDITS, max_new_tokens=3) == [cut(vlm, greedy(vlm, EDITS[0], 3))]
        edited = vlm.logits(batch)
    assert torch.equal(vlm.logits(batch), plain)
    patch.save(tmp_path)
    with vlm.patched(editor.load_patch(tmp_path)):
        assert torch.equal(vlm.logits(batch), edited)


def fit(editor):
    """Train until an edit takes, every network moved by a finite gradient; the edit."""
    examples = editor.prepare(CASES)
    parameters = [value for value in editor.networks().parameters() if value.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=RATE)
    for step in range(ROUNDS * STEPS):
        loss, _ = editor.loss(examples, torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        loss.backward()
        assert loss.isfinite()
        assert all(value.grad is None or value.grad.isfinite().all() for value in parameters)
        assert any(value.grad is not None and value.grad.abs().max() > 0 for value in parameters)
        optimizer.step()
        if (step + 1) % STEPS == 0:
            patch = editor.edit(EDITS)
            with editor.vlm.patched(patch):
                if likelihood(editor.vlm, EDITS) > LIKELY:
                    break
    return patch
