"""Emblem: flags and things drawn by several artists, with the facts, wordings and cases made of
them.
"""

from liveedit.data.emblem.drawings import Emblem

__all__ = ["Emblem"]
