"""Journal: the folder of an evaluation, which survives a kill at any moment.

``run.json`` says whose records these are, ``records-NAME.jsonl``, after the editor, holds them, one a line, appended
and synced to disk a few at a time.
"""

import json
import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from liveedit.errors import BadInput, Mismatch, StorageError
from liveedit.types import Record

__all__ = ["Journal", "Place"]

Place = tuple[int, int, str, int]
"""Where a record belongs: number of edits, window, case, probe."""


class Journal:
    """The records in ``folder``, to be added to.

    ``identity`` is what all records of a folder must have in common, the editor's name among it; ``call`` describes
    this run, and is added to those of earlier runs. Raises :class:`Mismatch` if the folder belongs to another identity,
    :class:`BadInput` if its files are damaged, :class:`StorageError` where reading or writing fails.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any], call: Mapping[str, Any]) -> None:
        self.folder, self.path = folder, folder / f"records-{identity['editor']}.jsonl"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self.done = {place(record) for record in self._read()}
            self._claim(dict(identity), dict(call))
        except OSError as error:
            raise self._failed(error) from None

    def append(self, records: Sequence[Record]) -> None:
        """Add ``records``; when this returns they are on the disk.

        Raises :class:`StorageError` where writing fails; all records of earlier calls are still there.
        """
        lines = "".join(f"{record.to_json()}\n" for record in records).encode()
        try:
            with self.path.open("ab") as file:
                file.write(lines)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise self._failed(error) from None
        self.done |= {place(record) for record in records}

    def _read(self) -> list[Record]:
        """The records that are there; half a line at the end, which a kill left, is cut off."""
        if not self.path.exists():
            return []
        content = self.path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            os.truncate(self.path, len(whole))
        records = []
        for number, line in enumerate(whole.splitlines(), start=1):
            try:
                records.append(Record.from_json(line.decode()))
            except (KeyError, TypeError, ValueError, AttributeError):
                raise BadInput(f"{self.path}, line {number} is no record: delete that line to have it anew") from None
        return records

    def _claim(self, identity: dict[str, Any], call: dict[str, Any]) -> None:
        """Write down whose folder this is and what is done in it now, or refuse another's."""
        file = self.folder / "run.json"
        about = json.loads(json.dumps(identity | {"calls": [{"time": datetime.now(UTC).isoformat(), **call}]}))
        if file.exists():
            about["calls"] = self._checked(file, about) + about["calls"]
        elif self.done:
            raise Mismatch(f"{self.folder} holds records but no run.json to say whose: choose a new folder")
        part = file.with_name("run.json.part")
        part.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
        part.replace(file)

    def _checked(self, file: Path, about: dict[str, Any]) -> list[Any]:
        """The earlier calls in ``run.json``. Raises :class:`Mismatch` unless it is about the same as ``about``."""
        try:
            stored = json.loads(file.read_text(encoding="utf-8"))
            calls: list[Any] = list(stored.pop("calls"))
        except (ValueError, KeyError, TypeError, AttributeError):
            raise BadInput(f"{file} is damaged: choose a new folder") from None
        keys = (stored.keys() | about.keys()) - {"calls"}
        if different := sorted(key for key in keys if stored.get(key) != about.get(key)):
            names = ", ".join(different)
            raise Mismatch(f"{self.folder} holds an evaluation with another {names}: choose a new folder")
        return calls

    def _failed(self, error: OSError) -> StorageError:
        reason = error.strerror or str(error)
        return StorageError(f"cannot write {self.folder} ({reason}): mend that, the same command goes on from here")


def place(record: Record) -> Place:
    """Where a record belongs."""
    return record.edits, record.window, record.case, record.probe
