"""Journal: the folder of an editor's evaluation, which survives a kill at any moment.

``run.json`` says whose records these are, ``records-NAME.jsonl``, after the editor, holds them, one
a line, appended and synced to disk a few at a time. Of several processes each but the first appends
to a file of its own, ``records-NAME.partN.jsonl``; the first puts them together, in the order of
the protocol, at the end and, where a kill has left some, at the beginning. ``failed.json`` says of
what an evaluation failed, until the next one begins. Files of these names that are somebody else's
are refused, and left as they are.
"""

import json
import os
import re
import traceback
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from liveedit.artifacts import draft, write_file
from liveedit.errors import BadInput, LiveEditError, Mismatch, StorageError, shortage
from liveedit.types import Case, Record

__all__ = ["Journal", "Place", "note_failure", "reason"]

FAILED = "failed.json"
SAID = {"editor", "stage", "error", "time", "traceback"}
"""What a ``failed.json`` of ours says."""
THEIRS = "was not written by LiveEdit: move it away, or choose another folder"

Place = tuple[str, int, int, str, int]
"""Where a record belongs: protocol, number of edits, window, case, probe."""


class Journal:
    """The records in ``folder`` about ``cases``, to be added to by ``process``; process 0 has to be
    there first.

    ``identity`` is what all records of a folder must have in common, the editor's name among it;
    ``call`` describes this run, and is added to those of earlier runs. Raises :class:`Mismatch` if
    the folder belongs to another identity, :class:`BadInput` if its files are damaged or somebody
    else's, :class:`StorageError` where reading or writing fails.
    """

    def __init__(
        self, folder: Path, identity: Mapping[str, Any], call: Mapping[str, Any], cases: Sequence[Case],
        process: int = 0,
    ) -> None:  # fmt: skip
        self.folder, self.path = folder, folder / f"records-{identity['editor']}.jsonl"
        self.own = self.path.with_suffix(f".part{process}.jsonl") if process else self.path
        self._head = json.dumps(
            {"editor": identity["editor"]}, ensure_ascii=False, separators=(",", ":")
        )[:-1].encode()
        """How every record begins."""
        self._number = {case.id: number for number, case in enumerate(cases)}
        self.done: set[Place] = set()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not process:
                failed = failure_file(folder)
                self._claim(dict(identity), dict(call))
                failed.unlink(missing_ok=True)
                self.merge()
            self.done = {place(record) for record in self._read(self.path)}
        except OSError as error:
            raise self._failed(error) from None

    def append(self, records: Sequence[Record]) -> None:
        """Add ``records``; when this returns they are on the disk.

        Raises :class:`StorageError` where writing fails; all records of earlier calls are still
        there.
        """
        try:
            with self.own.open("ab") as file:
                file.write(lines(records))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise self._failed(error) from None
        self.done |= {place(record) for record in records}

    def merge(self) -> None:
        """Put the records of all processes into the one file, in the order of the protocol, each
        once.

        Raises :class:`BadInput` for a damaged file, :class:`StorageError` where writing fails; then
        nothing is lost.
        """
        name = re.compile(rf"{re.escape(self.path.stem)}\.part[1-9][0-9]*\.jsonl")
        try:
            parts = sorted(file for file in self.folder.iterdir() if name.fullmatch(file.name))
            found = {
                place(record): record for file in (self.path, *parts) for record in self._read(file)
            }
            ordered = sorted(
                found, key=lambda where: (*where[:3], self._number.get(where[3], -1), where[4])
            )
            if parts or ordered != list(found):
                with draft(self.path) as part:
                    part.write_bytes(lines([found[where] for where in ordered]))
            for own in parts:
                own.unlink()
        except OSError as error:
            raise self._failed(error) from None

    def _read(self, file: Path) -> list[Record]:
        """The records in a file; half a line at the end, which a kill left, is cut off.

        Raises :class:`BadInput` for anything else, which stays as it is.
        """
        if not file.exists():
            return []
        content = file.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        half = content[len(whole) :]
        if half[: len(self._head)] != self._head[: len(half)]:
            raise BadInput(f"{file} {THEIRS}")
        records = []
        for number, line in enumerate(whole.splitlines(), start=1):
            try:
                records.append(Record.from_json(line.decode("utf-8-sig")))
            except (KeyError, TypeError, ValueError, AttributeError):
                raise BadInput(
                    f"{file}, line {number} is no record: delete that line to have it anew"
                ) from None
        if half:
            os.truncate(file, len(whole))
        return records

    def _claim(self, identity: dict[str, Any], call: dict[str, Any]) -> None:
        """Write down whose folder this is and what is done in it now, or refuse another's."""
        file = self.folder / "run.json"
        about = json.loads(
            json.dumps(identity | {"calls": [{"time": datetime.now(UTC).isoformat(), **call}]})
        )
        if file.exists():
            about["calls"] = self._checked(file, about) + about["calls"]
        elif self.path.exists() and self.path.stat().st_size:
            raise Mismatch(
                f"{self.folder} holds records but no run.json to say whose: choose a new folder"
            )
        with draft(file) as part:
            part.write_bytes((json.dumps(about, indent=1) + "\n").encode())

    def _checked(self, file: Path, about: dict[str, Any]) -> list[Any]:
        """The earlier calls in ``run.json``. Raises :class:`Mismatch` unless it is about the same
        as ``about``.
        """
        try:
            stored = json.loads(file.read_text(encoding="utf-8-sig"))
            calls: list[Any] = list(stored.pop("calls"))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise BadInput(f"{file} is damaged: choose a new folder") from None
        keys = (stored.keys() | about.keys()) - {"calls"}
        if different := sorted(key for key in keys if stored.get(key) != about.get(key)):
            names = ", ".join(different)
            raise Mismatch(
                f"{self.folder} holds an evaluation with another {names}: choose a new folder"
            )
        return calls

    def _failed(self, error: OSError) -> StorageError:
        reason = error.strerror or str(error)
        return StorageError(
            f"cannot write {self.folder} ({reason}): mend that, the same command goes on from here"
        )


def failure_file(folder: Path) -> Path:
    """Where ``folder`` says of what an evaluation failed. Raises :class:`BadInput` where somebody
    else's file is.
    """
    file = folder / FAILED
    if os.path.lexists(file):
        try:
            about = json.loads(file.read_text(encoding="utf-8-sig"))
        except (OSError, ValueError, RecursionError):
            about = None
        if not (isinstance(about, dict) and about.keys() >= SAID):
            raise BadInput(f"{file} {THEIRS}")
    return file


def note_failure(folder: Path, editor: str, stage: str, error: Exception) -> str:
    """Write down in ``folder`` at what an editor failed, and of what; both in one line.

    Raises :class:`StorageError` where that fails, :class:`BadInput` where the file is somebody
    else's.
    """
    about = {
        "editor": editor,
        "stage": stage,
        "error": reason(error),
        "time": datetime.now(UTC).isoformat(),
    }
    about["traceback"] = "".join(traceback.format_exception(error))
    write_file(failure_file(folder), (json.dumps(about, indent=1) + "\n").encode())
    return f"{editor} failed ({stage}): {about['error']}"


def reason(error: Exception) -> str:
    """An error in one line; of one that is not the user's, with its kind."""
    if short := shortage(error):
        return short
    text = " ".join(str(error).split())
    if isinstance(error, LiveEditError):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def place(record: Record) -> Place:
    """Where a record belongs."""
    return record.protocol, record.edits, record.window, record.case, record.probe


def lines(records: Sequence[Record]) -> bytes:
    """The records, one a line."""
    return "".join(f"{record.to_json()}\n" for record in records).encode()
