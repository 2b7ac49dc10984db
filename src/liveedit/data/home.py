"""The user's data folder, which holds own benchmarks and downloads."""

import os
from pathlib import Path

from liveedit.types import expanded

__all__ = ["NO_ROOM", "home"]

NO_ROOM = "free some space, or set LIVEEDIT_HOME elsewhere"
"""Advice where the user's data folder cannot be written to."""


def home() -> Path:
    """The user's data folder: ``$LIVEEDIT_HOME``, or ``liveedit`` in ``$XDG_DATA_HOME``."""
    if own := os.environ.get("LIVEEDIT_HOME"):
        return expanded(own)
    return expanded(os.environ.get("XDG_DATA_HOME") or "~/.local/share") / "liveedit"
