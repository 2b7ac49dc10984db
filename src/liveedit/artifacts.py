"""Artifacts: files and folders written whole or not at all, and only over what this package wrote
before.

What is written grows in a draft beside its place, ``.liveedit-…``, goes to the disk, and takes its
place in one step: a kill at any moment leaves what was there or what is new, and at most a draft,
which the next writer clears away a day later. A symbolic link is written through; permissions are
those of the file replaced, or what umask grants.

A file of tensors carries a mark in its metadata; files in a folder that may be somebody else's are
listed in the folder's ``.liveedit.json``, with what was written into them; a folder of this
package's own is known by a file of its kind, such as ``edits.json``. What bears no such mark is
refused.
"""

import errno
import json
import logging
import os
import re
import shutil
import stat
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from hashlib import file_digest, sha256
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open

from liveedit.errors import BadInput, StorageError
from liveedit.types import expanded

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "check_files",
    "check_folder",
    "check_new",
    "check_open",
    "discard",
    "draft",
    "file_sum",
    "locked",
    "marked",
    "new_folder",
    "place",
    "read_tensors",
    "remedy",
    "said",
    "sweep",
    "sync",
    "write_file",
    "write_files",
    "write_tensors",
    "writing",
]

MARK = "liveedit"
"""Key in the metadata of every tensor file."""
SUM = "liveedit.sum"
"""Key of the checksum of a tensor file, which files from before there was one lack."""
MARKS_BEFORE = {"editor", "model"}
"""Keys in the metadata of a patch that was written before there was a mark."""
DRAFT, LOCK, MANIFEST = ".liveedit-", ".liveedit.lock", ".liveedit.json"
DRAFTS = re.compile(rf"{re.escape(DRAFT)}[0-9a-f]{{8}}")
"""Names of drafts; other names that begin alike are somebody's."""
NOBODYS = re.compile(
    rf"{DRAFTS.pattern}|{re.escape(LOCK)}|{re.escape(MANIFEST)}|tensors-[0-9a-f]{{8}}|lost\+found|\.DS_Store"
)
"""Names that do not make a folder somebody's: what this package may leave, and what file systems
put there.
"""
STALE = 24 * 3600
"""Seconds after which a draft is taken for one that a kill left."""
PATIENCE = 600
"""Seconds that one process waits for another."""
FULL, CLOSED = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG), (errno.EACCES, errno.EPERM, errno.EROFS)
"""What a disk says that has no room, and where one may not read or write."""

log = logging.getLogger(__name__)


# Where to, and whether one may


def place(path: str | Path) -> Path:
    """Where ``path`` leads, whether anything is there or not: ``~`` is the home folder, links are
    followed.

    Raises :class:`BadInput` for a path that leads nowhere.
    """
    meant = expanded(path)
    try:
        found = meant.resolve()
        with suppress(FileNotFoundError, NotADirectoryError):
            found.stat()  # which fails for a circle of links, a name that is too long, a folder that is closed
        str(found).encode()  # safetensors opens no other names
    except (
        OSError,
        RuntimeError,
        ValueError,
    ) as error:  # RuntimeError: a circle before Python 3.13, ValueError: a NUL
        reason, advice = getattr(error, "strerror", None) or error, remedy(error, "give another")
        raise BadInput(f"the path {str(path)[:80]!r} leads nowhere ({reason}): {advice}") from None
    return found


@contextmanager
def writing(target: str | Path, advice: str = "") -> Iterator[None]:
    """Turn what a disk says while ``target`` is written into one line, with a :func:`remedy` or
    ``advice``.

    Raises :class:`StorageError`.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = (
            getattr(error, "strerror", None) or str(error) or type(error).__name__
        ).splitlines()[0]
        raise StorageError(
            f"cannot write {target} ({reason}): {advice or remedy(error)}"
        ) from error


def remedy(error: Exception, otherwise: str = "choose another folder") -> str:
    """What to do about what a disk said: make room, or have the place opened, or else
    ``otherwise``.
    """
    told = re.search(r"os error ([0-9]+)", str(error))  # as safetensors has it
    number = int(told[1]) if told else getattr(error, "errno", None)
    first = (
        "free some space, or "
        if number in FULL
        else "check its permissions, or "
        if number in CLOSED
        else ""
    )
    return first + otherwise


def check_open(path: Path) -> None:
    """Raise :class:`StorageError` where a file or folder is there, but may not be read."""
    try:
        if path.is_dir():
            next(path.iterdir(), None)
            with suppress(FileNotFoundError):
                (path / MANIFEST).lstat()  # a folder may show its list, and let nobody in
        elif path.is_file():
            path.open("rb").close()
    except OSError as error:
        raise StorageError(
            f"cannot read {path} ({error.strerror}): {remedy(error, 'give another')}"
        ) from None


def check_new(out: str | Path) -> None:
    """Raise :class:`BadInput` where ``out`` is there already: asked before anything long is read."""
    if place(out).exists():
        raise BadInput(f"{out} is there already: choose another folder")


def check_folder(folder: str | Path, listing: str) -> None:
    """Raise :class:`BadInput` unless ``folder`` may be taken: not there, empty, or with the file
    ``listing``.

    Raises :class:`StorageError` for one that may not be read.
    """
    found = place(folder)
    if not found.exists():
        return
    if not found.is_dir():
        raise BadInput(f"{folder} is a file: give a folder")
    check_open(found)
    strangers = sorted(path.name for path in found.iterdir() if not NOBODYS.fullmatch(path.name))
    if strangers and listing not in strangers:
        raise BadInput(
            f"{folder} holds other files ({strangers[0]}) and no {listing}: choose a new or empty folder"
        )


# Files


def write_file(file: str | Path, content: bytes, advice: str = "") -> Path:
    """Write a file, whoever's was there; where it is. Raises :class:`StorageError` as
    :func:`writing` says.
    """
    with writing(file, advice), draft(file) as part:
        part.write_bytes(content)
    return place(file)


@contextmanager
def draft(path: str | Path) -> Iterator[Path]:
    """An empty file to write to, which takes the place of ``path`` once the block ends, and is on
    the disk then.

    Raises ``OSError`` where that fails; :func:`writing` turns it into one line.
    """
    file = place(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.exists() and not (file.is_file() and os.access(file, os.W_OK)):
        raise PermissionError(errno.EACCES, "it is read-only, or no file")
    sweep(file.parent)
    part = file.parent / f"{DRAFT}{token_hex(4)}" / file.name
    try:
        part.parent.mkdir()  # in which who writes to the file may leave one of his own, as safetensors does if killed
        part.open("xb").close()
        mode = stat.S_IMODE((file if file.exists() else part).stat().st_mode)
        yield part
        part.chmod(mode)
        sync(part)
        part.replace(file)
        sync(file.parent)
    finally:
        shutil.rmtree(part.parent, ignore_errors=True)


def file_sum(file: Path) -> str:
    """SHA-256 over a file. Raises ``OSError`` where it cannot be read."""
    with file.open("rb") as opened:
        return file_digest(opened, "sha256").hexdigest()


def write_files(
    folder: str | Path, contents: Mapping[str, bytes], *, ours: bool = False, advice: str = ""
) -> Path:
    """Write files into ``folder`` by their paths in it, over those alone that are as this function
    wrote them before.

    ``ours`` says that the folder is known to be this package's though it is from before there were
    manifests. Raises :class:`BadInput`, before anything is written, where one of the files is
    somebody else's, :class:`StorageError`, as :func:`writing`, where writing fails.
    """
    check_files(folder, contents, ours=ours)
    target = place(folder)
    listed: dict[str, list[str]] = dict(_listed(target))
    for name, content in contents.items():  # a kill leaves either
        listed[name] = [sha256(content).hexdigest(), *_digest(target / name)]
    manifest = json.dumps({"files": dict(sorted(listed.items()))}, indent=1)
    write_file(target / MANIFEST, manifest.encode() + b"\n", advice)
    for name, content in contents.items():
        write_file(target / name, content, advice)
    return target


def check_files(folder: str | Path, names: Collection[str], *, ours: bool = False) -> None:
    """Raise :class:`BadInput` unless :func:`write_files` may write these files."""
    target = place(folder)
    if target.exists() and not target.is_dir():
        raise BadInput(f"{folder} is a file: give a folder")
    listed = _listed(target)
    if ours and not (target / MANIFEST).exists():
        return
    for name in sorted(filter(lambda name: os.path.lexists(target / name), names)):
        if name not in listed:
            raise BadInput(
                f"{target / name} was not written by LiveEdit: move it away, or choose another folder"
            )
        if listed[name] and not {*_digest(target / name)} & {*listed[name]}:
            raise BadInput(
                f"{target / name} is not as LiveEdit wrote it: move it away, or choose another folder"
            )


def _listed(folder: Path) -> dict[str, list[str]]:
    """By name the files of ``folder`` that :func:`write_files` wrote, each with the SHA-256 of what
    it may hold.

    None of a file from before they were listed.
    """
    try:
        files = json.loads((folder / MANIFEST).read_text(encoding="utf-8-sig"))["files"]
        return {
            str(name): [*map(str, files[name])] if isinstance(files, dict) else [] for name in files
        }
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}


def _digest(file: Path) -> list[str]:
    """The SHA-256 of a file; none where there is none."""
    return [file_sum(file)] if file.is_file() else []


# Tensors


def write_tensors(
    file: str | Path,
    tensors: Mapping[str, "Tensor"],
    about: Mapping[str, str],
    *,
    ours: bool = False,
) -> Path:
    """Write a safetensors file with ``about`` and the mark in its metadata; where it is.

    ``ours`` says that what is in its place is known to be this package's though it bears no mark.
    Raises :class:`BadInput` for a file in its place that is another's, :class:`StorageError` where
    writing fails.
    """
    from safetensors.torch import save_file

    target = place(file)
    if target.is_file() and not ours and not marked(target):
        raise BadInput(
            f"{file} was not written by LiveEdit, or is damaged: move it away, or choose another folder"
        )
    with writing(file), draft(target) as part:
        save_file(dict(tensors), part, {**about, MARK: "1", SUM: checksum(tensors)})
    return target


def read_tensors(file: Path) -> tuple[dict[str, "Tensor"], dict[str, str]]:
    """What :func:`write_tensors` wrote, on the CPU: the tensors, and what was said about them.

    Raises :class:`BadInput` for a file that is missing, cut off, changed or something else.
    """
    file = expanded(file)
    if not file.is_file():
        raise BadInput(
            f"there is no {file.name} in {file.parent}: give the folder that it was saved to"
        )
    try:
        with safe_open(file, framework="pt") as opened:
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            about = dict(opened.metadata() or {})
    except (OSError, SafetensorError) as error:
        raise BadInput(
            f"{file} cannot be read ({error}): it is cut off or no safetensors file"
        ) from error
    about.pop(MARK, None)
    if (saved := about.pop(SUM, None)) is not None and saved != checksum(tensors):
        raise BadInput(
            f"{file} is damaged, its numbers are not those that were saved: restore it from a copy"
        )
    return tensors, about


def checksum(tensors: Mapping[str, "Tensor"]) -> str:
    """SHA-256 over the names, types, shapes and values of tensors."""
    import torch

    digest = sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def said(file: Path) -> dict[str, str]:
    """The metadata of a file of tensors; none where it is damaged or something else."""
    try:
        with safe_open(file, framework="np") as opened:
            return dict(opened.metadata() or {})
    except (OSError, SafetensorError):
        return {}


def marked(file: Path) -> bool:
    """Whether a file of tensors was written by this package; never so for one that is damaged."""
    about = said(file)
    return MARK in about or about.keys() >= MARKS_BEFORE


def discard(folder: Path) -> None:
    """Remove drafts and marked tensor files from ``folder``, and the folder if that leaves it
    empty; never fails.

    Of a link to a folder, which may be somebody else's, only the link is removed.
    """
    with suppress(OSError):
        if folder.is_symlink():
            folder.unlink()
            return
        sweep(folder, age=0)
        for file in list(folder.iterdir()):
            if file.is_file() and file.suffix == ".safetensors" and marked(file):
                file.unlink()
        folder.rmdir()


# Folders


@contextmanager
def new_folder(out: str | Path, advice: str = "") -> Iterator[Path]:
    """A folder to write to, which is ``out`` once all is written; what fails leaves no trace. See
    :func:`writing`.

    Raises :class:`BadInput` where ``out`` is there already, :class:`StorageError` where writing
    fails.
    """
    check_new(out)
    target = place(out)
    part = target.parent / f"{DRAFT}{token_hex(4)}"
    with writing(out, advice):
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            sweep(target.parent)
            part.mkdir()
            yield part
            granted = part.stat().st_mode & 0o666
            for file in part.rglob("*"):
                if file.is_file():
                    file.chmod(granted)  # safetensors grants its files to nobody else
            if hasattr(os, "sync"):
                os.sync()  # at once: there may be tens of thousands of files
            part.rename(target)
            sync(target.parent)
        finally:
            shutil.rmtree(part, ignore_errors=True)


@contextmanager
def locked(folder: str | Path, patience: float = PATIENCE) -> Iterator[None]:
    """Keep ``folder``, which is made if it is not there, from all other threads and processes that
    ask for it.

    Within a thread it may be asked for again. A wait is logged; without ``patience`` there is none.
    A folder that was made for nothing is removed. Raises :class:`BadInput` where the lock's name is
    another's, :class:`StorageError` after ``patience`` seconds and where the folder cannot be
    written to.
    """
    target = place(folder)
    fresh = not target.exists()
    lock_file = target / LOCK
    if lock_file.is_symlink() or (lock_file.exists() and not lock_file.is_file()):
        raise BadInput(f"{lock_file} is no lock of LiveEdit's: remove it")
    with writing(folder):
        lock = _acquired(target, patience)
    try:
        yield
    finally:
        with suppress(OSError):  # the folder may be gone
            if fresh and [path.name for path in target.iterdir()] == [LOCK]:
                (target / LOCK).unlink()
                target.rmdir()
        lock.release()


def _acquired(folder: Path, patience: float) -> FileLock:
    end = time.monotonic() + patience
    lock = FileLock(folder / LOCK, is_singleton=True)
    told = False
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=max(0.0, end - time.monotonic()) if told else 0.0)
        except FileNotFoundError:  # whoever had it before has just removed the folder
            continue
        except Timeout:
            if told or not patience:
                message = f"{folder} is in use by another process: try again when that has ended"
                raise StorageError(message) from None
            log.warning("another process is writing to %s: waiting for it", folder)
            told = True
        else:
            return lock


def sync(path: Path) -> None:
    """Have a file's content, or the names in a folder, on the disk."""
    if os.name == "nt":  # which opens no folders
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if not (
            path.is_dir() and error.errno in (errno.EINVAL, errno.ENOTSUP)
        ):  # some file systems cannot
            raise
    finally:
        os.close(descriptor)


def sweep(folder: Path, age: float = STALE) -> None:
    """Clear away the drafts of ``age`` seconds or more, which a kill left in ``folder``; never
    fails.
    """
    for left in folder.glob(f"{DRAFT}*"):
        with suppress(OSError):
            if DRAFTS.fullmatch(left.name) and time.time() - left.stat().st_mtime >= age:
                shutil.rmtree(left) if left.is_dir() else left.unlink()
