"""Where a converter writes a checkpoint: wholly or not at all."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from liveedit.errors import BadInput, StorageError

__all__ = ["check_new", "new_folder"]


def check_new(out: Path) -> None:
    """Raise :class:`BadInput` where ``out`` is there already: asked before anything long is read."""
    if out.exists():
        raise BadInput(f"{out} is there already: choose another folder")


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A folder to write to, which is ``out`` once all is written; what fails leaves no trace.

    Raises :class:`StorageError` where writing fails.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    except OSError as error:
        raise StorageError(f"cannot write to {out.parent} ({error.strerror}): choose another folder") from error
    try:
        yield part
        part.rename(out)
    except (OSError, SafetensorError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise StorageError(f"cannot write {out} ({reason}): free some space, or choose another folder") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
