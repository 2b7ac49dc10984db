"""Qwen4-Exp (Alibaba, 2026): several residual streams side by side, and layers that read the words again."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor

from liveedit.errors import UnsupportedModel
from liveedit.models.batch import Batch
from liveedit.models.generic import Generic
from liveedit.models.patch import overrides

__all__ = ["Qwen4Exp"]


class Qwen4Exp(Generic):
    """What stands between its layers are all streams of a token, one after the other."""

    @property
    def state_size(self) -> int:
        """The width of all streams together."""
        config = self.model.config.get_text_config()
        return int(config.hc_count * config.hidden_size)

    @contextmanager
    def prefixed(self, batch: Batch) -> Iterator[tuple[Batch, Tensor | None]]:
        """Raise :class:`UnsupportedModel` for vectors without a token where layers read the tokens again."""
        reads = self.model.config.get_text_config().ple_layer_ids
        if reads and any(overrides(patch, "prefix") for patch in self.patches):
            raise UnsupportedModel("layers of Qwen4-Exp read the tokens: no vectors can stand before a text")
        with super().prefixed(batch) as found:
            yield found
