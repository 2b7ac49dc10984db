"""Annotation files of E-VQA, E-IC and VLKEB: JSON lists of flat records, checked while reading.

The fields keep their published names:

===================================  =============================================================
``image``, ``src``, ``alt``          the edit: an image, a question about it and the new answer
``pred``                             the old answer; no metric uses it
``rephrase``                         the question in other words
``image_rephrase``                   another image of the same thing
``loc``, ``loc_ans``                 a question from Natural Questions, without image, and its
                                     answer, which must stay
``m_loc``, ``m_loc_q``, ``m_loc_a``  an image, a question about it and its answer, which must stay
``port_new``                         in VLKEB only: questions whose answers follow from the edit
===================================  =============================================================

``port_new`` has two forms. In ``eval_edit_onehop.json`` it is one item with ``port_q`` and
``port_a``, a question about the edit's image, and ``port_edit_q`` and ``port_edit_a``, a fact
without image that may be edited as well. In ``eval_multihop.json`` it is a list of
``{"port_type": "1-hop", "Q&A": {"Question": …, "Answer": …}}``, up to 4 hops. Of several questions
with the same number of hops the first counts, as in VLKEB's loader.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from liveedit.data.published.records import Question, no_unicode, parse_each, read_rows, repeated
from liveedit.types import visible

__all__ = ["FIELDS", "Annotation", "annotation", "parse", "read"]

FIELDS = (
    "src", "rephrase", "pred", "alt", "image", "image_rephrase",
    "loc", "loc_ans", "m_loc", "m_loc_q", "m_loc_a",
)  # fmt: skip
ASKED = (
    ("src", "alt", "image"), ("rephrase", "alt", "image"), ("src", "alt", "image_rephrase"),
    ("loc", "loc_ans", ""), ("m_loc_q", "m_loc_a", "m_loc"),
)  # fmt: skip
"""The fields of each question, its answer and its image, if any."""
MAY_BE_EMPTY = {"pred"}
HOPS = {"1-hop": 1, "2-hop": 2, "3-hop": 3, "4-hop": 4}


@dataclass(frozen=True, slots=True)
class Annotation:
    """One record of an annotation file; most fields are described in the module.

    ``id`` is the file's name and the record's index in it ("eval:0"). ``hops`` maps a number of
    hops to the (question, answer) that follows from the edit; ``fact`` is the (question, answer)
    that may be edited as well.
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
        """Index of the record in its file, from 0."""
        return int(self.id.rpartition(":")[2])

    @property
    def images(self) -> tuple[str, str, str]:
        """Paths of the edit's image, its rephrase and the locality image."""
        return self.image, self.image_rephrase, self.m_loc

    @property
    def questions(self) -> Sequence[Question]:
        """All questions of the record, for the checks."""
        found = []
        for question, answer, image in ASKED:
            fields = f"'{question}' and '{answer}'"
            shown = getattr(self, image) if image else ""
            texts = getattr(self, question), getattr(self, answer)
            found.append(Question(fields, *texts, shown, image))
        for pair in self.hops.values():
            found.append(Question("'port_new'", *pair, self.image, "image"))
        if self.fact is not None:
            found.append(Question("'port_new'", *self.fact))
        return found


def read(file: Path) -> list[Annotation]:
    """Read all records of a file. Raises :class:`BadInput` with the first fault, if any."""
    return read_rows(file, parse)


def parse(file: Path) -> tuple[list[Annotation], list[str]]:
    """Read the valid records of a file, and one line for each fault of the others.

    Raises :class:`BadInput` for a file that is missing, truncated or not a list of records.
    """
    return parse_each(file, annotation)


def annotation(place: str, record: Any) -> tuple[Annotation | None, list[str]]:
    """The annotation of a record, unless it has faults, and those."""
    faults = _faults(record)
    if faults:
        return None, faults
    texts = {name: record[name] for name in FIELDS}
    hops, fact = _portability(record.get("port_new", []))
    return Annotation(place, **texts, hops=hops, fact=fact), []


def _faults(record: Any) -> list[str]:
    """The faults of one record."""
    if not isinstance(record, dict):
        return ["not a record but " + type(record).__name__]
    faults = repeated(record)
    for name in FIELDS:
        if name not in record:
            faults.append(f"'{name}' is missing")
        elif not isinstance(record[name], str):
            faults.append(f"'{name}' is {type(record[name]).__name__}, not text")
        elif not visible(record[name]) and name not in MAY_BE_EMPTY:
            faults.append(f"'{name}' is empty")
        else:
            faults += no_unicode(name, record[name])
    try:
        hops, fact = _portability(record.get("port_new", []))
    except (KeyError, TypeError, ValueError, AttributeError):
        return [*faults, "'port_new' has another form than VLKEB's"]
    texts = [*chain(*hops.values()), *(fact or ())]
    if not all(isinstance(text, str) and visible(text) for text in texts):
        return [*faults, "'port_new' has an empty question or answer"]
    return faults + no_unicode("port_new", "".join(texts))


def _portability(
    items: list[dict[str, Any]],
) -> tuple[dict[int, tuple[str, str]], tuple[str, str] | None]:
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
    return hops, fact
