"""Listing: ``edits.json``, which says what edits a folder holds, what made them, and where their
tensors are.

The tensors of a state are in a folder of their own, ``tensors-…``, and the listing names it: to
replace the listing is to replace the whole state in one step. Up to version 1 they were beside the
listing.
"""

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from secrets import token_hex
from typing import Any

from liveedit.artifacts import (
    check_folder,
    discard,
    read_metadata,
    resolved_path,
    sweep,
    write_file,
)
from liveedit.errors import BadInput, LiveEditError, Mismatch, StorageError
from liveedit.question import number

__all__ = ["FILE", "Edit", "Listing", "history", "spellings", "tidy"]

FILE = "edits.json"
VERSION = 2
TENSORS = re.compile(r"tensors-[0-9a-f]{8}")


@dataclass(frozen=True, slots=True)
class Edit:
    """An edit as it is listed: a short id, what was asked, what is to be answered, a hash of the
    images, and when.

    ``names`` are those of the images, where they have any; ``about`` says which of them the
    question is about, -1 where there is one. ``took`` is whether the model answered the target once
    the edit was made, ``conflicts`` are the ids of the earlier edits, of the same question with
    another answer, that acted on this edit's image: where both do, the later holds. ``held`` is
    whether the patch holds it, which those without a pool do of superseded ones only until they are
    made anew. ``superseded_by`` is the id of the later edit of the same question about the same
    image.
    """

    id: str
    prompt: str
    target: str
    image: str
    time: str
    names: tuple[str, ...] = ()
    about: int | None = -1
    took: bool | None = None
    conflicts: tuple[str, ...] = ()
    held: bool = True
    superseded_by: str = ""

    @property
    def number(self) -> int:
        """The number of what was asked (:func:`number`)."""
        return number(self.prompt, self.image, self.about)


def spellings(edits: Sequence[Edit]) -> dict[int, str]:
    """By its number each question as it was first spelled."""
    return {edit.number: edit.prompt for edit in reversed(edits)}


def history(edits: Sequence[Edit]) -> tuple[Edit, ...]:
    """The edits in their order, each with the id of the one that superseded it, in conflict with
    those in force.
    """
    last = {edit.number: edit.id for edit in edits}
    force = set(last.values())

    def seen(edit: Edit) -> Edit:
        conflicts = tuple(id for id in edit.conflicts if id in force)
        return replace(
            edit, superseded_by=last[edit.number].replace(edit.id, ""), conflicts=conflicts
        )

    return tuple(map(seen, edits))


@dataclass(frozen=True, slots=True)
class Listing:
    """The edits of a folder. ``opens_with`` are the arguments of :func:`liveedit.load` as far as
    they are known.
    """

    editor: str
    editor_fingerprint: str
    model_fingerprint: str
    edits: tuple[Edit, ...]
    tensors: str = field(default_factory=lambda: f"tensors-{token_hex(4)}")
    opens_with: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def find(cls, folder: str | Path) -> "Listing | None":
        """The listing of ``folder``; ``None`` where there is none yet and one may be made.

        Raises :class:`BadInput` for a folder of somebody else's, and what :meth:`read` raises.
        """
        check_folder(folder, FILE)
        file = resolved_path(folder) / FILE
        if file.is_symlink():
            raise BadInput(f"{file} is a link to the edits of another folder: give that folder")
        return cls.read(folder) if file.exists() else None

    @classmethod
    def read(cls, folder: str | Path) -> "Listing":
        """The listing of ``folder``.

        Raises :class:`BadInput` where there is none or it is damaged, :class:`Mismatch` for one of
        a newer version, :class:`StorageError` where reading fails.
        """
        file = resolved_path(folder) / FILE
        if file.exists() and not file.is_file():
            raise BadInput(f"{file} is no file: remove it, or give another folder")
        try:
            stored = json.loads(file.read_text(encoding="utf-8-sig"))
            if stored["version"] not in range(1, VERSION + 1):
                raise Mismatch(
                    f"{file} was written by another version of LiveEdit ({stored['version']}): use that one"
                )
            return _listing(stored)
        except (FileNotFoundError, NotADirectoryError):
            raise BadInput(
                f"no edits in {folder}: check the path, or make one with `liveedit edit`"
            ) from None
        except OSError as error:
            raise StorageError(
                f"cannot read {file} ({error.strerror}): check its permissions and the disk"
            ) from None
        except (ValueError, LookupError, TypeError, RecursionError):
            raise BadInput(
                f"{file} is damaged: restore it from a copy, or make the edits again elsewhere"
            ) from None

    @property
    def history(self) -> tuple[Edit, ...]:
        """The edits, each that is superseded with the id of the one that did."""
        return history(self.edits)

    @property
    def origin(self) -> dict[str, str]:
        """What the files of tensors say about where they come from."""
        return {"editor": self.editor_fingerprint, "model": self.model_fingerprint}

    def write(self, folder: Path) -> None:
        """Make this the state of ``folder``, whose tensors are there already."""
        stored = {"version": VERSION} | asdict(self)
        content = json.dumps(stored, indent=1, ensure_ascii=False)
        write_file(
            folder / FILE, content.encode(errors="backslashreplace")
        )  # as JSON has it, of file names in no UTF-8


def _listing(stored: Mapping[str, Any]) -> Listing:
    """What a file says. Raises ``TypeError``, ``ValueError`` or ``KeyError`` where it does not say
    it.
    """
    made = {name: stored[name] for name in ("editor", "editor_fingerprint", "model_fingerprint")}
    made |= {"tensors": stored["tensors"] if stored["version"] > 1 else ""}
    opens_with = dict(stored.get("opens_with") or {})
    if not all(
        isinstance(text, str) for text in (*made.values(), *opens_with, *opens_with.values())
    ):
        raise TypeError(made, opens_with)
    if made["tensors"] and not TENSORS.fullmatch(made["tensors"]):
        raise ValueError(made)
    edits = tuple(map(_edit, stored["edits"]))
    if len({edit.id for edit in edits}) < len(edits):
        raise ValueError(edits)
    return Listing(**made, edits=edits, opens_with=opens_with)


def _edit(row: Mapping[str, Any]) -> Edit:
    """One of the edits; what a newer version says besides is passed over."""
    edit = Edit(**{name.name: row[name.name] for name in fields(Edit) if name.name in row})
    "".join((edit.id, edit.prompt, edit.target, edit.image, edit.time)).encode()
    "".join(edit.names)
    "".join((*edit.conflicts, edit.superseded_by))
    kinds = (
        isinstance(edit.about, int | None)
        and isinstance(edit.took, bool | None)
        and isinstance(edit.held, bool)
    )
    if isinstance(edit.names, str) or isinstance(edit.conflicts, str) or not kinds:
        raise TypeError(row)
    return replace(edit, names=tuple(edit.names), conflicts=tuple(edit.conflicts))


def tidy(folder: Path, before: Listing | None) -> None:
    """Remove what ``folder``, which is locked, needs no longer: drafts, tensors, those of
    ``before``; never fails.
    """
    sweep(folder, age=0)
    with suppress(LiveEditError, OSError):
        current = Listing.find(folder)
        for path in folder.iterdir():
            if TENSORS.fullmatch(path.name) and (current is None or path.name != current.tensors):
                discard(path)
        if before and current and current.tensors and not before.tensors:
            for file in folder.glob("*.safetensors"):
                if read_metadata(file).items() >= before.origin.items():
                    file.unlink()
