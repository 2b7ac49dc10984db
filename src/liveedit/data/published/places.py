"""Where the user keeps published benchmarks: a small JSON in the user's data folder, never a copy
of the data.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from liveedit.artifacts import check_open, write_file
from liveedit.data.published.annotations import Annotation, read
from liveedit.data.published.sources import Role, Source, source
from liveedit.errors import BadInput, StorageError
from liveedit.types import expanded

__all__ = ["NO_ROOM", "Place", "add_place", "annotations", "home", "locate", "place", "places"]


NO_ROOM = "free some space, or set LIVEEDIT_HOME elsewhere"
"""What to do where this folder cannot be written to."""


@dataclass(frozen=True, slots=True)
class Place:
    """The annotation files of a benchmark by role, and the folder that its image paths start from."""

    files: dict[Role, Path]
    images: Path


def home() -> Path:
    """LiveEdit's folder for the user's data: ``$LIVEEDIT_HOME``, or ``liveedit`` in
    ``$XDG_DATA_HOME``.
    """
    if own := os.environ.get("LIVEEDIT_HOME"):
        return expanded(own)
    return expanded(os.environ.get("XDG_DATA_HOME") or "~/.local/share") / "liveedit"


def places() -> dict[str, Place]:
    """Every benchmark that was added.

    Raises :class:`BadInput` if the file that lists them is damaged, :class:`StorageError` if it
    cannot be read.
    """
    file = home() / "data.json"
    try:
        stored = json.loads(file.read_text(encoding="utf-8-sig"))
        return {
            name: Place(
                {role: Path(path) for role, path in row["files"].items()}, Path(row["images"])
            )
            for name, row in stored.items()
        }
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise StorageError(
            f"cannot read {file} ({error.strerror}): mend it, or set LIVEEDIT_HOME elsewhere"
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise BadInput(
            f"{file} is damaged or no list of benchmarks: move it away, and add the benchmarks again"
        ) from None


def place(name: str) -> Place:
    """Where a benchmark is. Raises :class:`BadInput` if it was not added."""
    found = places().get(source(name).name)
    if found is None:
        fetch = f" (`liveedit data fetch {name}` downloads it)" if source(name).repo else ""
        raise BadInput(
            f"{name} is not here yet: run `liveedit data add {name} --annotations DIR --images DIR`{fetch}"
        )
    return found


def add_place(name: str, found: Place) -> None:
    """Remember where a benchmark is, wholly or not at all. Raises :class:`StorageError` if that
    cannot be written.
    """
    rows = {
        name: {
            "files": {role: str(path) for role, path in row.files.items()},
            "images": str(row.images),
        }
        for name, row in (places() | {name: found}).items()
    }
    write_file(home() / "data.json", json.dumps(rows, indent=1).encode(), NO_ROOM)


def locate(published: Source, annotations: Sequence[Path], images: Path) -> Place:
    """The place that files, or folders to look through for them by name, and a folder of images
    make up.

    Raises :class:`BadInput` where a path does not exist, a file is missing or one is there twice.
    """
    annotations, images = [expanded(path) for path in annotations], expanded(images)
    for path in (*annotations, images):
        check_open(path)
        if not path.exists():
            raise BadInput(f"there is nothing at {path}: check the path")
    if not images.is_dir():
        raise BadInput(f"{images} is no folder: give the one that the image paths start from")
    files: dict[Role, Path] = {}
    for role, name in published.files.items():
        found = {path for given in annotations for path in _find(given.resolve(), name)}
        if len(found) > 1:
            raise BadInput(
                f"{name} is there more than once, {' and '.join(map(str, sorted(found)))}: name one of them"
            )
        if found:
            files[role] = found.pop()
        elif role in ("train", "test"):
            raise BadInput(
                f"no {name} in {', '.join(map(str, annotations))}: {published.name} needs it"
            )
    return Place(files, images.resolve())


def _find(given: Path, name: str) -> list[Path]:
    return list(given.rglob(name)) if given.is_dir() else [given] * (given.name == name)


def annotations(name: str, role: Role) -> list[Annotation]:
    """The records of one file of a benchmark that was added.

    Raises :class:`BadInput` if the benchmark or this file of it was not added, or the file is
    faulty.
    """
    found = place(name)
    if role not in found.files:
        missing = source(name).files[role]
        raise BadInput(
            f"{name} was added without {missing}: run `liveedit data add {name}` again, with that file too"
        )
    return read(found.files[role])
