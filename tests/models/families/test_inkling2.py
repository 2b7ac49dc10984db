"""Inkling 2: inputs of blocks beside the hidden states."""

import torch

from liveedit.models.conformance.queries import QUERIES
from liveedit.models.families.inkling2 import BLOCKS
from liveedit.models.tiny import tiny


def test_inputs_of_blocks_are_kept_with_each_row():
    vlm = tiny("inkling2")
    batch = vlm.encode(QUERIES)
    below, above = vlm.hidden(batch, 1), vlm.hidden(batch, 2)
    assert BLOCKS not in vlm.hidden(batch, -1).extra
    assert below.extra[BLOCKS].shape[2:] == (1, vlm.hidden_size)
    torch.testing.assert_close(above.extra[BLOCKS][:, :, 1], below.hidden)
    logits = vlm.resume(2, above)
    above.extra[BLOCKS][:, :, 0] = 0
    assert not torch.allclose(vlm.resume(2, above), logits, atol=1e-2)
