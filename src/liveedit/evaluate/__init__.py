"""The lifelong test: what is edited in which order, what is asked when, and one record a probe."""

from liveedit.evaluate.journal import note_failure
from liveedit.evaluate.progress import Progress
from liveedit.evaluate.protocol import Gap, Protocol, Stream, Windows
from liveedit.evaluate.run import Evaluation, evaluate, processes

__all__ = [
    "Evaluation",
    "Gap",
    "Progress",
    "Protocol",
    "Stream",
    "Windows",
    "evaluate",
    "note_failure",
    "processes",
]
