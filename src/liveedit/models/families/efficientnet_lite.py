"""EfficientNet-Lite0, the vision tower of the embedded model, which is a LLaVA.

Tan & Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks" (ICML 2019).
The Lite variants (TensorFlow team, 2020) drop squeeze-and-excitation and use ReLU6. Layer sizes are
those of the published Lite0 checkpoint. Its batch normalisations are folded into the convolutions,
since a frozen tower needs none of its own. TensorFlow's "same" padding, which puts the odd pixel on
the right and below, is kept: the weights were trained with it.

Importing this module registers the tower with the Auto classes, so that
``AutoModelForImageTextToText`` reads a LLaVA checkpoint whose ``vision_config`` has ``model_type``
"efficientnet_lite".
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

__all__ = ["EfficientNetLite", "EfficientNetLiteConfig"]

BLOCKS = [  # (output channels, kernel, stride, expansion)
    (16, 3, 1, 1),
    (24, 3, 2, 6),
    (24, 3, 1, 6),
    (40, 5, 2, 6),
    (40, 5, 1, 6),
    (80, 3, 2, 6),
    (80, 3, 1, 6),
    (80, 3, 1, 6),
    (112, 5, 1, 6),
    (112, 5, 1, 6),
    (112, 5, 1, 6),
    (192, 5, 2, 6),
    (192, 5, 1, 6),
    (192, 5, 1, 6),
    (192, 5, 1, 6),
    (320, 3, 1, 6),
]


class EfficientNetLiteConfig(PreTrainedConfig):  # type: ignore[misc]
    """Shape of the tower: square images of ``image_size`` pixels, tokens of width ``hidden_size``.

    An image becomes (image_size / 32)² tokens.
    """

    model_type = "efficientnet_lite"

    def __init__(self, image_size: int = 128, hidden_size: int = 1280, **kwargs: Any) -> None:
        self.image_size = image_size
        self.patch_size = 32
        self.hidden_size = hidden_size
        super().__init__(**kwargs)


class SameConv(nn.Conv2d):
    """Convolution with TensorFlow's "same" padding; its bias holds the folded normalisation."""

    def __init__(
        self, channels_in: int, channels_out: int, kernel: int, stride: int = 1, groups: int = 1
    ) -> None:
        super().__init__(channels_in, channels_out, kernel, stride=stride, groups=groups, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` (B, C, H, W) to (B, C', ⌈H/stride⌉, ⌈W/stride⌉)."""
        left, right = self.padding_of(x.shape[3])
        top, bottom = self.padding_of(x.shape[2])
        padding = (left, right, top, bottom)
        return super().forward(F.pad(x, padding) if any(padding) else x)

    def padding_of(self, size: int) -> tuple[int, int]:
        """Return the padding before and after an axis of ``size`` pixels, the odd one after."""
        stride = self.stride[0]
        outputs = -(-size // stride)
        total = max((outputs - 1) * stride + self.kernel_size[0] - size, 0)
        before = total // 2
        return before, total - before


class InvertedResidual(nn.Module):
    """Expansion, depthwise convolution, projection; plus the input if the shapes agree."""

    def __init__(
        self, channels_in: int, channels_out: int, kernel: int, stride: int, expansion: int
    ) -> None:
        super().__init__()
        width = channels_in * expansion
        self.expand = SameConv(channels_in, width, 1) if expansion > 1 else None
        self.depthwise = SameConv(width, width, kernel, stride, groups=width)
        self.project = SameConv(width, channels_out, 1)
        self.residual = stride == 1 and channels_in == channels_out

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` (B, C, H, W) to (B, C', H', W')."""
        wide = x if self.expand is None else F.relu6(self.expand(x))
        y: Tensor = self.project(F.relu6(self.depthwise(wide)))
        return x + y if self.residual else y


class EfficientNetLite(PreTrainedModel):  # type: ignore[misc]
    """The tower: maps pixels (B, 3, H, W) to image tokens (B, H·W / 32², 1280), row by row."""

    config_class = EfficientNetLiteConfig
    base_model_prefix = "efficientnet_lite"
    main_input_name = "pixel_values"

    def __init__(self, config: EfficientNetLiteConfig) -> None:
        super().__init__(config)
        widths = [32, *(block[0] for block in BLOCKS)]
        self.stem = SameConv(3, 32, 3, stride=2)
        self.blocks = nn.ModuleList(
            InvertedResidual(width, *block) for width, block in zip(widths, BLOCKS, strict=False)
        )
        self.head = SameConv(widths[-1], config.hidden_size, 1)
        self.post_init()

    def early(self, pixel_values: Tensor, blocks: int) -> Tensor:
        """Return the feature map (B, C, h, w) after the stem and the first ``blocks`` blocks."""
        # Channels last: three times as fast on a CPU (docs/explanation/lab-log.md).
        x = F.relu6(self.stem(pixel_values.contiguous(memory_format=torch.channels_last)))
        for block in self.blocks[:blocks]:
            x = block(x)
        return x

    def late(self, x: Tensor, blocks: int) -> Tensor:
        """Return the image tokens (B, h·w, 1280) for the output ``x`` of :meth:`early`."""
        for block in self.blocks[blocks:]:
            x = block(x)
        return F.relu6(self.head(x)).flatten(2).transpose(1, 2)

    def forward(self, pixel_values: Tensor, **_: Any) -> BaseModelOutputWithPooling:
        """Return the image tokens (B, H·W / 32², 1280) as ``last_hidden_state``.

        They are also the only entry of ``hidden_states``, of which LLaVA reads the last. The output
        has a field ``pooler_output`` because LLaVA writes the projected tokens into it, and an
        off-loaded model passes on fields alone.
        """
        tokens = self.late(self.early(pixel_values, 0), 0)
        return BaseModelOutputWithPooling(last_hidden_state=tokens, hidden_states=(tokens,))


AutoConfig.register("efficientnet_lite", EfficientNetLiteConfig)
AutoModel.register(EfficientNetLiteConfig, EfficientNetLite)
