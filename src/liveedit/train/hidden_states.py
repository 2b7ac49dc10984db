"""The cache of hidden states, which are computed below the edit layer once for the training.

``hidden/`` holds one file per slice of cases and, beside it, its SHA-256. A file whose SHA-256 is
missing or different is computed again.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from accelerate import Accelerator

from liveedit.artifacts import draft, file_sum, write_file
from liveedit.editors.base import TrainableEditor
from liveedit.editors.common.examples import Example
from liveedit.errors import shortage
from liveedit.train.checkpoints import GOES_ON, saving
from liveedit.train.config import Progress
from liveedit.types import Case

__all__ = ["prepared"]

SLICE = 64
"""Cases in one file."""


def prepared(
    editor: TrainableEditor,
    cases: Sequence[Case],
    folder: Path,
    accelerator: Accelerator,
    interrupted: Callable[[], bool],
    progress: Progress,
) -> list[Example]:
    """The cases with their hidden states, read from the cache where it has them.

    The main process computes and saves; the others then read. Raises ``KeyboardInterrupt`` after a
    slice once ``interrupted`` is true.
    """
    examples: list[Example] = []
    with accelerator.main_process_first():
        for start in range(0, len(cases), SLICE):
            file = folder / "hidden" / f"{start:07d}.pt"
            some = _cached(file)
            if some is None:
                progress("hidden states", start, len(cases), {})
                some = editor.prepare(cases[start : start + SLICE])
                _save(some, file)
                progress("hidden states", start + len(some), len(cases), {})
            examples += some
            if interrupted():
                kept = f"the hidden states of {len(examples):,} of {len(cases):,} cases"
                raise KeyboardInterrupt(f"stopped with {kept}; {GOES_ON}")
    return examples


def _save(examples: Sequence[Example], file: Path) -> None:
    """Write a file of hidden states, then its checksum."""
    with saving(file), draft(file) as part, part.open("wb") as written:
        torch.save(examples, written)
    with saving(file):
        write_file(_checksum_of(file), file_sum(file).encode())


def _cached(file: Path) -> list[Example] | None:
    """The hidden states in a file, or ``None`` where it is missing or damaged."""
    try:
        if _checksum_of(file).read_text(encoding="utf-8") != file_sum(file):
            return None
        return list(torch.load(file, weights_only=False))
    except Exception as error:  # a damaged pickle raises anything
        if shortage(error):
            raise
        return None


def _checksum_of(file: Path) -> Path:
    """The path of the SHA-256 of a file of hidden states."""
    return file.with_suffix(".sha256")
