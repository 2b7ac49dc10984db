"""GIT: image tokens in the row leave what transformers computes, which puts the image there by
itself, as it is.
"""

from copy import deepcopy

import pytest
import torch

from liveedit.models.conformance.assertions import close
from liveedit.models.conformance.queries import QUERIES
from liveedit.models.tiny.families import spread
from liveedit.models.tiny.shrink import shrink
from liveedit.models.vlm import VLM
from liveedit.types import Query


@pytest.fixture(scope="module")
def both():
    """A VLM and, beside it, the model as transformers has it."""
    torch.manual_seed(0)
    model, processor = shrink("git")
    spread(model)
    return VLM(deepcopy(model), processor), model.eval()


@pytest.fixture(scope="module")
def vlm(both):
    return both[0]


@pytest.mark.parametrize("query", QUERIES[:3])
def test_it_computes_what_transformers_does(both, query):
    vlm, model = both
    asked = Query(query.prompt, image=query.image)
    batch = vlm.encode([asked])
    inputs = {name: value for name, value in batch.inputs.items() if name != "attention_mask"}
    inputs["input_ids"] = inputs["input_ids"][:, batch.spans[0].prompt[0] :]
    assert inputs["input_ids"][0, 0] == vlm.tokenizer.cls_token_id
    close(model(**inputs).logits, vlm.logits(batch), "logits of both")
    tokens = model.generate(**inputs, max_new_tokens=6, do_sample=False, use_cache=False)
    new = tokens[0, inputs["input_ids"].shape[1] :]
    assert vlm.generate([asked], max_new_tokens=6) == [
        vlm.tokenizer.decode(new, skip_special_tokens=True).strip()
    ]


def test_the_image_stands_before_everything_and_has_no_position(vlm):
    batch = vlm.encode(QUERIES[:2], padding_side="left")
    positions = vlm.hidden(batch, 0).position_ids
    start, stop = batch.spans[0].image
    assert (start, stop - start) == (batch.spans[0].start, 17)
    assert positions[0, start:stop].eq(-1).all()
    for row, span in zip(positions, batch.spans, strict=True):
        assert row[slice(span.prompt[0], span.stop)].tolist() == [
            *range(span.stop - span.prompt[0])
        ]


def test_weights_keep_the_names_of_checkpoints(both):
    vlm, model = both
    assert {"git.layers.0.fc2.weight", "git.layers.0.self_attn.q_proj.bias"} <= dict(
        vlm.model.named_parameters()
    ).keys()
    ours = vlm.model.state_dict()
    theirs = model.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], value) for name, value in theirs.items())
