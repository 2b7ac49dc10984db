"""Stand-in for torchvision in tiny models whose image processor needs it.

Within :func:`without_torchvision` the processor's own code runs on the few functions below, in
place of torchvision's. A checkpoint is read with torchvision itself.
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from transformers import image_processing_backends

__all__ = [
    "grayscale_to_rgb",
    "normalize",
    "pad",
    "pil_to_tensor",
    "resize",
    "without_torchvision",
]


@contextmanager
def without_torchvision() -> Iterator[None]:
    """Context in which modules of transformers that import torchvision get this file's functions.

    They keep them afterwards. Where torchvision is installed, they get its own.
    """
    if image_processing_backends.is_torchvision_available():
        yield
        return
    functional = ModuleType("torchvision.transforms.v2.functional")
    vars(functional).update(
        {function.__name__: function for function in (resize, pad, normalize, grayscale_to_rgb)}
    )
    vars(functional).update(pil_to_tensor=pil_to_tensor, InterpolationMode=Image.Resampling)
    module = functional
    modules = {module.__name__: module}
    while "." in module.__name__:
        name, _, last = module.__name__.rpartition(".")
        modules[name] = ModuleType(name)
        setattr(modules[name], last, module)
        module = modules[name]
    image_processing_backends.tvF = functional
    image_processing_backends.pil_torch_interpolation_mapping = {
        mode: mode for mode in Image.Resampling
    }
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name in modules:
            del sys.modules[name]


def resize(
    image: Tensor,
    size: Sequence[int],
    interpolation: int = Image.Resampling.BILINEAR,
    antialias: bool = True,
) -> Tensor:
    """The images (…, C, H, W) with ``size`` rows and columns, bilinear or bicubic."""
    mode = Image.Resampling(interpolation).name.lower()
    flat = image.reshape(-1, *image.shape[-3:]).float()
    made = F.interpolate(flat, tuple(size), mode=mode, antialias=antialias)
    made = made.reshape(*image.shape[:-2], *size)
    return made if image.is_floating_point() else made.round().clamp(0, 255).to(image.dtype)


def pad(
    image: Tensor,
    padding: Sequence[int],
    fill: Any = 0,
    padding_mode: str = "constant",  # noqa: ARG001
) -> Tensor:
    """The images (…, C, H, W) with ``padding`` to the left, above, to the right and below.

    ``fill`` is a colour or a number.
    """
    left, top, right, bottom = padding
    height, width = image.shape[-2:]
    colour = torch.as_tensor(fill, dtype=image.dtype).reshape(-1, 1, 1)
    padded = colour.expand(*image.shape[:-2], top + height + bottom, left + width + right).clone()
    padded[..., top : top + height, left : left + width] = image
    return padded


def normalize(image: Tensor, mean: Any, std: Any, inplace: bool = False) -> Tensor:  # noqa: ARG001
    """The images (…, C, H, W) minus ``mean``, divided by ``std``, channel by channel."""
    centre, scale = (
        torch.as_tensor(value, dtype=image.dtype).reshape(-1, 1, 1) for value in (mean, std)
    )
    return (image - centre) / scale


def grayscale_to_rgb(image: Tensor) -> Tensor:
    """The images (…, C, H, W) in colour: three channels of one, others as they are."""
    return image.expand(*image.shape[:-3], 3, *image.shape[-2:]) if image.shape[-3] == 1 else image


def pil_to_tensor(image: Image.Image) -> Tensor:
    """The pixels (C, H, W)."""
    return torch.from_numpy(np.array(image)).movedim(-1, 0)
