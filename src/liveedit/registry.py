"""Names to classes, imported only when asked for.

A registry is a plain dict of ``"name": "module:Attribute"`` strings; adding a method, a family or a
benchmark is one line in such a dict. A name that is not there raises with the nearest ones.
"""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from importlib import import_module
from typing import Any

from liveedit.errors import UnknownName

__all__ = ["nearest", "resolve"]


def resolve(kind: str, name: str, table: Mapping[str, str]) -> Any:
    """The object that ``table`` registers under ``name``.

    ``kind`` is what the names stand for ("editor", "model family"), for the message. Raises
    :class:`UnknownName` for any other name, with the closest registered ones.
    """
    if name not in table:
        raise UnknownName(f"unknown {kind} '{name}': {nearest(name, sorted(table))}")
    module, _, attribute = table[name].partition(":")
    return getattr(import_module(module), attribute)


def nearest(name: str, known: Sequence[str]) -> str:
    """What may have been meant by a name that is not among the ``known``, or all of these."""
    near = get_close_matches(name, known, n=3)
    return f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(known)}"
