"""Qwen4-Exp (Alibaba, 2026): layers that read the words again."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor

from liveedit.errors import UnsupportedModel
from liveedit.models.batch import Batch
from liveedit.models.generic import Generic
from liveedit.models.patch import overrides

__all__ = ["Qwen4Exp"]


class Qwen4Exp(Generic):
    """No vectors without a token can stand before its texts."""

    @contextmanager
    def prefixed(self, batch: Batch) -> Iterator[tuple[Batch, Tensor | None]]:
        """Raise :class:`UnsupportedModel` for vectors without a token where layers read the tokens again."""
        reads = self.model.config.get_text_config().ple_layer_ids
        if reads and any(overrides(patch, "prefix") for patch in self.patches):
            raise UnsupportedModel("layers of Qwen4-Exp read the tokens: no vectors can stand before a text")
        with super().prefixed(batch) as found:
            yield found
