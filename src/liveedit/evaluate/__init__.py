"""The lifelong test: evaluates editors after more and more edits, with one record per probe."""

from liveedit.evaluate.journal import note_failure
from liveedit.evaluate.progress import Progress
from liveedit.evaluate.run import Evaluation, evaluate, processes
from liveedit.measures.protocols import Gap, Protocol, Stream, Windows

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
