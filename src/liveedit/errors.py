"""The errors that LiveEdit raises, as a small tree.

    LiveEditError
    ├── BadInput            what the user gave: a missing or broken image, an empty target, a truncated file …
    ├── UnknownName         a name that no registry holds, with the nearest ones
    ├── UnsupportedModel    a checkpoint that no family can read, or an editor that cannot work on this one
    ├── Mismatch            a file made for another base model, editor or version
    └── StorageError        reading or writing failed: disk full, no permission

Each message is one line and names the fix. The command line prints it and exits with status 1,
without a traceback. Where memory runs out, Python's or torch's own error goes up to the caller, and
:func:`shortage` has the line for it.
"""

import errno
import re

__all__ = [
    "BadInput",
    "LiveEditError",
    "Mismatch",
    "StorageError",
    "UnknownName",
    "UnsupportedModel",
    "shortage",
]

SHORT = re.compile(
    r"out of memory|not enough memory|can(?:'|no)t allocate memory|ALLOC_FAILED|storage size calculation overflowed",
    re.IGNORECASE,
)
"""How torch says that memory ran out, on a device or on the CPU, in errors of no kind of their own.
"""
MORE = re.compile(r"allocate ([0-9.]+ ?[A-Za-z]+)")
"""Where it says how much it asked for."""


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


def shortage(error: BaseException) -> str:
    """The line for an error of Python's or torch's that says that memory ran out; empty for any
    other.
    """
    full = isinstance(error, OSError) and error.errno == errno.ENOMEM
    if not (
        isinstance(error, MemoryError)
        or full
        or (isinstance(error, RuntimeError) and SHORT.search(str(error)))
    ):
        return ""
    more = MORE.search(str(error))
    return (
        f"there is not enough memory{f' for {more[1]} more' if more else ''}: in a training lower module_dim, rank or "
        "batch_size, or give --no-cache; a model takes less with --dtype bfloat16 or --quantize, or is spread by "
        "--device-map"
    )
