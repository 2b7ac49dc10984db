"""Locations of published benchmarks on this machine, in a small JSON file; no data is copied."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from liveedit.artifacts import check_open, write_file
from liveedit.data.home import NO_ROOM, home
from liveedit.data.published.annotations import Annotation
from liveedit.data.published.records import read_rows
from liveedit.data.published.sources import Role, Source, source
from liveedit.errors import BadInput, StorageError
from liveedit.types import expanded

__all__ = [
    "Location",
    "add_location",
    "annotations",
    "locate",
    "location",
    "locations",
    "rows",
]


@dataclass(frozen=True, slots=True)
class Location:
    """The annotation files of a benchmark by role, and the folder of its image paths."""

    files: dict[Role, Path]
    images: Path


def locations() -> dict[str, Location]:
    """The locations of all benchmarks that were added, by name.

    Raises :class:`BadInput` if the file that lists them is damaged, :class:`StorageError` if it
    cannot be read.
    """
    file = home() / "data.json"
    try:
        stored = json.loads(file.read_text(encoding="utf-8-sig"))
        return {name: _parsed(row) for name, row in stored.items()}
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise StorageError(
            f"cannot read {file} ({error.strerror}): repair it, or set LIVEEDIT_HOME elsewhere"
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise BadInput(
            f"{file} is damaged or no list of benchmarks: "
            "move it away, and add the benchmarks again"
        ) from None


def _parsed(row: dict[str, Any]) -> Location:
    files: dict[Role, Path] = {role: Path(path) for role, path in row["files"].items()}
    return Location(files, Path(row["images"]))


def _stored(location: Location) -> dict[str, Any]:
    files = {role: str(path) for role, path in location.files.items()}
    return {"files": files, "images": str(location.images)}


def location(name: str) -> Location:
    """The location of a benchmark. Raises :class:`BadInput` if it was not added."""
    found = locations().get(source(name).name)
    if found is None:
        fetch = f" (`liveedit data fetch {name}` downloads it)" if source(name).repo else ""
        raise BadInput(
            f"{name} has not been added yet: "
            f"run `liveedit data add {name} --annotations DIR --images DIR`{fetch}"
        )
    return found


def add_location(name: str, found: Location) -> None:
    """Store the location of a benchmark. Raises :class:`StorageError` if that cannot be written."""
    rows = {known: _stored(row) for known, row in (locations() | {name: found}).items()}
    write_file(home() / "data.json", json.dumps(rows, indent=1).encode(), NO_ROOM)


def locate(published: Source, annotations: Sequence[Path], images: Path) -> Location:
    """Find the annotation files of a benchmark.

    Arguments:
        published: The benchmark.
        annotations: Its files, or folders that are searched for files of its names.
        images: Folder of the image paths.

    Raises :class:`BadInput` if a path does not exist, and if a file is missing or found twice.
    """
    annotations = [expanded(path) for path in annotations]
    images = expanded(images)
    for path in (*annotations, images):
        check_open(path)
        if not path.exists():
            raise BadInput(f"there is nothing at {path}: check the path")
    if not images.is_dir():
        raise BadInput(f"{images} is not a folder: give the one that the image paths start from")
    files: dict[Role, Path] = {}
    for role, name in published.files.items():
        found = set[Path]()
        for given in annotations:
            found |= _find(given.resolve(), name)
        if len(found) > 1:
            paths = " and ".join(map(str, sorted(found)))
            raise BadInput(f"{name} was found more than once, {paths}: name one of them")
        if found:
            files[role] = found.pop()
        elif role not in published.optional:
            raise BadInput(
                f"no {name} in {', '.join(map(str, annotations))}: {published.name} needs it"
            )
    return Location(files, images.resolve())


def _find(given: Path, name: str) -> set[Path]:
    """The files of a name in a folder, or the file itself if it has that name."""
    if given.is_dir():
        return {*given.rglob(name)}
    return {given} if given.match(name) else set()


def annotations(name: str, role: Role) -> list[Annotation]:
    """The :func:`rows` of a benchmark in VLKEB's form."""
    return rows(name, role)


def rows(name: str, role: Role) -> list[Any]:
    """Read one file of a benchmark that was added, in the form of its source.

    Raises :class:`BadInput` if the benchmark or the file was not added, or the file is faulty.
    """
    if role not in source(name).files:
        raise BadInput(f"{name} has no part '{role}': it was not published with one")
    found = location(name)
    if role not in found.files:
        missing = source(name).files[role]
        raise BadInput(
            f"{name} was added without {missing}: "
            f"run `liveedit data add {name}` again, with that file too"
        )
    return read_rows(found.files[role], source(name).parse)
