"""Stand-in for vision towers of timm, which needs torchvision, in tiny models.

:func:`without_timm` puts a small ResNet in their place. A checkpoint is read with timm itself.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from transformers import MODEL_MAPPING, Gemma3nVisionConfig, ResNetConfig, ResNetModel

__all__ = ["without_timm"]


class Tower(ResNetModel):  # type: ignore[misc]
    """ResNet with the width of timm's tower and an eighth of the image's height and width."""

    def __init__(self, config: Any) -> None:
        widths = [16, config.hidden_size]
        super().__init__(
            ResNetConfig(embedding_size=16, hidden_sizes=widths, depths=[1, 1], layer_type="basic")
        )


@contextmanager
def without_timm() -> Iterator[None]:
    """Context in which models are built with a ResNet instead of a vision tower of timm."""
    # `register` refuses configurations of transformers itself.
    with patch.dict(MODEL_MAPPING._extra_content, {Gemma3nVisionConfig: Tower}):
        yield
