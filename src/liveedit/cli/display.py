"""What commands show: texts of users and models as they are, and where an interrupted command stands."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.text import Text

__all__ = ["JOINERS", "shown", "standing"]

JOINERS = "\u200c\u200d"
"""Characters without a picture of their own that words and emoji need."""


def shown(text: str, *, lines: bool = False, style: str = "") -> Text:
    """A text of somebody else's for the terminal: brackets are no markup, and what has no picture is written out.

    That is control characters, which would steer the terminal, and marks that turn the direction of reading; line ends
    too unless ``lines`` keeps them.
    """
    kept = JOINERS + "\n" * lines
    plain = "".join(sign if sign.isprintable() or sign in kept else ascii(sign)[1:-1] for sign in text)
    return Text(plain, style)


@contextmanager
def standing(message: str) -> Iterator[None]:
    """Let Ctrl-C within the block say ``message``, unless something further in has said more."""
    try:
        yield
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt(str(stop) or message) from None
