"""Output of commands: escapes texts for the terminal, reports output errors, handles Ctrl-C."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from rich.text import Text

from liveedit.errors import StorageError

__all__ = ["JOINERS", "Output", "Unshown", "interrupt_message", "print_json", "shown"]

JOINERS = "\u200c\u200d"
"""Invisible characters that words of some scripts and emoji need."""


class Unshown(StorageError):
    """Standard output could not be written, although the command has done its work."""


class Output:
    """Standard output whose errors are raised as :class:`Unshown`, not as errors of a disk.

    A closed pipe stays a ``BrokenPipeError``.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        """Write a text. Raises :class:`Unshown`."""
        with _unshown():
            return self.stream.write(text)

    def flush(self) -> None:
        """Write what is buffered. Raises :class:`Unshown`."""
        with _unshown():
            self.stream.flush()


@contextmanager
def _unshown() -> Iterator[None]:
    """Turn an error of the stream into :class:`Unshown`."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise Unshown(f"cannot write to standard output ({error.strerror}): redirect it") from None


def shown(text: str, *, lines: bool = False, style: str = "") -> Text:
    """A text of a user or a model for the terminal: no markup, unprintable characters escaped.

    These are control characters, which would steer the terminal, and marks that change the
    direction of reading. ``lines`` keeps line ends; otherwise they are escaped, too.
    """
    kept = JOINERS + "\n" if lines else JOINERS
    escaped = (sign if sign.isprintable() or sign in kept else ascii(sign)[1:-1] for sign in text)
    return Text("".join(escaped), style)


def print_json(value: Any) -> None:
    """Print a value as JSON."""
    print(json.dumps(value, ensure_ascii=False, indent=1))


@contextmanager
def interrupt_message(message: str) -> Iterator[None]:
    """Let Ctrl-C in this block print ``message``, unless an inner block has set another."""
    try:
        yield
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt(str(stop) or message) from None
