"""Records of a report, read one at a time."""

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
    """The records in ``files``, read anew each time they are gone through, so that they never fill
    the memory.

    After a pass ``half_lines`` counts the last lines that a kill cut off, which are left out.
    ``failures`` has a line for each editor that was not tested to the end, ``calls`` what the
    evaluations that wrote the records noted of themselves.
    """

    def __init__(
        self,
        files: Iterable[Path],
        failures: Iterable[str] = (),
        calls: Iterable[Mapping[str, Any]] = (),
    ) -> None:
        self.files, self.failures, self.calls = tuple(files), tuple(failures), tuple(calls)
        self.half_lines = 0
        self._starts: list[array[int]] = []

    def __iter__(self) -> Iterator[Record]:
        """The records in the order of the files. Raises as :func:`read_records` says."""
        self.half_lines, self._starts = 0, []
        for path in self.files:
            self._starts.append(array("q"))
            try:
                yield from self._read(path, self._starts[-1])
            except OSError as error:
                raise _unreadable(path, error) from None

    def _read(self, path: Path, starts: "array[int]") -> Iterator[Record]:
        place = 0
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    try:
                        record = _record(line)
                    except ValueError as error:
                        if not line.endswith(b"\n"):
                            self.half_lines += 1
                            return
                        raise BadInput(
                            f"{path}, line {number} is no record ({error}): mend or delete that line"
                        ) from None
                    starts.append(place)
                    yield record
                place += len(line)

    def pick(self, numbers: Iterable[int]) -> Iterator[tuple[int, Record]]:
        """Records of the last pass by their places in it, counted from 0, in ascending order, with
        these places.
        """
        wanted, first = sorted(numbers), 0
        for path, starts in zip(self.files, self._starts, strict=True):
            here = wanted[bisect_left(wanted, first) : bisect_left(wanted, first + len(starts))]
            try:
                with path.open("rb") as file:
                    for number in here:
                        file.seek(starts[number - first])
                        yield number, _record(file.readline())
            except OSError as error:
                raise _unreadable(path, error) from None
            except ValueError:
                raise BadInput(
                    f"{path} has changed while it was read: make the report anew"
                ) from None
            first += len(starts)

    @property
    def records(self) -> list[Record]:
        """All records in memory; of one that was written twice the later."""
        found = {
            (r.editor, r.data, r.protocol, r.edits, r.window, r.seed, r.case, r.probe): r
            for r in self
        }
        return [*found.values()]


def read_records(path: str | Path) -> Reading:
    """The records in a JSONL file, or in all ``records-*.jsonl`` in and below a folder, in the
    order of their names.

    A last line without its newline that cannot be read is what a killed run leaves: it is passed
    over and counted. Raises :class:`BadInput` where there is no file. Going through the records
    raises it for any other line that is no record, naming file and line, and :class:`StorageError`
    where reading fails.
    """
    return Reading(_record_files(expanded(path)), failures(path), calls(path))


def failures(path: str | Path) -> list[str]:
    """A line for each editor whose evaluation, in or below a folder, failed: its name, at what, and
    of what.
    """
    lines = []
    for file in sorted(expanded(path).rglob("failed.json")):
        try:
            about = json.loads(file.read_text(encoding="utf-8-sig"))
            lines.append(f"{about['editor']} failed ({about['stage']}): {about['error']}")
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            lines.append(f"{file.parent.name} failed")
    return lines


def calls(path: str | Path) -> list[dict[str, Any]]:
    """What each evaluation whose records are in or below a folder, or in a file, noted of itself in
    ``run.json``.

    What cannot be read is passed over.
    """
    place, found = expanded(path), []
    for file in sorted(
        place.rglob("run.json") if place.is_dir() else place.parent.glob("run.json")
    ):
        try:
            noted = json.loads(file.read_text(encoding="utf-8-sig"))["calls"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            continue
        found += (
            [call for call in noted if isinstance(call, dict)] if isinstance(noted, list) else []
        )
    return found


def _record_files(path: Path) -> list[Path]:
    check_open(path)
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise BadInput(
            f"no records at {path}: give the folder that an evaluation wrote, or one of its JSONL files"
        )
    if files := sorted(path.rglob("records-*.jsonl")):
        return files
    raise BadInput(
        f"no records-*.jsonl in or below {path}: give the folder that an evaluation wrote"
    )


def _record(line: bytes) -> Record:
    """The record on one line. Raises ``ValueError`` for any other text."""
    try:
        return Record.from_json(line.decode("utf-8-sig"))
    except (AttributeError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from None


def _unreadable(path: Path, error: OSError) -> StorageError:
    return StorageError(
        f"cannot read {path} ({error.strerror}): check its permissions and the disk"
    )
