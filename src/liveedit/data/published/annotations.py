"""The annotation files of E-VQA, E-IC and VLKEB: a JSON list of flat records, read with every fault
named.

The fields keep their published names:

==================================
==================================================================== ``image``, ``src``, ``alt``
what is edited: an image, a question about it, the new answer ``pred``
what was answered before; used by no metric ``rephrase``                        the question in
other words ``image_rephrase``                  another image of the same thing ``loc``, ``loc_ans``
a question without image from Natural Questions, which must stay ``m_loc``, ``m_loc_q``, ``m_loc_a``
an image, a question about it and its answer, which must stay ``port_new``
VLKEB only: what follows from the edit ==================================
====================================================================

``port_new`` has two forms. In ``eval_edit_onehop.json`` it is one item with ``port_q``, ``port_a``,
asked about the edit's image, and ``port_edit_q``, ``port_edit_a``, a fact without image that may be
edited besides. In ``eval_multihop.json`` it is a list of ``{"port_type": "1-hop", "Q&A":
{"Question": …, "Answer": …}}``, up to 4 hops; of several questions of one hop the first counts, as
in VLKEB's loader.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from liveedit.errors import BadInput
from liveedit.types import check_unicode, visible

__all__ = ["FIELDS", "IMAGES", "Annotation", "parse", "read"]

FIELDS = (
    "src", "rephrase", "pred", "alt", "image", "image_rephrase", "loc", "loc_ans", "m_loc", "m_loc_q", "m_loc_a",
)  # fmt: skip
IMAGES = ("image", "image_rephrase", "m_loc")
"""The fields that are paths to images."""
MAY_BE_EMPTY = {"pred"}
HOPS = {"1-hop": 1, "2-hop": 2, "3-hop": 3, "4-hop": 4}


@dataclass(frozen=True, slots=True)
class Annotation:
    """One record. ``id`` is the file's name and the record's place in it, from 0.

    ``hops`` holds what follows from the edit, (question, answer) by number of hops; ``fact`` the
    question and the answer that may be edited besides.
    """

    id: str
    src: str
    rephrase: str
    pred: str
    alt: str
    image: str
    image_rephrase: str
    loc: str
    loc_ans: str
    m_loc: str
    m_loc_q: str
    m_loc_a: str
    hops: Mapping[int, tuple[str, str]] = field(default_factory=dict)
    fact: tuple[str, str] | None = None

    @property
    def number(self) -> int:
        """The record's place in its file."""
        return int(self.id.rpartition(":")[2])

    @property
    def images(self) -> tuple[str, str, str]:
        """The paths of the edit's image, its rephrase and the locality image."""
        return self.image, self.image_rephrase, self.m_loc


def read(file: Path) -> list[Annotation]:
    """All records of a file, in its order. Raises :class:`BadInput` naming the first fault, if
    there is any.
    """
    rows, faults = parse(file)
    if faults:
        more = f", and {len(faults) - 1} more faults" if len(faults) > 1 else ""
        raise BadInput(
            f"{file}: {faults[0].partition(', ')[2]}{more}: mend the file or download it again"
        )
    return rows


def parse(file: Path) -> tuple[list[Annotation], list[str]]:
    """The sound records of a file, and a line on each fault of the others.

    Raises :class:`BadInput` for a file that is missing, cut off or no list of records.
    """
    rows, faults = [], []
    for number, record in enumerate(_records(file)):
        found = _faults(record)
        faults += [f"{file.name}, record {number}: {fault}" for fault in found]
        if not found:
            texts = {name: record[name] for name in FIELDS}
            rows.append(
                Annotation(
                    f"{file.stem}:{number}", **texts, **_portability(record.get("port_new", []))
                )
            )
    return rows, faults


def _records(file: Path) -> list[Any]:
    try:
        records = json.loads(file.read_text(encoding="utf-8-sig"), object_pairs_hook=Pairs)
    except FileNotFoundError:
        raise BadInput(f"no annotations at {file}: check the path") from None
    except OSError as error:
        raise BadInput(f"cannot read {file} ({error.strerror}): check the path") from None
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{file} is cut off or no JSON ({error}): download it again") from None
    if not isinstance(records, list) or not records:
        raise BadInput(f"{file} holds no list of records: download it again")
    return records


class Pairs(dict[str, Any]):
    """A JSON object; ``twice`` are the keys that it has more than once, of which a dict keeps the
    last value alone.
    """

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        counts = Counter(key for key, _ in pairs) if len(pairs) > len(self) else {}
        self.twice = [key for key, count in counts.items() if count > 1]


def _twice(record: Any) -> Iterator[str]:
    """The keys that any object of a record has more than once."""
    left = [record]
    while left:
        part = left.pop()
        if isinstance(part, Pairs):
            yield from part.twice
            left += part.values()
        elif isinstance(part, list):
            left += part


def _faults(record: Any) -> list[str]:
    """What is wrong with one record."""
    if not isinstance(record, dict):
        return ["not a record but " + type(record).__name__]
    faults = [f"{key[:40]!a} is there more than once" for key in _twice(record)]
    for name in FIELDS:
        if name not in record:
            faults.append(f"'{name}' is missing")
        elif not isinstance(record[name], str):
            faults.append(f"'{name}' is {type(record[name]).__name__}, not text")
        elif not visible(record[name]) and name not in MAY_BE_EMPTY:
            faults.append(f"'{name}' is empty")
        else:
            faults += _no_unicode(name, record[name])
    try:
        follows = _portability(record.get("port_new", []))
    except (KeyError, TypeError, ValueError, AttributeError):
        return [*faults, "'port_new' has another form than VLKEB's"]
    texts = [
        text
        for pair in [*follows["hops"].values(), *filter(None, [follows["fact"]])]
        for text in pair
    ]
    if not all(isinstance(text, str) and visible(text) for text in texts):
        return [*faults, "'port_new' has an empty question or answer"]
    return faults + _no_unicode("port_new", "".join(texts))


def _no_unicode(name: str, text: str) -> list[str]:
    """The fault of a field with halves of characters, if it has any."""
    try:
        check_unicode(f"'{name}'", text)
    except BadInput as error:
        return [str(error).partition(":")[0]]
    return []


def _portability(items: list[dict[str, Any]]) -> dict[str, Any]:
    """``hops`` and ``fact`` of an :class:`Annotation`, from either form of ``port_new``."""
    hops: dict[int, tuple[str, str]] = {}
    fact = None
    for item in items:
        if "port_q" in item:
            hops.setdefault(1, (item["port_q"], item["port_a"]))
            fact = item["port_edit_q"], item["port_edit_a"]
        else:
            asked = item["Q&A"]["Question"], item["Q&A"]["Answer"]
            hops.setdefault(HOPS[item["port_type"]], asked)
    return {"hops": hops, "fact": fact}
