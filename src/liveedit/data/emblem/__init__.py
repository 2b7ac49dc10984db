"""Emblem: the embedded benchmark of flags and emoji drawn by several artists.

Its drawings and facts are in :mod:`~liveedit.data.emblem.drawings`, the wordings of its questions
in :mod:`~liveedit.data.emblem.wordings`, its cases in :mod:`~liveedit.data.emblem.cases`.
"""

from liveedit.data.emblem.drawings import Emblem

__all__ = ["Emblem"]
