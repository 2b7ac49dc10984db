"""Gemma 4 (Google, 2026): every layer reads a projection of the embeddings again."""

from dataclasses import replace
from typing import Any

from torch import Tensor

from liveedit.errors import UnsupportedModel
from liveedit.models.batch import Batch, HiddenBatch
from liveedit.models.generic import Generic

__all__ = ["Gemma4"]

EMBEDDED = "inputs_embeds"


class Gemma4(Generic):
    """The embeddings are kept beside the hidden states, so that the layers above find them there.

    Raises :class:`UnsupportedModel` where upper layers take keys and values from lower ones: going on from within
    would leave these out.
    """

    def check_architecture(self) -> None:
        """Raise :class:`UnsupportedModel` also for shared keys and values."""
        super().check_architecture()
        if self.model.config.get_text_config().num_kv_shared_layers:
            raise self.refuse("its upper layers take keys and values from lower ones")

    def check_prefix(self) -> None:
        """Raise :class:`UnsupportedModel`: every layer reads the tokens again, and vectors have none."""
        raise UnsupportedModel("every layer of Gemma 4 reads the tokens: no vectors can stand before a text")

    def extra(self, batch: Batch, kwargs: dict[str, Any]) -> dict[str, Tensor]:
        """The embeddings, besides what the generic family keeps."""
        return {EMBEDDED: kwargs[EMBEDDED], **super().extra(batch, kwargs)}

    def decode(self, embedded: Tensor, hidden: HiddenBatch) -> Tensor:
        """The decoder's last states (B, T, D), over the embeddings that the batch began with."""
        extra = dict(hidden.extra)
        kept = extra.pop(EMBEDDED)
        return super().decode(embedded if self.skipped < 0 else kept, replace(hidden, extra=extra))
