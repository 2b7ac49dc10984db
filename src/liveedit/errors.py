"""The errors that LiveEdit raises, as a small tree.

    LiveEditError
    ├── BadInput            unusable input: a broken image, an empty target, a truncated file …
    ├── UnknownName         a name that no registry holds; the message lists the nearest ones
    ├── UnsupportedModel    a checkpoint that no family loads, or that an editor does not support
    ├── Mismatch            a file made for another base model, editor or version
    └── StorageError        reading or writing failed: disk full, no permission

Each message is one line and names the fix. The command line prints it and exits with status 1,
without a traceback. Running out of memory is not among these: Python's or torch's own error
reaches the caller, and :func:`shortage` has the line for it.
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
    r"out of memory|not enough memory|can(?:'|no)t allocate memory|ALLOC_FAILED"
    r"|storage size calculation overflowed",
    re.IGNORECASE,
)
"""Messages of torch's plain ``RuntimeError`` when memory ran out, on a device or the CPU."""
MORE = re.compile(r"allocate ([0-9.]+ ?[A-Za-z]+)")
"""The amount of memory requested, in such a message."""


class LiveEditError(Exception):
    """Base of every error that a user can cause and repair."""


class BadInput(LiveEditError):
    """An input that cannot be used, such as a setting, a text or a file."""


class UnknownName(LiveEditError):
    """A name that is not registered."""


class UnsupportedModel(LiveEditError):
    """A model that cannot be loaded, or that an editor does not support."""


class Mismatch(LiveEditError):
    """A file that belongs to another base model, editor or version."""


class StorageError(LiveEditError):
    """Reading or writing failed."""


def shortage(error: BaseException) -> str:
    """The message for an out-of-memory error of Python or torch; "" for any other error."""
    if not _out_of_memory(error):
        return ""
    requested = MORE.search(str(error))
    more = f" for {requested[1]} more" if requested else ""
    return (
        f"there is not enough memory{more}: in a training lower module_dim, rank or batch_size, or "
        "give --no-cache; a model takes less with --dtype bfloat16 or --quantize, or is spread by "
        "--device-map"
    )


def _out_of_memory(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    if isinstance(error, RuntimeError):
        return SHORT.search(str(error)) is not None
    return isinstance(error, MemoryError)
