"""Registries: tables of names whose objects are imported only when they are used.

A registry is a plain dict. An entry is the place of its object, ``"module:attribute"``, or an
:class:`Entry`, which describes the object and has the place as its ``where``. Adding a method, a
family or a benchmark is one entry.
"""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from importlib import import_module
from typing import Any, Protocol

from liveedit.errors import UnknownName

__all__ = ["Entry", "nearest", "resolve"]


class Entry(Protocol):
    """Entry of a registry that describes an object besides naming its place."""

    @property
    def where(self) -> str:
        """Place of the object, ``"module:attribute"``."""


def resolve(kind: str, name: str, table: Mapping[str, str | Entry]) -> Any:
    """Import the object that ``table`` registers under ``name``.

    ``kind`` is the word for such objects in messages ("editor", "model family"). Raises
    :class:`UnknownName` for any other name, with the closest registered ones.
    """
    if name not in table:
        raise UnknownName(f"unknown {kind} '{name}': {nearest(name, sorted(table))}")
    entry = table[name]
    module, _, attribute = (entry if isinstance(entry, str) else entry.where).partition(":")
    return getattr(import_module(module), attribute)


def nearest(name: str, known: Sequence[str]) -> str:
    """Advice on an unknown name: the most similar of the ``known`` names, else all of them."""
    near = get_close_matches(name, known, n=3)
    return f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(known)}"
