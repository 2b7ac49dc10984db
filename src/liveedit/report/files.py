"""Reading the records of an evaluation, one at a time."""

import json
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from liveedit.artifacts import check_open
from liveedit.errors import BadInput, StorageError
from liveedit.types import Record, expanded

__all__ = ["Reading", "failures", "read_records"]


class Reading:
    """The records in ``files``, read again in each pass, so that they never fill the memory.

    Arguments:
        files: The files in their order.
        failures: A line for each editor that was not evaluated to the end.
        calls: The description that each call of the evaluation wrote into ``run.json``.

    After a pass ``half_lines`` is the number of incomplete last lines, which a killed run leaves
    and which are left out.
    """

    def __init__(
        self,
        files: Iterable[Path],
        failures: Iterable[str] = (),
        calls: Iterable[Mapping[str, Any]] = (),
    ) -> None:
        self.files = tuple(files)
        self.failures = tuple(failures)
        self.calls = tuple(calls)
        self.half_lines = 0
        self._starts: list[array[int]] = []

    def __iter__(self) -> Iterator[Record]:
        """The records in the order of the files. Raises as :func:`read_records` does."""
        self.half_lines = 0
        self._starts = []
        for path in self.files:
            self._starts.append(array("q"))
            try:
                yield from self._read(path, self._starts[-1])
            except OSError as error:
                raise _unreadable(path, error) from None

    def _read(self, path: Path, starts: "array[int]") -> Iterator[Record]:
        """The records in a file; the position of each line is appended to ``starts``."""
        position = 0
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    try:
                        record = _record(line)
                    except ValueError as error:
                        if not line.endswith(b"\n"):
                            self.half_lines += 1
                            return
                        raise _broken(path, number, error) from None
                    starts.append(position)
                    yield record
                position += len(line)

    def pick(self, numbers: Iterable[int]) -> Iterator[tuple[int, Record]]:
        """Records of the last pass, by their numbers in it, counted from 0.

        They come in ascending order, each with its number.
        """
        wanted = sorted(numbers)
        first = 0
        for path, starts in zip(self.files, self._starts, strict=True):
            stop = first + len(starts)
            here = wanted[bisect_left(wanted, first) : bisect_left(wanted, stop)]
            try:
                with path.open("rb") as file:
                    for number in here:
                        file.seek(starts[number - first])
                        yield number, _record(file.readline())
            except OSError as error:
                raise _unreadable(path, error) from None
            except ValueError:
                raise BadInput(
                    f"{path} has changed while it was read: make the report again"
                ) from None
            first = stop

    @property
    def records(self) -> list[Record]:
        """All records in memory; if a record was written twice, its later copy."""
        return list({_key(record): record for record in self}.values())


def read_records(path: str | Path) -> Reading:
    """The records in a JSONL file, or in all ``records-*.jsonl`` in and below a folder.

    Files are in the order of their names. An incomplete last line without newline, which a killed
    run leaves, is left out and counted. Raises :class:`BadInput` where there is no file. Passes
    over the records raise it for any other line that is not a record, naming file and line, and
    :class:`StorageError` where reading fails.
    """
    return Reading(_record_files(expanded(path)), failures(path), _calls(path))


def failures(path: str | Path) -> list[str]:
    """A line for each editor whose evaluation failed, in or below a folder: name, stage, error."""
    lines = []
    for file in sorted(expanded(path).rglob("failed.json")):
        try:
            about = json.loads(file.read_text(encoding="utf-8-sig"))
            lines.append(f"{about['editor']} failed ({about['stage']}): {about['error']}")
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            lines.append(f"{file.parent.name} failed")
    return lines


def _calls(path: str | Path) -> list[dict[str, Any]]:
    """The calls in each readable ``run.json`` in or below a folder, or beside a file."""
    place = expanded(path)
    files = place.rglob("run.json") if place.is_dir() else place.parent.glob("run.json")
    found = []
    for file in sorted(files):
        try:
            noted = json.loads(file.read_text(encoding="utf-8-sig"))["calls"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            continue
        if isinstance(noted, list):
            found += [call for call in noted if isinstance(call, dict)]
    return found


def _record_files(path: Path) -> list[Path]:
    """The files of records at ``path``. Raises :class:`BadInput` where there is none."""
    check_open(path)
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise BadInput(
            f"no records at {path}: give the folder that an evaluation wrote, "
            "or one of its JSONL files"
        )
    if files := sorted(path.rglob("records-*.jsonl")):
        return files
    raise BadInput(
        f"no records-*.jsonl in or below {path}: give the folder that an evaluation wrote"
    )


def _key(record: Record) -> tuple[Any, ...]:
    """The fields that identify a record."""
    group = record.editor, record.data, record.protocol, record.edits, record.window, record.seed
    return *group, record.case, record.probe


def _record(line: bytes) -> Record:
    """The record on one line. Raises ``ValueError`` for any other text."""
    try:
        return Record.from_json(line.decode("utf-8-sig"))
    except (AttributeError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from None


def _broken(path: Path, number: int, error: Exception) -> BadInput:
    return BadInput(f"{path}, line {number} is not a record ({error}): repair or delete that line")


def _unreadable(path: Path, error: OSError) -> StorageError:
    return StorageError(
        f"cannot read {path} ({error.strerror}): check its permissions and the disk"
    )
