"""Random tiny models."""

import torch

from liveedit.models.tiny import tiny


def test_tiny_models_are_reproducible_and_leave_the_random_state_alone():
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    one, other = tiny("llava", seed=5), tiny("llava", seed=5)
    assert torch.equal(torch.rand(1), expected)
    assert one.fingerprint == other.fingerprint
