"""Qwen4-Exp (Alibaba, 2026).

The text decoder is given the prompt with the image in place of its placeholder, and the generic
family finds everything. Some of its layers also read an embedding of the token ids (per-layer
embeddings), so vectors that do not belong to a token cannot be put before a text.
"""

from liveedit.errors import UnsupportedModel
from liveedit.models.families.generic import Generic

__all__ = ["Qwen4Exp"]


class Qwen4Exp(Generic):
    """Qwen4-Exp: refuses patches that put vectors before a text."""

    def check_prefix(self) -> None:
        """Raise :class:`UnsupportedModel` if the config lists layers that read the token ids."""
        if self.model.config.get_text_config().ple_layer_ids:
            raise UnsupportedModel(
                "layers of Qwen4-Exp read the tokens: no vectors can stand before a text"
            )
