"""Seeing and steering: what the edits of a pool do to an answer, and what one more would do.

Everything here reads a pool (:class:`liveedit.store.pool.Pool`) and changes nothing.
"""

from liveedit.steering.checking import Finding
from liveedit.steering.explaining import Explanation, Firing
from liveedit.steering.trying import Effect, Trial

__all__ = ["Effect", "Explanation", "Finding", "Firing", "Trial"]
