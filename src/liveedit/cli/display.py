"""What commands show and on what: texts of users and models as they are, and where an interrupted
command stands.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from rich.text import Text

from liveedit.errors import StorageError

__all__ = ["JOINERS", "Output", "Unshown", "shown", "standing"]

JOINERS = "\u200c\u200d"
"""Characters without a picture of their own that words and emoji need."""


class Unshown(StorageError):
    """Standard output takes nothing, which undoes nothing of what a command did."""


class Output:
    """Standard output, of which it is known when it fails, so that no disk is blamed. A closed pipe
    stays one.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        """Write a text. Raises :class:`Unshown`."""
        with _output():
            return self.stream.write(text)

    def flush(self) -> None:
        """Write what has not been written yet. Raises :class:`Unshown`."""
        with _output():
            self.stream.flush()


@contextmanager
def _output() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise Unshown(
            f"standard output takes nothing ({error.strerror}): send it elsewhere"
        ) from None


def shown(text: str, *, lines: bool = False, style: str = "") -> Text:
    """A text of somebody else's for the terminal: brackets are no markup, and what has no picture
    is written out.

    That is control characters, which would steer the terminal, and marks that turn the direction of
    reading; line ends too unless ``lines`` keeps them.
    """
    kept = JOINERS + "\n" * lines
    plain = "".join(
        sign if sign.isprintable() or sign in kept else ascii(sign)[1:-1] for sign in text
    )
    return Text(plain, style)


@contextmanager
def standing(message: str) -> Iterator[None]:
    """Let Ctrl-C within the block say ``message``, unless something further in has said more."""
    try:
        yield
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt(str(stop) or message) from None
