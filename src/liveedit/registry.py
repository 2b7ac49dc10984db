"""Names to classes, imported only when asked for.

A registry is a plain dict of ``"name": "module:Attribute"`` strings; adding a method, a family or a benchmark is one
line in such a dict. A name that is not there raises with the nearest ones.
"""

from collections.abc import Mapping
from difflib import get_close_matches
from importlib import import_module
from typing import Any

from liveedit.errors import UnknownName

__all__ = ["resolve"]


def resolve(kind: str, name: str, table: Mapping[str, str]) -> Any:
    """The object that ``table`` registers under ``name``.

    ``kind`` is what the names stand for ("editor", "model family"), for the message. Raises :class:`UnknownName` for
    any other name, with the closest registered ones.
    """
    if name not in table:
        near = get_close_matches(name, table, n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(sorted(table))}"
        raise UnknownName(f"unknown {kind} '{name}': {hint}")
    module, _, attribute = table[name].partition(":")
    return getattr(import_module(module), attribute)
