"""Journal: the folder of an editor's evaluation, which survives a kill at any moment.

``run.json`` describes the origin of the records. ``records-NAME.jsonl``, named after the editor,
holds the records, one per line, appended and synced to disk a few at a time. If there are several
processes, each except the first appends to its own file, ``records-NAME.partN.jsonl``. The first
process merges these files in the order of the protocol: at the end, and at the beginning if a
killed run has left some. ``failed.json`` describes the failure of an evaluation, until the next one
begins. Unrelated files of these names are refused and left as they are.
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

__all__ = ["Journal", "RecordKey", "note_failure"]

FAILED = "failed.json"
FAILED_KEYS = {"editor", "stage", "error", "time", "traceback"}
"""Keys of a ``failed.json``."""
UNRELATED = "was not written by LiveEdit: move it away, or choose another folder"

RecordKey = tuple[str, int, int, str, int]
"""Position of a record in an evaluation: protocol, number of edits, window, case, probe."""


class Journal:
    """The records in ``folder``, to which ``process`` adds new ones.

    Process 0 has to open the folder first. Raises :class:`Mismatch` if the folder belongs to
    another origin, :class:`BadInput` if its files are damaged or unrelated, :class:`StorageError`
    where reading or writing fails.

    Arguments:
        folder: The folder.
        origin: Values that all records of a folder share, the label of the editor among them.
        call: Description of this call, which is added to those of earlier calls.
        cases: The cases in their order.
        process: Index of this process.
    """

    def __init__(
        self,
        folder: Path,
        origin: Mapping[str, Any],
        call: Mapping[str, Any],
        cases: Sequence[Case],
        process: int = 0,
    ) -> None:
        self.folder = folder
        self.path = folder / f"records-{origin['editor']}.jsonl"
        self.own = self.path.with_suffix(f".part{process}.jsonl") if process else self.path
        self._head = _head(origin["editor"])
        self._number = {case.id: number for number, case in enumerate(cases)}
        self.done: set[RecordKey] = set()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not process:
                self._open(dict(origin), dict(call))
            self.done = {_key(record) for record in self._read(self.path)}
        except OSError as error:
            raise self._failed(error) from None

    def append(self, records: Sequence[Record]) -> None:
        """Add ``records``; when this returns they are on the disk.

        Raises :class:`StorageError` where writing fails; the records of earlier calls are safe.
        """
        try:
            with self.own.open("ab") as file:
                file.write(_lines(records))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise self._failed(error) from None
        self.done |= {_key(record) for record in records}

    def merge(self) -> None:
        """Merge the records of all processes into one file, each once, in the protocol's order.

        Raises :class:`BadInput` for a damaged file, :class:`StorageError` where writing fails; then
        nothing is lost.
        """
        try:
            parts = self._parts()
            found: dict[RecordKey, Record] = {}
            for file in (self.path, *parts):
                found |= {_key(record): record for record in self._read(file)}
            ordered = sorted(found, key=self._order)
            if parts or ordered != list(found):
                with draft(self.path) as target:
                    target.write_bytes(_lines([found[key] for key in ordered]))
            for part in parts:
                part.unlink()
        except OSError as error:
            raise self._failed(error) from None

    def _parts(self) -> list[Path]:
        """The files of the other processes."""
        name = re.compile(rf"{re.escape(self.path.stem)}\.part[1-9][0-9]*\.jsonl")
        return sorted(file for file in self.folder.iterdir() if name.fullmatch(file.name))

    def _order(self, key: RecordKey) -> tuple[Any, ...]:
        """Sort key: the cases are in their given order."""
        protocol, edits, window, case, probe = key
        return protocol, edits, window, self._number.get(case, -1), probe

    def _read(self, file: Path) -> list[Record]:
        """The records in a file; an incomplete line at its end, which a kill left, is removed.

        Raises :class:`BadInput` for any other line, and leaves the file as it is.
        """
        if not file.exists():
            return []
        content = file.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        half = content[len(whole) :]
        if half[: len(self._head)] != self._head[: len(half)]:
            raise BadInput(f"{file} {UNRELATED}")
        records = [
            _parsed(line, f"{file}, line {number}")
            for number, line in enumerate(whole.splitlines(), start=1)
        ]
        if half:
            os.truncate(file, len(whole))
        return records

    def _open(self, origin: dict[str, Any], call: dict[str, Any]) -> None:
        """Prepare the folder for this call: forget an old failure, merge what a kill has left."""
        failed = _failure_file(self.folder)
        self._require_same_origin(origin, call)
        failed.unlink(missing_ok=True)
        self.merge()

    def _require_same_origin(self, origin: dict[str, Any], call: dict[str, Any]) -> None:
        """Write ``run.json`` with this call. Raises :class:`Mismatch` for another origin."""
        file = self.folder / "run.json"
        calls = [{"time": datetime.now(UTC).isoformat(), **call}]
        about = json.loads(json.dumps({**origin, "calls": calls}))
        if file.exists():
            about["calls"] = self._earlier_calls(file, about) + about["calls"]
        elif self.path.exists() and self.path.stat().st_size:
            raise Mismatch(
                f"{self.folder} holds records but no run.json with their origin: "
                "choose a new folder"
            )
        with draft(file) as target:
            target.write_bytes((json.dumps(about, indent=1) + "\n").encode())

    def _earlier_calls(self, file: Path, about: dict[str, Any]) -> list[Any]:
        """The calls in ``run.json``. Raises :class:`Mismatch` unless its origin is the same."""
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
            f"cannot write {self.folder} ({reason}): "
            "once that is repaired, run the same command to continue"
        )


def note_failure(folder: Path, editor: str, stage: str, error: Exception) -> str:
    """Write into ``folder`` that an editor failed, and return it as one line.

    Raises :class:`StorageError` where that fails, :class:`BadInput` where an unrelated file has
    the name.
    """
    about = {
        "editor": editor,
        "stage": stage,
        "error": _reason(error),
        "time": datetime.now(UTC).isoformat(),
        "traceback": "".join(traceback.format_exception(error)),
    }
    write_file(_failure_file(folder), (json.dumps(about, indent=1) + "\n").encode())
    return f"{editor} failed ({stage}): {about['error']}"


def _failure_file(folder: Path) -> Path:
    """The ``failed.json`` of ``folder``. Raises :class:`BadInput` for an unrelated file."""
    file = folder / FAILED
    if os.path.lexists(file):
        try:
            about = json.loads(file.read_text(encoding="utf-8-sig"))
        except (OSError, ValueError, RecursionError):
            about = None
        if not (isinstance(about, dict) and about.keys() >= FAILED_KEYS):
            raise BadInput(f"{file} {UNRELATED}")
    return file


def _reason(error: Exception) -> str:
    """An error in one line; with its type, unless it is a :class:`LiveEditError`."""
    if short := shortage(error):
        return short
    text = " ".join(str(error).split())
    if isinstance(error, LiveEditError):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _head(editor: str) -> bytes:
    """The beginning of every record of an editor."""
    line = json.dumps({"editor": editor}, ensure_ascii=False, separators=(",", ":"))
    return line.removesuffix("}").encode()


def _parsed(line: bytes, title: str) -> Record:
    """The record on one line. Raises :class:`BadInput` for any other text."""
    try:
        return Record.from_json(line.decode("utf-8-sig"))
    except (KeyError, TypeError, ValueError, AttributeError):
        raise BadInput(f"{title} is not a record: delete that line to evaluate it again") from None


def _key(record: Record) -> RecordKey:
    """Position of a record in an evaluation."""
    return record.protocol, record.edits, record.window, record.case, record.probe


def _lines(records: Sequence[Record]) -> bytes:
    """The records, one per line."""
    return "".join(f"{record.to_json()}\n" for record in records).encode()
