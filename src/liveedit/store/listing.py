"""The listing of a folder of edits: ``edits.json``, which describes the edits and their origin.

The tensors of a state are in a folder of their own, ``tensors-…``, which the listing names:
replacing the listing replaces the whole state in one step. In version 1 the tensors were beside the
listing.
"""

import json
import re
from collections.abc import Mapping
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
from liveedit.store.edit import Edit, history

__all__ = ["FILE", "Listing", "tidy"]

FILE = "edits.json"
VERSION = 2
TENSORS = re.compile(r"tensors-[0-9a-f]{8}")


@dataclass(frozen=True, slots=True)
class Listing:
    """The edits of a folder, with the model and the editor that made them.

    Arguments:
        editor: Name of the method.
        editor_fingerprint: Fingerprint of the editor.
        model_fingerprint: Fingerprint of the model.
        edits: All edits, superseded ones included, in the order in which they were made.
        tensors: Name of the folder with the tensors; empty in version 1.
        opens_with: Known arguments of :func:`liveedit.load` with which the edits were made.
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

        Raises :class:`BadInput` for a folder with unrelated files, and the errors of :meth:`read`.
        """
        check_folder(folder, FILE)
        file = resolved_path(folder) / FILE
        if file.is_symlink():
            raise BadInput(f"{file} is a link to the edits of another folder: give that folder")
        return cls.read(folder) if file.exists() else None

    @classmethod
    def read(cls, folder: str | Path) -> "Listing":
        """The listing of ``folder``.

        Raises :class:`BadInput` where it is missing or damaged, :class:`Mismatch` for a newer
        version, :class:`StorageError` where reading fails.
        """
        file = resolved_path(folder) / FILE
        if file.exists() and not file.is_file():
            raise BadInput(f"{file} is not a file: remove it, or give another folder")
        try:
            stored = json.loads(file.read_text(encoding="utf-8-sig"))
            if stored["version"] not in range(1, VERSION + 1):
                raise Mismatch(
                    f"{file} was written by another version of LiveEdit ({stored['version']}): "
                    "use that one"
                )
            return _parse_listing(stored)
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
        """The edits, superseded ones with the id of the edit that superseded them."""
        return history(self.edits)

    @property
    def origin(self) -> dict[str, str]:
        """The origin of the tensors, as their files state it: editor and model."""
        return {"editor": self.editor_fingerprint, "model": self.model_fingerprint}

    def write(self, folder: Path) -> None:
        """Make this the state of ``folder``, which holds its tensors already."""
        stored = {"version": VERSION} | asdict(self)
        content = json.dumps(stored, indent=1, ensure_ascii=False)
        # Names of files that are not UTF-8 are escaped as JSON escapes them.
        write_file(folder / FILE, content.encode(errors="backslashreplace"))


def _parse_listing(stored: Mapping[str, Any]) -> Listing:
    """The listing that a file holds. Raises ``TypeError``, ``ValueError`` or ``KeyError``."""
    texts = {name: stored[name] for name in ("editor", "editor_fingerprint", "model_fingerprint")}
    texts["tensors"] = stored["tensors"] if stored["version"] > 1 else ""
    opens_with = dict(stored.get("opens_with") or {})
    for text in (*texts.values(), *opens_with, *opens_with.values()):
        if not isinstance(text, str):
            raise TypeError(text)
    if texts["tensors"] and not TENSORS.fullmatch(texts["tensors"]):
        raise ValueError(texts["tensors"])
    edits = tuple(map(_parse_edit, stored["edits"]))
    if len({edit.id for edit in edits}) < len(edits):
        raise ValueError(edits)
    return Listing(**texts, edits=edits, opens_with=opens_with)


def _parse_edit(row: Mapping[str, Any]) -> Edit:
    """One edit; fields of newer versions are ignored. Raises ``TypeError`` or ``ValueError``."""
    edit = Edit(**{field.name: row[field.name] for field in fields(Edit) if field.name in row})
    "".join((edit.id, edit.prompt, edit.target, edit.image, edit.time)).encode()  # texts in UTF-8
    "".join((*edit.names, *edit.conflicts, edit.superseded_by))  # texts
    for sequence in (edit.names, edit.conflicts):
        if isinstance(sequence, str):
            raise TypeError(row)
    for value, kind in ((edit.about, int | None), (edit.took, bool | None), (edit.held, bool)):
        if not isinstance(value, kind):
            raise TypeError(row)
    return replace(edit, names=tuple(edit.names), conflicts=tuple(edit.conflicts))


def tidy(folder: Path, before: Listing | None) -> None:
    """Remove drafts and tensors that ``folder``, which is locked, no longer needs.

    These include the tensors of ``before`` in version 1. Never fails.
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
