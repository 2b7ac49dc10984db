"""Image processors for tiny models, where transformers has them with torchvision alone.

:func:`without_torchvision` has the processor's own code run on the few functions of torchvision that it calls. The
classes below stand for a whole processor, and give what it gives for an image of one tile. A checkpoint is read with
its own.
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
from transformers import BatchFeature, image_processing_backends
from transformers.image_utils import make_flat_list_of_images
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.siglip2.image_processing_pil_siglip2 import (
    Siglip2ImageProcessorKwargs,
    Siglip2ImageProcessorPil,
)

__all__ = ["Cohere2VisionPictures", "Lfm2VlPictures", "Llama4Pictures", "Molmo2Pictures", "without_torchvision"]


@contextmanager
def without_torchvision() -> Iterator[None]:
    """Within it the modules of transformers that import torchvision can be imported, and keep this file's functions.

    Where torchvision is installed, they keep its own.
    """
    if image_processing_backends.is_torchvision_available():
        yield
        return
    functional = ModuleType("torchvision.transforms.v2.functional")
    vars(functional).update({function.__name__: function for function in (resize, pad, normalize, grayscale_to_rgb)})
    vars(functional).update(pil_to_tensor=pil_to_tensor, InterpolationMode=Image.Resampling)
    modules, module = {functional.__name__: functional}, functional
    while "." in module.__name__:
        name, _, last = module.__name__.rpartition(".")
        modules[name] = ModuleType(name)
        setattr(modules[name], last, module)
        module = modules[name]
    image_processing_backends.tvF = functional
    image_processing_backends.pil_torch_interpolation_mapping = {mode: mode for mode in Image.Resampling}
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name in modules:
            del sys.modules[name]


def resize(
    image: Tensor, size: Sequence[int], interpolation: int = Image.Resampling.BILINEAR, antialias: bool = True
) -> Tensor:
    """The images (…, C, H, W) with ``size`` rows and columns, bilinear or bicubic."""
    mode = Image.Resampling(interpolation).name.lower()
    flat = image.reshape(-1, *image.shape[-3:]).float()
    made = F.interpolate(flat, tuple(size), mode=mode, antialias=antialias).reshape(*image.shape[:-2], *size)
    return made if image.is_floating_point() else made.round().clamp(0, 255).to(image.dtype)


def pad(image: Tensor, padding: Sequence[int], fill: Any = 0, padding_mode: str = "constant") -> Tensor:  # noqa: ARG001
    """The images (…, C, H, W) with ``padding`` on the left, above, on the right and below, in a colour or a number."""
    left, top, right, bottom = padding
    height, width = image.shape[-2:]
    colour = torch.as_tensor(fill, dtype=image.dtype).reshape(-1, 1, 1)
    padded = colour.expand(*image.shape[:-2], top + height + bottom, left + width + right).clone()
    padded[..., top : top + height, left : left + width] = image
    return padded


def normalize(image: Tensor, mean: Any, std: Any, inplace: bool = False) -> Tensor:  # noqa: ARG001
    """The images (…, C, H, W) less ``mean`` and divided by ``std`` of each channel."""
    centre, scale = (torch.as_tensor(value, dtype=image.dtype).reshape(-1, 1, 1) for value in (mean, std))
    return (image - centre) / scale


def grayscale_to_rgb(image: Tensor) -> Tensor:
    """The images (…, C, H, W) in colour: three channels of one, others as they are."""
    return image.expand(*image.shape[:-3], 3, *image.shape[-2:]) if image.shape[-3] == 1 else image


def pil_to_tensor(image: Image.Image) -> Tensor:
    """The pixels (C, H, W)."""
    return torch.from_numpy(np.array(image)).movedim(-1, 0)


class Cohere2VisionPictures(GotOcr2ImageProcessorPil):  # type: ignore[misc]
    """Command A Vision's: one tile an image."""

    patch_size = 2
    """Tokens along an edge of a tile."""


class Llama4Pictures(GotOcr2ImageProcessorPil):  # type: ignore[misc]
    """Llama 4's: one tile an image, and how many stand beside and above one another."""

    def preprocess(self, images: Any, *args: Any, **kwargs: Any) -> BatchFeature:
        """Pixels, and the aspect ratio 1 by 1 of each image."""
        made = super().preprocess(images, *args, **kwargs)
        made.pop("num_patches", None)
        made["aspect_ratios"] = torch.ones(len(made["pixel_values"]), 2, dtype=torch.long)
        return made


class Lfm2VlKwargs(Siglip2ImageProcessorKwargs, total=False):  # type: ignore[misc,call-arg]
    """Of LFM2-VL's own settings what its processor passes on."""

    return_row_col_info: bool


class Lfm2VlPictures(Siglip2ImageProcessorPil):  # type: ignore[misc]
    """LFM2-VL's: the patches of one tile, as SigLIP 2 takes them."""

    valid_kwargs = Lfm2VlKwargs
    downsample_factor, encoder_patch_size, tile_size, use_thumbnail = 2, 8, 32, False
    max_num_patches = 16

    def __call__(self, images: Any, *_: Any, **__: Any) -> BatchFeature:
        """Patches, and the image's size in them and in pixels."""
        made = super().__call__(
            [image.resize((32, 32)) for image in make_flat_list_of_images(images)], return_tensors="pt"
        )
        count = len(made["spatial_shapes"])
        return BatchFeature(
            {**made, "image_rows": [1] * count, "image_cols": [1] * count, "image_sizes": [[32, 32]] * count}
        )


class Molmo2Pictures(GotOcr2ImageProcessorPil):  # type: ignore[misc]
    """Molmo 2's: the image twice, as a whole and as one crop, each of four by four patches pooled two by two."""

    model_input_names = ["pixel_values", "image_token_pooling", "image_grids", "image_num_crops"]  # noqa: RUF012

    def preprocess(self, images: Any, *_: Any, **__: Any) -> BatchFeature:
        """Patches (2n, 16, 192), which of them each token pools (8n, 4), grids (n, 4) and numbers of crops (n,)."""
        crops = []
        images = make_flat_list_of_images(images)
        for image in images:
            pixels = (
                np.asarray(image.convert("RGB").resize((32, 32), Image.Resampling.BILINEAR), np.float32) / 127.5 - 1
            )
            patches = pixels.reshape(4, 8, 4, 8, 3).swapaxes(1, 2).reshape(16, 192)
            crops += [torch.from_numpy(patches.copy())] * 2
        corners = torch.tensor([[0, 1, 4, 5]]) + torch.tensor([0, 2, 8, 10])[:, None]
        pooling = torch.cat([corners + 16 * crop for crop in range(len(crops))])
        grids = torch.full((len(images), 4), 2)
        return BatchFeature(
            {
                "pixel_values": torch.stack(crops),
                "image_token_pooling": pooling,
                "image_grids": grids,
                "image_num_crops": torch.full((len(images),), 2),
            }
        )
