"""Molmo 2 (Ai2, 2025): image tokens attend to one another in both directions; a text begins with BOS or, without, EOS."""

from liveedit.models.generic import Generic
from liveedit.types import Query

__all__ = ["Molmo2"]


class Molmo2(Generic):
    """The processor puts the first token before the text itself."""

    def render(self, query: Query) -> str:
        """The text, begun as the processor begins it."""
        text, first = super().render(query), str(self.tokenizer.bos_token or self.tokenizer.eos_token)
        return text if text.startswith(first) else first + text
