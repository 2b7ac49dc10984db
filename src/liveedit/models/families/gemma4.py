"""Gemma 4 (Google, 2026), and Gemma 4 Unified, which has no vision tower.

The text decoder is given the prompt with the image in place of its placeholder; in Gemma 4 Unified
a linear layer embeds the patches. In both, upper layers may reuse keys and values of lower ones; in
Gemma 4's smaller models every layer also reads the token embeddings again.
"""

from liveedit.models.families.kv_sharing import PerLayerEmbeddings, SharedKeyValues

__all__ = ["Gemma4", "Gemma4Unified"]


class Gemma4(PerLayerEmbeddings):
    """Gemma 4: keeps shared keys and values, and the embeddings."""


class Gemma4Unified(SharedKeyValues):
    """Gemma 4 Unified: keeps shared keys and values."""
