"""Weights in 8 or 4 bits, by bitsandbytes: how a checkpoint is read so, and which weights can no
longer be changed.

8 bits are LLM.int8() of Dettmers et al. (NeurIPS 2022, arXiv 2208.07339), 4 bits the NormalFloat of
Dettmers et al. (QLoRA, NeurIPS 2023, arXiv 2305.14314). Of the linear layers only the output
embedding stays as it is; so do word embeddings, norms and biases. Gradients pass through such a
layer to its input, none reach its weights.
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
    """What ``from_pretrained`` takes to quantise a checkpoint; 4-bit layers compute in ``dtype``.

    Raises :class:`BadInput` for another number of bits, and without bitsandbytes.
    """
    if bits not in get_args(Bits):
        raise BadInput(f"there are no weights of '{bits}': choose {' or '.join(get_args(Bits))}")
    if find_spec("bitsandbytes") is None:
        raise BadInput(f"{bits} weights need bitsandbytes: pip install 'liveedit[quantised]'")
    if bits == "8bit":
        return transformers.BitsAndBytesConfig(load_in_8bit=True)
    return transformers.BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype or torch.float32
    )


def settle(model: Any) -> None:
    """Have the 4-bit layers of a model that is on a CPU use the kernel that gradients pass through.

    The faster one has none. And keep 8-bit layers from saying at each call that they compute in
    float16. Raises :class:`UnsupportedModel` for what bitsandbytes computes wrongly on a CPU: 4-bit
    layers with rows that are not a whole number of blocks.
    """
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    for name, module in model.named_modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
            if module.weight.device.type == "cpu" and module.in_features % module.weight.blocksize:
                raise UnsupportedModel(
                    f"bitsandbytes cannot compute '{name}', {module.in_features} wide, in 4 bits on a CPU: "
                    "use 8 bits, or a GPU"
                )


def check_changeable(parameters: Iterable[tuple[str, Tensor]]) -> None:
    """Raise :class:`UnsupportedModel` if one of these parameters has no plain values in memory."""
    for name, value in parameters:
        if (
            value.is_meta
            or not value.is_floating_point()
            or type(value) not in (nn.Parameter, Tensor)
        ):
            raise UnsupportedModel(
                f"'{name}' is quantised or off-loaded and cannot be changed: load the model in full, or edit it by a "
                "method that leaves the weights as they are, such as liveedit or grace"
            )
