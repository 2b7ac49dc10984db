"""The lifelong test: what is edited in which order, what is asked when, and one record a probe.

Importing this package loads no torch; the run and its journal do, when they are first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from liveedit.evaluate.progress import Progress
from liveedit.evaluate.protocol import PROTOCOLS, Gap, Protocol, Stream, Windows, new_protocol

if TYPE_CHECKING:
    from liveedit.evaluate.journal import note_failure
    from liveedit.evaluate.run import Evaluation, evaluate, processes

__all__ = [
    "PROTOCOLS",
    "Evaluation",
    "Gap",
    "Progress",
    "Protocol",
    "Stream",
    "Windows",
    "evaluate",
    "new_protocol",
    "note_failure",
    "processes",
]

_LAZY = {
    "Evaluation": "liveedit.evaluate.run",
    "evaluate": "liveedit.evaluate.run",
    "note_failure": "liveedit.evaluate.journal",
    "processes": "liveedit.evaluate.run",
}


def __getattr__(name: str) -> Any:
    """Import what needs torch when it is first asked for."""
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'liveedit.evaluate' has no attribute '{name}'")
