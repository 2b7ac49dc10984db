"""Granite 4 Vision: features of the image for each layer."""

import torch

from liveedit.models.conformance.queries import QUERIES
from liveedit.models.tiny import tiny


def test_the_first_layers_features_count_as_embeddings():
    vlm = tiny("granite4_vision")
    batch = vlm.encode(QUERIES[:1])
    seen = []
    with vlm.layers[0].register_forward_pre_hook(lambda _module, args: seen.append(args[0])):
        vlm.logits(batch)
    embedded = vlm.hidden(batch, -1)
    torch.testing.assert_close(embedded.hidden * vlm.decoder.embedding_multiplier, seen[0])
    assert not embedded.extra["deepstack_features"][:, :, 0].any()
