"""Kosmos-2 and 2.5: what is done before their text model leaves what transformers computes as it
is.
"""

from dataclasses import replace

import pytest
import torch

from liveedit.models.conformance.queries import QUERIES
from liveedit.models.tiny import tiny


@pytest.fixture(scope="module", params=["kosmos-2", "kosmos-2.5"])
def vlm(request):
    return tiny(request.param)


def test_it_computes_what_transformers_does(vlm, monkeypatch):
    asked = replace(QUERIES[0], target="")
    logits = vlm.logits(vlm.encode([asked]))
    answer = vlm.generate([asked], max_new_tokens=6)
    inputs = {
        name: value
        for name, value in vlm.processed(asked).items()
        if name not in ("width", "height")
    }
    monkeypatch.setattr(vlm.model.text_model, "_forward_pre_hooks", {})
    torch.testing.assert_close(vlm.model(**inputs).logits, logits)
    tokens = vlm.model.generate(**inputs, max_new_tokens=6, do_sample=False)
    new = tokens[0, inputs["input_ids"].shape[1] :]
    assert [vlm.tokenizer.decode(new, skip_special_tokens=True).strip()] == answer


def test_only_the_tokens_between_the_marks_are_the_images(vlm):
    batch = vlm.encode([QUERIES[0], QUERIES[1]], padding_side="left")
    start, stop = batch.spans[0].image
    assert stop - start == vlm.model.config.latent_query_num
    assert (
        vlm.tokenizer.convert_ids_to_tokens(batch.inputs["input_ids"][0, start - 1].item())
        == vlm.begin
    )
    assert vlm.tokenizer.convert_ids_to_tokens(batch.inputs["input_ids"][0, stop].item()) == vlm.end
