"""Downloading a published benchmark from the Hugging Face Hub."""

import errno
import tarfile
import zipfile
import zlib
from itertools import chain
from pathlib import Path

from liveedit.artifacts import check_open, new_folder
from liveedit.data.home import NO_ROOM
from liveedit.data.published.locations import Location, locate
from liveedit.data.published.records import Row, read_rows
from liveedit.data.published.sources import Source
from liveedit.errors import BadInput, StorageError

__all__ = ["fetch"]

ARCHIVES = ("*.tar.gz", "*.tar", "*.zip")
FETCHED = Path(".cache") / "huggingface"
"""Folder in which the Hub's client keeps notes on its downloads."""

UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS)
"""Error numbers of a folder that cannot be written to."""


def fetch(source: Source, folder: Path) -> Location:
    """Download a benchmark to ``folder`` and unpack its images, unless that is already done.

    Raises :class:`BadInput` if the Hub does not have the benchmark or cannot be reached, if the
    folder holds unrelated files, or if an archive is damaged, and :class:`StorageError` if writing
    fails.
    """
    if not source.repo:
        raise BadInput(source.where)
    _check_own(source, folder)
    _download(source, folder)
    archives = chain.from_iterable(folder.glob(pattern) for pattern in ARCHIVES)
    for archive in sorted(archives):
        _unpack(archive)
    location = locate(source, [folder], folder)
    return Location(location.files, _images(folder, _first_image(source, location)))


def _first_image(source: Source, location: Location) -> str:
    """The path of an image of the test."""
    first: Row = read_rows(location.files["test"], source.parse)[0]
    return next(question.image for question in first.questions if question.image)


def _check_own(source: Source, folder: Path) -> None:
    """Raise :class:`BadInput` for a file, and for a folder with files from elsewhere."""
    check_open(folder)
    filled = folder.is_dir() and any(folder.iterdir())
    if folder.is_file() or (filled and not (folder / FETCHED).is_dir()):
        raise BadInput(
            f"{folder} was not downloaded by LiveEdit: move it away, "
            f"or use it by `liveedit data add {source.name}`"
        )


def _download(source: Source, folder: Path) -> None:
    from huggingface_hub import snapshot_download

    try:
        snapshot_download(source.repo, repo_type="dataset", local_dir=folder)
    except Exception as error:  # of whichever HTTP library the client uses
        if isinstance(error, OSError) and error.errno in UNWRITABLE:
            raise StorageError(
                f"cannot write to {folder} ({error.strerror}): set LIVEEDIT_HOME elsewhere"
            ) from None
        raise BadInput(
            f"cannot get {source.repo} from the Hugging Face Hub: connect and run "
            f"`liveedit data fetch {source.name}` again, or run `liveedit data add {source.name}` "
            f"on a copy of your own ({source.where})"
        ) from None


def _unpack(archive: Path) -> None:
    """Unpack an archive beside itself, as a whole or not at all."""
    folder = archive.with_name(archive.name.partition(".")[0])
    if folder.exists():
        return
    try:
        with new_folder(folder, NO_ROOM) as part:
            _extract(archive, part)
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error):
        raise BadInput(f"{archive} is damaged: delete it, and fetch again") from None


def _extract(archive: Path, folder: Path) -> None:
    """Extract a zip or tar file into a folder."""
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive) as packed:
            packed.extractall(folder)
        return
    with tarfile.open(archive) as packed_tar:
        # Python before 3.11.4 has no data_filter
        packed_tar.extraction_filter = getattr(tarfile, "data_filter", None)
        packed_tar.extractall(folder, [member for member in packed_tar if _harmless(member)])


def _harmless(member: tarfile.TarInfo) -> bool:
    """Whether a member is a file or a folder within the folder that it is extracted to."""
    path = Path(member.name)
    return (member.isfile() or member.isdir()) and not path.is_absolute() and ".." not in path.parts


def _images(folder: Path, image: str) -> Path:
    """The folder, anywhere below ``folder``, to which the path of an image is relative."""
    found = next(folder.rglob(image), None)
    if found is None:
        raise BadInput(
            f"the download in {folder} does not hold {image}: delete the folder, and fetch again"
        )
    return found.parents[len(Path(image).parts) - 1]
