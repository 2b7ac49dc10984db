"""The paths of the command line, for which shells spell ``~`` out as a word of its own, but not
behind ``--out=``.
"""

from pathlib import Path

from liveedit.types import expanded

__all__ = ["path"]


def path(text: str | Path) -> Path:
    """What an option or an argument says, called as typer shows it. Raises :class:`BadInput` as
    :func:`expanded`.
    """
    return expanded(text)
