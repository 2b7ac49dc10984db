"""For tiny models of types whose vision tower is one of timm, which needs torchvision.

:func:`without_timm` has a small ResNet stand in its place. A checkpoint is read with timm itself.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from transformers import MODEL_MAPPING, Gemma3nVisionConfig, ResNetConfig, ResNetModel

__all__ = ["without_timm"]


class Tower(ResNetModel):  # type: ignore[misc]
    """A map of features of the width that timm's tower has, an eighth of the image's height and
    width.
    """

    def __init__(self, config: Any) -> None:
        widths = [16, config.hidden_size]
        super().__init__(
            ResNetConfig(embedding_size=16, hidden_sizes=widths, depths=[1, 1], layer_type="basic")
        )


@contextmanager
def without_timm() -> Iterator[None]:
    """Within it models are built with a ResNet in place of a tower of timm."""
    with patch.dict(
        MODEL_MAPPING._extra_content, {Gemma3nVisionConfig: Tower}
    ):  # `register` refuses their own classes
        yield
