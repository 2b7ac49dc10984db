"""Checkpoints: everything that a run needs to resume exactly, written whole or not at all.

A checkpoint is a folder ``checkpoints/step-…`` with accelerate's files, the state of the learning
rate schedule and the SHA-256 of each file. Only the last one is kept.
"""

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from accelerate import Accelerator
from torch.optim.lr_scheduler import LambdaLR

from liveedit.artifacts import file_sum, sync, writing
from liveedit.errors import BadInput, StorageError, shortage

__all__ = ["GOES_ON", "resume", "save_checkpoint", "saving"]

STEP = re.compile(r"step-([0-9]{7}|[1-9][0-9]{7,})")
"""The name of a complete checkpoint."""
SUMS = "sums.json"
"""SHA-256 of each other file by its name; checkpoints of early versions lack it."""
SCHEDULE = "schedule.pt"
GOES_ON = "run the same command to continue"


@contextmanager
def saving(target: Path) -> Iterator[None]:
    """Turn an error while writing ``target`` into a :class:`StorageError` of one line."""
    try:
        with writing(target, f"fix that and {GOES_ON}"):
            yield
    except RuntimeError as error:  # torch's error for a full disk
        if shortage(error):
            raise
        reason = str(error).partition("\n")[0]
        raise StorageError(f"cannot write {target} ({reason}): fix that and {GOES_ON}") from error


def save_checkpoint(accelerator: Accelerator, folder: Path, step: int, scheduler: LambdaLR) -> None:
    """Save the state of all processes after ``step``, then remove the checkpoint before it.

    All processes write to one draft, whose name follows from the step.
    """
    target = path_of(folder, step)
    draft = target.with_suffix(".part")
    with saving(target):
        accelerator.save_state(str(draft))
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            torch.save(scheduler.state_dict(), draft / SCHEDULE)
            _complete(draft, target)
            for older in complete_checkpoints(folder)[:-1]:
                shutil.rmtree(older)
    accelerator.wait_for_everyone()


def _complete(draft: Path, target: Path) -> None:
    """Add the checksums to a draft, and give it its final name once all is on the disk."""
    files = [file for file in draft.rglob("*") if file.is_file() and file != draft / SUMS]
    sums = {file.relative_to(draft).as_posix(): file_sum(file) for file in files}
    (draft / SUMS).write_text(json.dumps(sums, indent=1), encoding="utf-8")
    for file in [*draft.iterdir(), draft]:
        sync(file)
    draft.rename(target)
    sync(target.parent)


def path_of(folder: Path, step: int) -> Path:
    """The path of the checkpoint after ``step``."""
    return folder / "checkpoints" / f"step-{step:07d}"


def complete_checkpoints(folder: Path) -> list[Path]:
    """The complete checkpoints, in the order of their steps; other names are ignored."""
    found = (folder / "checkpoints").glob("step-*")
    return sorted((path for path in found if STEP.fullmatch(path.name)), key=step_of)


def step_of(checkpoint: Path) -> int:
    """The step after which a checkpoint was saved."""
    return int(checkpoint.name.removeprefix("step-"))


def resume(accelerator: Accelerator, folder: Path, scheduler: LambdaLR) -> int:
    """Load the last checkpoint, if there is one; return the number of steps done so far.

    Raises :class:`BadInput` if the checkpoint is damaged.
    """
    found = complete_checkpoints(folder)
    if not found:
        return 0
    last = found[-1]
    try:
        _check_sums(last)
        accelerator.load_state(str(last))
        scheduler.load_state_dict(torch.load(last / SCHEDULE, weights_only=True))
    except Exception as error:  # the readers of damaged files raise anything
        if shortage(error):
            raise
        raise BadInput(
            f"{last} is damaged: remove it, and the same command begins again"
        ) from error
    return step_of(last)


def _check_sums(checkpoint: Path) -> None:
    """Raise ``ValueError`` where a file of a checkpoint is not the one that was saved."""
    if not (checkpoint / SUMS).exists():
        return
    sums = json.loads((checkpoint / SUMS).read_text(encoding="utf-8"))
    changed = [name for name, saved in sums.items() if file_sum(checkpoint / name) != saved]
    if changed:
        raise ValueError(f"{', '.join(changed)} changed")
