"""Downloading a published benchmark from the Hugging Face Hub."""

import errno
import tarfile
import zipfile
import zlib
from pathlib import Path

from liveedit.artifacts import check_open, new_folder
from liveedit.data.published.annotations import read
from liveedit.data.published.places import NO_ROOM, Place, locate
from liveedit.data.published.sources import Source
from liveedit.errors import BadInput, StorageError

__all__ = ["fetch"]

ARCHIVES = ("*.tar.gz", "*.tar", "*.zip")
FETCHED = Path(".cache") / "huggingface"
"""Where the Hub's client notes what it has downloaded to a folder."""


def fetch(source: Source, folder: Path) -> Place:
    """Download a benchmark to ``folder`` and unpack its images; what is there already is not done
    again.

    Raises :class:`BadInput` if the Hub does not have the benchmark or cannot be reached, the folder
    holds files that did not come from there, or an archive is damaged, and :class:`StorageError`
    where writing fails.
    """
    if not source.repo:
        raise BadInput(source.where)
    check_open(folder)
    if folder.is_file() or (
        folder.is_dir() and any(folder.iterdir()) and not (folder / FETCHED).is_dir()
    ):
        raise BadInput(
            f"{folder} was not downloaded by LiveEdit: move it away, or use it by `liveedit data add {source.name}`"
        )
    _download(source, folder)
    for archive in sorted(path for pattern in ARCHIVES for path in folder.glob(pattern)):
        _unpack(archive)
    place = locate(source, [folder], folder)
    return Place(place.files, _images(folder, read(place.files["test"])[0].image))


def _download(source: Source, folder: Path) -> None:
    from huggingface_hub import snapshot_download

    try:
        snapshot_download(source.repo, repo_type="dataset", local_dir=folder)
    except Exception as error:  # of whichever HTTP library the client uses
        if isinstance(error, OSError) and error.errno in (
            errno.ENOSPC,
            errno.EDQUOT,
            errno.EACCES,
            errno.EROFS,
        ):
            raise StorageError(
                f"cannot write to {folder} ({error.strerror}): set LIVEEDIT_HOME elsewhere"
            ) from None
        raise BadInput(
            f"cannot get {source.repo} from the Hugging Face Hub: connect and run `liveedit data fetch {source.name}` "
            f"again, or run `liveedit data add {source.name}` on a copy of your own ({source.where})"
        ) from None


def _unpack(archive: Path) -> None:
    """Unpack an archive beside itself, wholly or not at all."""
    folder = archive.with_name(archive.name.partition(".")[0])
    if folder.exists():
        return
    try:
        with new_folder(folder, NO_ROOM) as part:
            if archive.suffix == ".zip":
                with zipfile.ZipFile(archive) as packed:
                    packed.extractall(part)
            else:
                with tarfile.open(archive) as packed_tar:
                    packed_tar.extraction_filter = getattr(
                        tarfile, "data_filter", None
                    )  # not before Python 3.11.4
                    packed_tar.extractall(
                        part, [member for member in packed_tar if _harmless(member)]
                    )
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error):
        raise BadInput(f"{archive} is damaged: delete it, and fetch again") from None


def _harmless(member: tarfile.TarInfo) -> bool:
    """Whether what is unpacked is a file or a folder that stays below where it is unpacked."""
    path = Path(member.name)
    return (member.isfile() or member.isdir()) and not path.is_absolute() and ".." not in path.parts


def _images(folder: Path, image: str) -> Path:
    """The folder that an image path starts from, wherever it lies in what was unpacked."""
    found = next(folder.rglob(image), None)
    if found is None:
        raise BadInput(
            f"what was downloaded to {folder} does not hold {image}: delete the folder, and fetch again"
        )
    return found.parents[len(Path(image).parts) - 1]
