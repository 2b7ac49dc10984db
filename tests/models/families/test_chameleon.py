"""Chameleon: codes of images among the embeddings."""

import torch

from liveedit.models.conformance.queries import SQUARE, WIDE
from liveedit.models.tiny.shrink import shrink
from liveedit.models.vlm import VLM
from liveedit.types import Query


def test_it_computes_what_transformers_does():
    model, processor = shrink("chameleon")
    inputs = processor(
        images=[[WIDE, SQUARE]], text=["<image> and <image>: what?"], return_tensors="pt"
    )
    with torch.no_grad():
        own = model.eval()(**inputs).logits
        vlm = VLM(model, processor)
        assert torch.equal(model(**inputs).logits, own)
    (span,) = vlm.encode([Query("What?", image=WIDE)]).spans
    assert span.image == (2, 18)  # BOS and the mark before it, 4 by 4 codes
    codes = model.model.get_image_tokens(inputs["pixel_values"][:1])
    assert torch.equal(vlm.image_states(WIDE), vlm.embedding(codes[0]))
