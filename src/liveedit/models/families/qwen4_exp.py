"""Qwen4-Exp (Alibaba, 2026): layers that read the words again."""

from liveedit.errors import UnsupportedModel
from liveedit.models.families.generic import Generic

__all__ = ["Qwen4Exp"]


class Qwen4Exp(Generic):
    """No vectors without a token can stand before its texts."""

    def check_prefix(self) -> None:
        """Raise :class:`UnsupportedModel` where layers read the tokens again: vectors have none."""
        if self.model.config.get_text_config().ple_layer_ids:
            raise UnsupportedModel(
                "layers of Qwen4-Exp read the tokens: no vectors can stand before a text"
            )
