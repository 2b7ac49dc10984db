"""Image processors for tiny models, in place of those that transformers has with torchvision alone.

Each gives what the one in whose place it stands gives for an image of one tile. A checkpoint is read with its own.
"""

from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import BatchFeature
from transformers.image_utils import make_flat_list_of_images
from transformers.models.fuyu.image_processing_pil_fuyu import FuyuImageProcessorPil
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.siglip2.image_processing_pil_siglip2 import (
    Siglip2ImageProcessorKwargs,
    Siglip2ImageProcessorPil,
)

__all__ = ["Cohere2VisionPictures", "FuyuPictures", "Lfm2VlPictures", "Llama4Pictures", "Molmo2Pictures"]


class FuyuPictures(FuyuImageProcessorPil):  # type: ignore[misc]
    """Fuyu's: its processor asks for patches of tensors."""

    def patchify_image(self, image: Any, patch_size: Any = None) -> torch.Tensor:
        """Patches (n, count, height · width · 3), row by row, of images (n, 3, H, W)."""
        size = patch_size or self.patch_size
        patches = image.unfold(2, size.height, size.height).unfold(3, size.width, size.width)
        laid: torch.Tensor = patches.permute(0, 2, 3, 4, 5, 1).flatten(3).flatten(1, 2)
        return laid


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
