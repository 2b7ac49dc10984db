"""Files of a report: the records it reads, and writing what it makes so that no reader sees half of it."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

from liveedit.errors import BadInput, StorageError
from liveedit.types import Record

__all__ = ["Reading", "read_records", "write_file"]


@dataclass(frozen=True, slots=True)
class Reading:
    """Records; ``half_lines`` were cut off by a kill and are left out, of ``repeated`` ones only the last is here."""

    records: list[Record]
    half_lines: int = 0
    repeated: int = 0


def read_records(path: str | Path) -> Reading:
    """The records in a JSONL file, or in all ``records-*.jsonl`` in and below a folder, in the order of their names.

    A last line without its newline that cannot be read is what a killed run leaves: it is passed over and counted.
    Raises :class:`BadInput` where there is no file and for any other line that is no record, naming file and line;
    :class:`StorageError` where reading fails.
    """
    found: dict[tuple[object, ...], Record] = {}
    total = half_lines = 0
    for file in _record_files(Path(path)):
        records, half = _read_file(file)
        total, half_lines = total + len(records), half_lines + half
        for r in records:
            found[r.editor, r.data, r.edits, r.window, r.seed, r.case, r.probe] = r
    return Reading(list(found.values()), half_lines, repeated=total - len(found))


def _record_files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise BadInput(f"no records at {path}: give the folder that an evaluation wrote, or one of its JSONL files")
    if files := sorted(path.rglob("records-*.jsonl")):
        return files
    raise BadInput(f"no records-*.jsonl in or below {path}: give the folder that an evaluation wrote")


def _read_file(path: Path) -> tuple[list[Record], bool]:
    """The file's records, and whether it ends in half a line."""
    try:
        *lines, last = path.read_bytes().split(b"\n")
    except OSError as error:
        raise StorageError(f"cannot read {path} ({error.strerror}): check its permissions and the disk") from None
    records = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                records.append(_record(line))
            except ValueError as error:
                raise BadInput(f"{path}, line {number} is no record ({error}): mend or delete that line") from None
    if not last.strip():
        return records, False
    try:
        return [*records, _record(last)], False
    except ValueError:
        return records, True


def _record(line: bytes) -> Record:
    """The record on one line. Raises ``ValueError`` for any other text."""
    try:
        return Record.from_json(line.decode("utf-8"))
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from None


def write_file(path: Path, content: bytes) -> Path:
    """Write a file so that it is never seen half-written. Raises :class:`StorageError` where writing fails."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            draft = Path(file.name)
            try:
                file.write(content)
                file.close()
                draft.chmod(0o644)
                draft.replace(path)
            except OSError:
                draft.unlink(missing_ok=True)
                raise
    except OSError as error:
        raise StorageError(
            f"cannot write {path} ({error.strerror}): free some space or choose another folder"
        ) from None
    return path
