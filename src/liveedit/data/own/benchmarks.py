"""Own benchmarks in the user's data folder, one folder each: ``own/NAME``.

It holds ``benchmark.json`` with the items, the pictures of data URLs, and views of images of which
no other one is given. Photos stay where they are; their pixels are remembered.
"""

import json
import random
import re
import shutil
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

from liveedit.artifacts import new_folder, resolved_path
from liveedit.data.corrections import Correction, Corrections
from liveedit.data.corrections.rows import STANDARD_INPUT
from liveedit.data.home import NO_ROOM, home
from liveedit.data.images import images_hash, open_image
from liveedit.data.own.items import Item, items_of
from liveedit.data.own.parts import PARTS, divided
from liveedit.data.variants import view
from liveedit.errors import BadInput
from liveedit.types import Query

__all__ = ["Own", "add", "check_name", "names", "problems", "read", "remove"]

VIEWS = 2
"""Views of an image of which no other one is given."""
LARGEST = 1024
"""Longest side of a view."""
FILE = "benchmark.json"
VERSION = 1
NAME = re.compile(r"[A-Za-z0-9][\w-]{0,63}")

Progress = Callable[[int, int], None]
"""Called with the number of corrections done, and the number of all."""


@dataclass(frozen=True, slots=True)
class Own:
    """An own benchmark.

    Arguments:
        name: Its name.
        file: The file of corrections that it was made from.
        items: Its items.
    """

    name: str
    file: str
    items: tuple[Item, ...]

    @property
    def title(self) -> str:
        """One line about it: the numbers of corrections in each part."""
        counts = Counter(item.part for item in self.items)
        parts = ", ".join(f"{counts[part]:,} {part}" for part in PARTS)
        return f"your corrections in {self.file}: {parts}"


def folder_of(name: str) -> Path:
    """The folder of a benchmark."""
    return home() / "own" / name


def names() -> list[str]:
    """The names of all own benchmarks."""
    found = (file.parent.name for file in folder_of("").glob(f"*/{FILE}"))
    return sorted(name for name in found if NAME.fullmatch(name))


# Adding


def check_name(name: str, taken: Collection[str] = ()) -> None:
    """Raise :class:`BadInput` for a name that is taken, or could not be a folder's."""
    if not NAME.fullmatch(name):
        raise BadInput(
            f"no benchmark can be called {name[:80]!r}: use letters, digits, - and _, at most 64"
        )
    if name in taken:
        raise BadInput(f"{name} is a benchmark of the package: choose another name")
    if folder_of(name).exists():
        raise BadInput(
            f"{name} is there already: choose another name, or run "
            f"`liveedit data remove {name}` first"
        )


def add(
    name: str, corrections: Corrections, seed: int = 0, progress: Progress | None = None
) -> Own:
    """Make a benchmark of corrections, and keep it under ``name``.

    The same corrections and ``seed`` give the same parts. Raises :class:`BadInput` for a name that
    is taken and for too few corrections, :class:`StorageError` if writing fails.
    """
    check_name(name)
    rows = {row.line: row for row in corrections.rows}
    items = divided(items_of(corrections.rows), corrections.file, seed)
    typed = corrections.file == STANDARD_INPUT
    file = corrections.title if typed else str(resolved_path(corrections.file))
    with new_folder(folder_of(name), NO_ROOM) as folder:
        kept = []
        for done, item in enumerate(items, start=1):
            kept.append(_kept(folder, item, rows[item.line]))
            if progress is not None:
                progress(done, len(items))
        content = {"version": VERSION, "file": file, "items": [asdict(item) for item in kept]}
        (folder / FILE).write_text(json.dumps(content, indent=1), encoding="utf-8")
    return read(name)


def _kept(folder: Path, item: Item, row: Correction) -> Item:
    """The item with paths of all its images, after those that have none were written."""
    shown = [_path(folder, image) for image in row.query.images]
    more = [_path(folder, image) for image in row.more_images]
    views = [] if more else _views(folder, item, row.query)
    return replace(item, images=tuple(shown), more_images=tuple(more), views=tuple(views))


def _path(folder: Path, image: Any) -> str:
    """The absolute path of an image; of a picture in a data URL the name of the file written."""
    if not isinstance(image, Image.Image):
        return str(resolved_path(image))
    name = f"{images_hash([image])}.png"
    image.save(folder / name)
    return name


def _views(folder: Path, item: Item, query: Query) -> Iterator[str]:
    """Write views of the last image, and yield the names of the files."""
    if not query.images:
        return
    picture = open_image(query.images[-1])
    picture.thumbnail((LARGEST, LARGEST))
    chance = random.Random(item.id)
    for number in range(VIEWS):
        name = f"{item.id}-view-{number}.jpg"
        view(picture, chance).save(folder / name, quality=95)
        yield name


# Reading


def read(name: str) -> Own:
    """The benchmark of a name. Raises :class:`BadInput` if there is none, or it is damaged."""
    folder = folder_of(name)
    try:
        return _parsed(name, folder)
    except FileNotFoundError:
        raise BadInput(
            f"{name} has not been added yet: run `liveedit data add {name} --cases FILE`"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise BadInput(
            f"{folder / FILE} is damaged: run `liveedit data remove {name}`, and add it again"
        ) from None


def _parsed(name: str, folder: Path) -> Own:
    """The benchmark in a folder, with absolute paths. Raises ``ValueError`` if it is damaged."""
    from pydantic import TypeAdapter

    stored = json.loads((folder / FILE).read_text(encoding="utf-8"))
    if stored["version"] != VERSION:
        raise ValueError(f"version {stored['version']}")
    items = TypeAdapter(tuple[Item, ...]).validate_python(stored["items"])
    return Own(name, str(stored["file"]), tuple(_placed(folder, item) for item in items))


def _placed(folder: Path, item: Item) -> Item:
    """An item with absolute paths."""

    def place(paths: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(str(folder / path) for path in paths)

    return replace(
        item,
        images=place(item.images),
        more_images=place(item.more_images),
        views=place(item.views),
    )


def remove(name: str) -> None:
    """Remove a benchmark; the corrections and photos that it was made of stay.

    Raises :class:`BadInput` if there is none.
    """
    if name not in names():
        raise BadInput(f"there is no benchmark {name!r} of yours: `liveedit data` lists them")
    shutil.rmtree(folder_of(name))


def problems(
    own: Own,
    look: Callable[[Path], object] = open_image,
    ask: Callable[[Query], object] | None = None,
    progress: Progress | None = None,
) -> list[str]:
    """One line for each image that has changed or cannot be used, and each text that cannot.

    ``look`` opens an image; ``ask`` encodes a question and its answer.
    """
    found: list[str] = []
    for done, item in enumerate(own.items, start=1):
        found += [f"line {item.line}: {fault}" for fault in _faults(item, look, ask)]
        if progress is not None:
            progress(done, len(own.items))
    return found


def _faults(
    item: Item, look: Callable[[Path], object], ask: Callable[[Query], object] | None
) -> Iterator[str]:
    try:
        paths = [Path(path) for path in (*item.images, *item.more_images)]
        for path, known in zip(paths, item.hashes, strict=True):
            look(path)
            if images_hash([path]) != known:
                yield f"the image {path} has changed: add the benchmark again"
        if ask is not None:
            for prompt in item.wordings:
                ask(Query(prompt, item.answer, [Path(path) for path in item.images]))
    except BadInput as error:
        yield str(error)
