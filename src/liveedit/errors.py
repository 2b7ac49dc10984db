"""The errors that LiveEdit raises, as a small tree.

    LiveEditError
    ├── BadInput            what the user gave: a missing or broken image, an empty target, a truncated file …
    ├── UnknownName         a name that no registry holds, with the nearest ones
    ├── UnsupportedModel    a checkpoint that no family can read, or an editor that cannot work on this one
    ├── Mismatch            a file made for another base model, editor or version
    └── StorageError        reading or writing failed: disk full, no permission

Each message is one line and names the fix. The command line prints it and exits with status 1, without a traceback.
"""

__all__ = ["BadInput", "LiveEditError", "Mismatch", "StorageError", "UnknownName", "UnsupportedModel"]


class LiveEditError(Exception):
    """Base of every error that a user can cause and mend."""


class BadInput(LiveEditError):
    """Something that the user gave cannot be used as it is."""


class UnknownName(LiveEditError):
    """A name that is not registered."""


class UnsupportedModel(LiveEditError):
    """A model that cannot be read, or on which an editor cannot work."""


class Mismatch(LiveEditError):
    """A file that belongs to another base model, editor or version."""


class StorageError(LiveEditError):
    """Reading or writing failed."""
