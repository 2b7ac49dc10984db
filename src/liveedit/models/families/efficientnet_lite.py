"""EfficientNet-Lite0 as a vision tower for LLaVA: the pretrained network that the embedded model
sees with.

Tan & Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks" (ICML 2019);
the Lite variants (TensorFlow team, 2020) drop squeeze-and-excitation and use ReLU6. Layer sizes are
those of the published Lite0 checkpoint; its batch normalisations are folded into the convolutions,
which a frozen tower does not need apart. TensorFlow's "same" padding (the odd pixel goes right and
below) is kept: the weights were trained with it.

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

STAGES = [  # (channels out, kernel, stride, expansion), one row a block
    (16, 3, 1, 1),
    *[(24, 3, 2, 6), (24, 3, 1, 6)],
    *[(40, 5, 2, 6), (40, 5, 1, 6)],
    *[(80, 3, 2, 6), (80, 3, 1, 6), (80, 3, 1, 6)],
    *[(112, 5, 1, 6), (112, 5, 1, 6), (112, 5, 1, 6)],
    *[(192, 5, 2, 6), (192, 5, 1, 6), (192, 5, 1, 6), (192, 5, 1, 6)],
    (320, 3, 1, 6),
]


class EfficientNetLiteConfig(PreTrainedConfig):  # type: ignore[misc]
    """Shape of the tower: square images of ``image_size`` pixels give (image_size / 32)² tokens of
    ``hidden_size``.
    """

    model_type = "efficientnet_lite"

    def __init__(self, image_size: int = 128, hidden_size: int = 1280, **kwargs: Any) -> None:
        self.image_size = image_size
        self.patch_size = 32
        self.hidden_size = hidden_size
        super().__init__(**kwargs)


class SameConv(nn.Conv2d):
    """A convolution with TensorFlow's "same" padding and a bias that holds the folded batch
    normalisation.
    """

    def __init__(
        self, channels_in: int, channels_out: int, kernel: int, stride: int = 1, groups: int = 1
    ) -> None:
        super().__init__(channels_in, channels_out, kernel, stride=stride, groups=groups, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        """``x`` (B, C, H, W) to (B, C', ⌈H/stride⌉, ⌈W/stride⌉)."""
        kernel, stride = self.kernel_size[0], self.stride[0]
        pads = [
            max((-(-size // stride) - 1) * stride + kernel - size, 0)
            for size in (x.shape[3], x.shape[2])
        ]
        sides = [side for pad in pads for side in (pad // 2, pad - pad // 2)]
        return super().forward(F.pad(x, sides) if any(sides) else x)


class InvertedResidual(nn.Module):
    """Expand, depthwise convolution, project; with the input added where the shape allows it."""

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
        """``x`` (B, C, H, W) to (B, C', H', W')."""
        wide = x if self.expand is None else F.relu6(self.expand(x))
        y: Tensor = self.project(F.relu6(self.depthwise(wide)))
        return x + y if self.residual else y


class EfficientNetLite(PreTrainedModel):  # type: ignore[misc]
    """The tower: ``pixel_values`` (B, 3, H, W) to a sequence of image tokens (B, H·W / 32², 1280),
    row by row.
    """

    config_class = EfficientNetLiteConfig
    base_model_prefix = "efficientnet_lite"
    main_input_name = "pixel_values"

    def __init__(self, config: EfficientNetLiteConfig) -> None:
        super().__init__(config)
        widths = [32, *(stage[0] for stage in STAGES)]
        self.stem = SameConv(3, 32, 3, stride=2)
        self.blocks = nn.ModuleList(
            InvertedResidual(width, *stage) for width, stage in zip(widths, STAGES, strict=False)
        )
        self.head = SameConv(widths[-1], config.hidden_size, 1)
        self.post_init()

    def early(self, pixel_values: Tensor, blocks: int) -> Tensor:
        """The feature map (B, C, h, w) after the stem and the first ``blocks`` blocks."""
        # Channels last: three times as fast on a CPU (docs/explanation/lab-log.md).
        x = F.relu6(self.stem(pixel_values.contiguous(memory_format=torch.channels_last)))
        for block in self.blocks[:blocks]:
            x = block(x)
        return x

    def late(self, x: Tensor, blocks: int) -> Tensor:
        """Image tokens (B, h·w, 1280) from what :meth:`early` gave for the same ``blocks``."""
        for block in self.blocks[blocks:]:
            x = block(x)
        return F.relu6(self.head(x)).flatten(2).transpose(1, 2)

    def forward(self, pixel_values: Tensor, **_: Any) -> BaseModelOutputWithPooling:
        """Image tokens as ``last_hidden_state`` and as the only entry of ``hidden_states`` (LLaVA
        reads layer -1).

        LLaVA puts what it makes of them into ``pooler_output``, which an off-loaded model hands on
        only as a field.
        """
        tokens = self.late(self.early(pixel_values, 0), 0)
        return BaseModelOutputWithPooling(last_hidden_state=tokens, hidden_states=(tokens,))


AutoConfig.register("efficientnet_lite", EfficientNetLiteConfig)
AutoModel.register(EfficientNetLiteConfig, EfficientNetLite)
