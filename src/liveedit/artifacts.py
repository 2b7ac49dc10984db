"""Artifacts: files and folders written whole or not at all, and never over unrelated files.

Atomic: content is written to a draft beside the target, ``.liveedit-…``, synced to the disk, and
renamed to the target in one step. A kill at any moment leaves either the old or the new content,
and at most a draft, which the next writer removes a day later. If the target is a symbolic link,
the file that it points to is replaced. A replaced file keeps its permissions; a new one has those
that umask grants.

Careful: only files that this package wrote are overwritten; anything else is refused. A file of
tensors has a mark in its metadata. Files in a folder that may hold unrelated ones are listed, with
checksums, in the folder's ``.liveedit.json``. A folder that this package made is recognised by a
characteristic file, such as ``edits.json``.
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
from typing import TYPE_CHECKING, Literal

from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open

from liveedit.errors import BadInput, StorageError
from liveedit.types import expanded

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "CLOSED",
    "FULL",
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
    "read_metadata",
    "read_tensors",
    "remedy",
    "resolved_path",
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
"""Key of the checksum in the metadata of a tensor file; the oldest files have none."""
MARKS_BEFORE = {"editor", "model"}
"""Keys in the metadata of patches that older versions wrote, without the mark."""
DRAFT = ".liveedit-"
LOCK = ".liveedit.lock"
MANIFEST = ".liveedit.json"
DRAFTS = re.compile(rf"{re.escape(DRAFT)}[0-9a-f]{{8}}")
"""Names of drafts; other names with the same beginning are unrelated."""
IGNORED = re.compile(
    rf"{DRAFTS.pattern}|{re.escape(LOCK)}|{re.escape(MANIFEST)}"
    r"|tensors-[0-9a-f]{8}|lost\+found|\.DS_Store"
)
"""Names that do not count as content of a folder: drafts, locks and those of file systems."""
STALE = 24 * 3600
"""Age in seconds from which a draft counts as left over from a killed process."""
PATIENCE = 600
"""Seconds that one process waits for another."""
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Error numbers of a full disk."""
CLOSED = (errno.EACCES, errno.EPERM, errno.EROFS)
"""Error numbers of missing permissions."""

log = logging.getLogger(__name__)


# Paths, and whether they may be read or written


def resolved_path(path: str | Path) -> Path:
    """The absolute path that ``path`` leads to: ``~`` is expanded, symbolic links are followed.

    Nothing needs to exist there. Raises :class:`BadInput` for a path that cannot exist.
    """
    meant = expanded(path)
    try:
        found = meant.resolve()
        with suppress(FileNotFoundError, NotADirectoryError):
            found.stat()  # fails for circular links, names that are too long, closed folders
        str(found).encode()  # safetensors opens no other names
    except (OSError, RuntimeError, ValueError) as error:
        # RuntimeError: circular links before Python 3.13; ValueError: a null character
        reason = getattr(error, "strerror", None) or error
        advice = remedy(error, "give another")
        raise BadInput(f"the path {str(path)[:80]!r} leads nowhere ({reason}): {advice}") from None
    return found


@contextmanager
def writing(target: str | Path, advice: str = "") -> Iterator[None]:
    """Turn errors of the file system while ``target`` is written into :class:`StorageError`.

    The message is one line that ends with ``advice``, by default a :func:`remedy`.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        text = getattr(error, "strerror", None) or str(error) or type(error).__name__
        reason = text.splitlines()[0]
        raise StorageError(
            f"cannot write {target} ({reason}): {advice or remedy(error)}"
        ) from error


def remedy(error: Exception, otherwise: str = "choose another folder") -> str:
    """Advice on an error of the file system: free space, check permissions, or ``otherwise``."""
    match = re.search(r"os error ([0-9]+)", str(error))  # in the messages of safetensors
    number = int(match[1]) if match else getattr(error, "errno", None)
    if number in FULL:
        return f"free some space, or {otherwise}"
    if number in CLOSED:
        return f"check its permissions, or {otherwise}"
    return otherwise


def check_open(path: Path) -> None:
    """Raise :class:`StorageError` for an existing file or folder that may not be read."""
    try:
        if path.is_dir():
            next(path.iterdir(), None)
            with suppress(FileNotFoundError):
                (path / MANIFEST).lstat()  # a folder may be listed and still not be entered
        elif path.is_file():
            path.open("rb").close()
    except OSError as error:
        raise StorageError(
            f"cannot read {path} ({error.strerror}): {remedy(error, 'give another')}"
        ) from None


def check_new(out: str | Path, sort: Literal["file", "folder"] = "folder") -> None:
    """Raise :class:`BadInput` if ``out`` exists; called before any long work."""
    if resolved_path(out).exists():
        raise BadInput(f"{out} already exists: choose another {sort}")


def check_folder(folder: str | Path, listing: str) -> None:
    """Raise :class:`BadInput` unless ``folder`` is new, is empty or holds the file ``listing``.

    Raises :class:`StorageError` for a folder that may not be read.
    """
    found = resolved_path(folder)
    if not found.exists():
        return
    if not found.is_dir():
        raise BadInput(f"{folder} is a file: give a folder")
    check_open(found)
    names = sorted(path.name for path in found.iterdir() if not IGNORED.fullmatch(path.name))
    if names and listing not in names:
        raise BadInput(
            f"{folder} holds other files ({names[0]}) and no {listing}: "
            "choose a new or empty folder"
        )


# Files


def write_file(file: str | Path, content: bytes, advice: str = "") -> Path:
    """Write a file, replacing an existing one, and return its path.

    Raises :class:`StorageError` with ``advice``, as :func:`writing` does.
    """
    with writing(file, advice), draft(file) as part:
        part.write_bytes(content)
    return resolved_path(file)


@contextmanager
def draft(path: str | Path) -> Iterator[Path]:
    """Yield an empty file to write to, which is synced and replaces ``path`` when the block ends.

    Raises ``OSError`` if that fails; :func:`writing` turns it into one line.
    """
    file = resolved_path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.exists() and not (file.is_file() and os.access(file, os.W_OK)):
        raise PermissionError(errno.EACCES, "it is read-only, or no file")
    sweep(file.parent)
    part = file.parent / f"{DRAFT}{token_hex(4)}" / file.name
    try:
        part.parent.mkdir()  # a folder, as safetensors leaves temporary files beside it if killed
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
    """SHA-256 of a file, in hexadecimal. Raises ``OSError`` if it cannot be read."""
    with file.open("rb") as opened:
        return file_digest(opened, "sha256").hexdigest()


def write_files(
    folder: str | Path,
    contents: Mapping[str, bytes],
    *,
    allow_unmarked: bool = False,
    advice: str = "",
) -> Path:
    """Write files into ``folder``, replacing only those that this function wrote; return it.

    Arguments:
        folder: Folder to write to; made if it does not exist.
        contents: Content of each file by its path in the folder.
        allow_unmarked: Whether files may be replaced in a folder without a manifest, as older
            versions left it.
        advice: End of the message of a :class:`StorageError`; see :func:`writing`.

    Raises :class:`BadInput`, before anything is written, for unrelated or changed files, and
    :class:`StorageError` if writing fails.
    """
    check_files(folder, contents, allow_unmarked=allow_unmarked)
    target = resolved_path(folder)
    listed: dict[str, list[str]] = dict(_listed(target))
    for name, content in contents.items():
        # both checksums, because a kill may leave either the old or the new content
        listed[name] = [sha256(content).hexdigest(), *_digest(target / name)]
    manifest = json.dumps({"files": dict(sorted(listed.items()))}, indent=1)
    write_file(target / MANIFEST, manifest.encode() + b"\n", advice)
    for name, content in contents.items():
        write_file(target / name, content, advice)
    return target


def check_files(
    folder: str | Path, names: Collection[str], *, allow_unmarked: bool = False
) -> None:
    """Raise :class:`BadInput` unless :func:`write_files` may write these files."""
    target = resolved_path(folder)
    if target.exists() and not target.is_dir():
        raise BadInput(f"{folder} is a file: give a folder")
    listed = _listed(target)
    if allow_unmarked and not (target / MANIFEST).exists():
        return
    for name in sorted(names):
        file = target / name
        if not os.path.lexists(file):
            continue
        if name not in listed:
            fault = "was not written by LiveEdit"
        elif listed[name] and not {*_digest(file)} & {*listed[name]}:
            fault = "is not as LiveEdit wrote it"
        else:
            continue
        raise BadInput(f"{file} {fault}: move it away, or choose another folder")


def _listed(folder: Path) -> dict[str, list[str]]:
    """The files of a folder's manifest, by name: the SHA-256 of each content that a file may have.

    The list is empty for a file that an older version wrote without a checksum.
    """
    try:
        files = json.loads((folder / MANIFEST).read_text(encoding="utf-8-sig"))["files"]
        if not isinstance(files, dict):
            return {str(name): [] for name in files}
        return {str(name): [*map(str, sums)] for name, sums in files.items()}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}


def _digest(file: Path) -> list[str]:
    """The SHA-256 of a file, in a list; an empty list if there is no such file."""
    return [file_sum(file)] if file.is_file() else []


# Tensors


def write_tensors(
    file: str | Path,
    tensors: Mapping[str, "Tensor"],
    metadata: Mapping[str, str],
    *,
    allow_unmarked: bool = False,
) -> Path:
    """Write a marked safetensors file with ``metadata``, and return its path.

    ``allow_unmarked``: whether to overwrite a file without a mark. Raises :class:`BadInput` for an
    unrelated file that is there, and :class:`StorageError` if writing fails.
    """
    from safetensors.torch import save_file

    target = resolved_path(file)
    if target.is_file() and not allow_unmarked and not marked(target):
        raise BadInput(
            f"{file} was not written by LiveEdit, or is damaged: "
            "move it away, or choose another folder"
        )
    with writing(file), draft(target) as part:
        save_file(dict(tensors), part, {**metadata, MARK: "1", SUM: checksum(tensors, metadata)})
    return target


def read_tensors(file: Path) -> tuple[dict[str, "Tensor"], dict[str, str]]:
    """Read the tensors, on the CPU, and the metadata that :func:`write_tensors` wrote.

    Raises :class:`BadInput` for a file that is missing, truncated, changed or of another format.
    """
    file = expanded(file)
    if not file.is_file():
        raise BadInput(
            f"there is no {file.name} in {file.parent}: give the folder that it was saved to"
        )
    try:
        with safe_open(file, framework="pt") as opened:
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            metadata = dict(opened.metadata() or {})
    except (OSError, SafetensorError) as error:
        raise BadInput(
            f"{file} cannot be read ({error}): it is truncated or not a safetensors file"
        ) from error
    metadata.pop(MARK, None)
    saved = metadata.pop(SUM, None)
    sound = saved is None or saved == checksum(tensors, metadata)
    if not sound and saved != checksum(tensors):  # as earlier versions wrote it
        raise BadInput(
            f"{file} is damaged, its content is not what was saved: restore it from a copy"
        )
    return tensors, metadata


def checksum(tensors: Mapping[str, "Tensor"], metadata: Mapping[str, str] | None = None) -> str:
    """SHA-256, in hexadecimal, over names, dtypes, shapes and values of tensors, and metadata."""
    import torch

    digest = sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        here = tensor.detach().cpu().contiguous()
        # A column, because the stride of an empty row may be anything.
        digest.update(here.reshape(here.numel(), 1).view(torch.uint8).numpy().data)
    if metadata:
        digest.update(json.dumps(metadata, sort_keys=True).encode())
    return digest.hexdigest()


def read_metadata(file: Path) -> dict[str, str]:
    """The metadata of a safetensors file; empty for a damaged or any other file."""
    try:
        with safe_open(file, framework="np") as opened:
            return dict(opened.metadata() or {})
    except (OSError, SafetensorError):
        return {}


def marked(file: Path) -> bool:
    """Whether this package wrote a file of tensors; false for a damaged one."""
    metadata = read_metadata(file)
    return MARK in metadata or metadata.keys() >= MARKS_BEFORE


def discard(folder: Path) -> None:
    """Remove drafts and marked tensor files from ``folder``, and the folder if it is then empty.

    Of a symbolic link only the link itself is removed. Never raises ``OSError``.
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
    """Yield an empty folder to write to, which becomes ``out`` when the block ends.

    An error leaves no trace. Raises :class:`BadInput` if ``out`` exists, and :class:`StorageError`
    with ``advice`` if writing fails, as :func:`writing` does.
    """
    check_new(out)
    target = resolved_path(out)
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
                    file.chmod(granted)  # safetensors makes its files private
            if hasattr(os, "sync"):
                os.sync()  # at once: there may be tens of thousands of files
            part.rename(target)
            sync(target.parent)
        finally:
            shutil.rmtree(part, ignore_errors=True)


@contextmanager
def locked(folder: str | Path, patience: float = PATIENCE) -> Iterator[None]:
    """Hold the lock of ``folder`` against all other threads and processes.

    The folder is made if it does not exist, and removed again if it stays empty. A thread may take
    the same lock again. Waiting is logged, and ends after ``patience`` seconds; 0: no waiting.
    Raises :class:`BadInput` if something else has the lock's name, and :class:`StorageError` if the
    lock stays taken or the folder cannot be written to.
    """
    target = resolved_path(folder)
    fresh = not target.exists()
    lock_file = target / LOCK
    if lock_file.is_symlink() or (lock_file.exists() and not lock_file.is_file()):
        raise BadInput(f"{lock_file} is not a lock of LiveEdit: remove it")
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
    warned = False
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=max(0.0, end - time.monotonic()) if warned else 0.0)
        except FileNotFoundError:  # the last holder has just removed the folder
            continue
        except Timeout:
            if warned or not patience:
                message = f"{folder} is in use by another process: try again when that has ended"
                raise StorageError(message) from None
            log.warning("another process is writing to %s: waiting for it", folder)
            warned = True
        else:
            return lock


def sync(path: Path) -> None:
    """Flush a file's content, or the names in a folder, to the disk."""
    if os.name == "nt":  # Windows opens no folders
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        unsupported = path.is_dir() and error.errno in (errno.EINVAL, errno.ENOTSUP)
        if not unsupported:  # some file systems cannot sync folders
            raise
    finally:
        os.close(descriptor)


def sweep(folder: Path, age: float = STALE) -> None:
    """Remove the drafts in a folder that are ``age`` seconds old or older; never raises."""
    for left in folder.glob(f"{DRAFT}*"):
        with suppress(OSError):
            if DRAFTS.fullmatch(left.name) and time.time() - left.stat().st_mtime >= age:
                shutil.rmtree(left) if left.is_dir() else left.unlink()
