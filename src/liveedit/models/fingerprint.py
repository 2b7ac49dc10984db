"""Fingerprint of a model: a hash of its weights, equal if two models are the same."""

from collections.abc import Sequence
from hashlib import sha256
from typing import Any

import torch
from torch import Tensor
from transformers.integrations.accelerate import load_offloaded_parameter

from liveedit.models.wrappers import acting

__all__ = ["HALF", "checksum", "weights_fingerprint"]

HALF = (torch.float16, torch.bfloat16)
"""The types of half precision."""


def weights_fingerprint(
    model: Any, adapters: tuple[Any, ...], keep: Sequence[torch.dtype] = ()
) -> str:
    """SHA-256 over a model's type, its weights and the ``adapters`` that are on.

    Weights of half precision are hashed as float32, unless their type is one of ``keep``.
    """
    sha = sha256(str(model.config.model_type).encode())
    for name, tensor in sorted(acting(model, model.state_dict()).items()):
        value = load_offloaded_parameter(model, name) if tensor.is_meta else tensor
        if value.dtype in HALF and value.dtype not in keep:
            value = value.float()
        sha.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        sha.update(checksum(value))
    sha.update(repr(adapters).encode() if adapters else b"")
    return sha.hexdigest()


def checksum(tensor: Tensor) -> bytes:
    """The sum of a tensor's bits, read as integers, and about 1024 of its elements, evenly spread.

    Integers are summed, so the result is the same on every device.
    """
    integers = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    bits = tensor.detach().reshape(-1).contiguous().view(integers[tensor.element_size()])
    samples: bytes = bits[:: max(1, len(bits) // 1024)].cpu().numpy().tobytes()
    return samples + str(int(bits.sum(dtype=torch.int64))).encode()
