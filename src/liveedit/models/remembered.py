"""Remembers the fingerprints of checkpoints, so that the weights of each are read once.

Kept in the user's data folder, one small file for each state of a checkpoint's files: their paths,
sizes, times and inodes.
"""

import json
import logging
import re
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import transformers
from transformers.utils import cached_file

from liveedit.artifacts import locked, write_file
from liveedit.data.home import NO_ROOM, home
from liveedit.errors import StorageError
from liveedit.models import checkpoint

__all__ = ["remembered"]

LOG = logging.getLogger(__name__)
FORM = re.compile("[0-9a-f]{64}")
"""The form of a fingerprint."""


def remembered(path: str | Path, settings: str, compute: Callable[[], str]) -> str:
    """The fingerprint of a checkpoint, in a folder or under a Hugging Face id.

    ``compute`` reads the weights for it, the first time; meanwhile other processes wait. It depends
    on the files, on ``settings`` and on the version of transformers, which names the weights.
    """
    kept = home() / "fingerprints"
    file = kept / identity(path, settings)
    if found := _read(file):
        return found
    try:
        with locked(kept):
            found = _read(file) or compute()
            write_file(file, found.encode(), NO_ROOM)
    except StorageError as error:
        LOG.warning("the model's fingerprint is not kept: %s", error)
    return found or compute()


def identity(path: str | Path, settings: str) -> str:
    """A name for the present state of a checkpoint's files."""
    source = checkpoint(path)
    config = Path(source) / "config.json"
    if not config.is_file():
        config = Path(str(cached_file(source, "config.json")))
    states = []
    for file in sorted(config.parent.iterdir()):
        if file.is_file():
            real = file.resolve()  # the hub's cache holds links
            about = real.stat()
            states.append((str(real), about.st_size, about.st_mtime_ns, about.st_ino))
    content = json.dumps([transformers.__version__, settings, states])
    return sha256(content.encode()).hexdigest()


def _read(file: Path) -> str:
    """The fingerprint in a file; empty where there is none."""
    try:
        text = file.read_text()
    except OSError:
        return ""
    return text if FORM.fullmatch(text) else ""
