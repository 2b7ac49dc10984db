"""Names of the environment variables of the plug-in."""

__all__ = ["EDITOR", "STORE"]

STORE = "LIVEEDIT_STORE"
"""The store of the edits, a path or the URL of a database."""
EDITOR = "LIVEEDIT_EDITOR"
"""The editor of new edits, where the store has none yet."""
