"""Qwen4-Exp (Alibaba, 2026): several residual streams side by side, and layers that read the words again."""

from liveedit.errors import UnsupportedModel
from liveedit.models.generic import Generic

__all__ = ["Qwen4Exp"]


class Qwen4Exp(Generic):
    """What stands between its layers are all streams of a token, one after the other."""

    @property
    def state_size(self) -> int:
        """The width of all streams together."""
        config = self.model.config.get_text_config()
        return int(config.hc_count * config.hidden_size)

    def check_prefix(self) -> None:
        """Raise :class:`UnsupportedModel` where layers read the tokens again: vectors have none."""
        if self.model.config.get_text_config().ple_layer_ids:
            raise UnsupportedModel("layers of Qwen4-Exp read the tokens: no vectors can stand before a text")
