"""Weights in 8 or 4 bits, by bitsandbytes: how to read them, and what they do not support.

8 bits are LLM.int8() (Dettmers et al., NeurIPS 2022, arXiv 2208.07339), 4 bits are NormalFloat
(QLoRA, Dettmers et al., NeurIPS 2023, arXiv 2305.14314). All linear layers are quantised but the
output embedding; word embeddings, norms and biases are not. Gradients pass through a quantised
layer to its input, but none reach its weights.
"""

import logging
from collections.abc import Iterable
from importlib.util import find_spec
from typing import Any, Literal, get_args

import torch
import transformers
from torch import Tensor, nn

from liveedit.errors import BadInput, UnsupportedModel

__all__ = ["Bits", "check_changeable", "quantization", "settle"]

Bits = Literal["8bit", "4bit"]


def quantization(bits: Bits, dtype: torch.dtype | None) -> Any:
    """The settings with which ``from_pretrained`` quantises; 4-bit layers compute in ``dtype``.

    Raises :class:`BadInput` for another number of bits, and without bitsandbytes.
    """
    if bits not in get_args(Bits):
        raise BadInput(f"cannot quantise to '{bits}': choose {' or '.join(get_args(Bits))}")
    if find_spec("bitsandbytes") is None:
        raise BadInput(f"{bits} weights need bitsandbytes: pip install 'liveedit[quantised]'")
    if bits == "8bit":
        return transformers.BitsAndBytesConfig(load_in_8bit=True)
    return transformers.BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype or torch.float32
    )


def settle(model: Any) -> None:
    """Prepare quantised layers: on a CPU, 4-bit layers use the kernel that has gradients.

    The faster kernel has none. The message that 8-bit layers log at each call, that they compute in
    float16, is silenced. Raises :class:`UnsupportedModel` for layers that bitsandbytes computes
    wrongly on a CPU: in 4 bits, with rows that are not a whole number of blocks.
    """
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    for name, module in model.named_modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
            if module.weight.device.type == "cpu" and module.in_features % module.weight.blocksize:
                raise UnsupportedModel(
                    f"bitsandbytes cannot compute '{name}', {module.in_features} wide, "
                    "in 4 bits on a CPU: use 8 bits, or a GPU"
                )


def check_changeable(parameters: Iterable[tuple[str, Tensor]]) -> None:
    """Raise :class:`UnsupportedModel` if one of these parameters has no plain values in memory."""
    for name, value in parameters:
        plain = type(value) in (nn.Parameter, Tensor) and value.is_floating_point()
        if value.is_meta or not plain:
            raise UnsupportedModel(
                f"'{name}' is quantised or off-loaded and cannot be changed: "
                "load the model in full, or edit it by a method that "
                "leaves the weights as they are, such as liveedit or grace"
            )
