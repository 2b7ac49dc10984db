"""Names of the environment variables of the plug-in."""

__all__ = ["DEVICE", "STORE"]

STORE = "LIVEEDIT_STORE"
"""The store of the edits, a path or the URL of a database."""
DEVICE = "LIVEEDIT_DEVICE"
"""The device of the model that makes edits, such as "cuda:1"; by default the CPU."""
