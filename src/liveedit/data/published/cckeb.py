"""CCKEB: an edit about a photo, an edit in text, and a question that needs both.

Seong et al., *MemEIC: A Step Toward Continual and Compositional Knowledge Editing*, NeurIPS 2025
(arXiv 2510.25798). A record is one of VLKEB, the photo of an entity that gets another one's name
(:mod:`liveedit.data.published.vlkeb`), with ``textual_edit``, a fact about that other entity, and
one item ``comp`` in ``port_new``: a question about the photo whose answer is the edited fact's.

A case edits the photo, then the fact, as the authors do. Its probes are those of VLKEB for the
photo, hard ones in the split "clean" included, and

======================  =================================================  =========
metric                  question                                           wanted
======================  =================================================  =========
text_edit_reliability   the edit of the fact                               new
text_edit_generality    the same in other words                            new
text_edit_locality      an unrelated question, without an image            as before
composition             the question that needs both                       new
======================  =================================================  =========

Records without the edit in text, or without the composed question, are left out, as by the authors'
loader. Their protocol is ``gap`` with gaps of 0 to 100 pairs of edits, over 500 pairs.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from liveedit.data.published.annotations import Annotation, annotation
from liveedit.data.published.mmedit import CaseMaker, make_cases
from liveedit.data.published.records import (
    Blank,
    PublishedRecord,
    Question,
    Text,
    in_form,
    parse_each,
)
from liveedit.types import Case, Probe, Query

__all__ = ["Pair", "TextualEdit", "cckeb", "parse"]


class TextualEdit(BaseModel):
    """The edit in text; a new answer in parts is joined by spaces."""

    model_config = ConfigDict(frozen=True, strict=True)

    src: Text
    alt: Text | list[Text]
    rephrase: Text
    loc: Text
    loc_ans: Text

    @property
    def target(self) -> str:
        """The new answer."""
        return self.alt if isinstance(self.alt, str) else " ".join(self.alt)


class Asked(BaseModel):
    """The question of a :class:`Port`; its published answer is the one before the edit in text."""

    model_config = ConfigDict(frozen=True, strict=True)

    question: Text = Field(alias="Question")


class Port(BaseModel):
    """A question about the photo; only those of the type "comp" are used."""

    model_config = ConfigDict(frozen=True, strict=True)

    port_type: Blank
    asked: Asked = Field(alias="Q&A")


class Additions(PublishedRecord):
    """The fields that a record has besides VLKEB's."""

    textual_edit: TextualEdit | None = None
    port_new: list[Port] = Field(default_factory=list)

    @property
    def composed(self) -> str:
        """The first question that needs both edits; "" if there is none."""
        return next((port.asked.question for port in self.port_new if port.port_type == "comp"), "")


@dataclass(frozen=True, slots=True)
class Pair(Annotation):
    """A record: VLKEB's fields, the edit in text if there is one, and the composed question."""

    textual: TextualEdit | None = None
    composed: str = ""

    @property
    def questions(self) -> Sequence[Question]:
        """All questions of the record, for the checks."""
        found = [*super(Pair, self).questions]  # a class with slots has no super() of its own
        if self.textual is not None:
            edit = self.textual
            found.append(Question("'textual_edit'", edit.src, edit.target))
            found.append(Question("'textual_edit'", edit.rephrase, edit.target))
            found.append(Question("'textual_edit'", edit.loc, edit.loc_ans))
            if self.composed:
                found.append(
                    Question("'port_new'", self.composed, edit.target, self.image, "image")
                )
        return found


def parse(file: Path) -> tuple[list[Pair], list[str]]:
    """Read the valid records of a file, and one line for each fault of the others.

    Raises :class:`BadInput` for a file that is missing, truncated or not a list of records.
    """
    return parse_each(file, _pair)


def _pair(place: str, record: Any) -> tuple[Pair | None, list[str]]:
    """The pair of edits of a record, unless it has faults, and those."""
    more, faults = in_form(Additions, place, record)
    if not isinstance(record, dict):
        return None, faults
    row, others = annotation(place, {**record, "port_new": []})
    if row is None or more is None:
        return None, others + faults
    base = {field.name: getattr(row, field.name) for field in fields(row)}
    return Pair(**base, textual=more.textual_edit, composed=more.composed), faults


def cckeb(part: str, seed: int, split: str, prompts: str) -> list[Case]:
    """The cases of the benchmark "cckeb": pairs in the test, and edits of photos in training."""
    return make_cases("cckeb", part, seed, split, prompts, finish=_composed)


def _composed(maker: CaseMaker, row: Annotation) -> Case | None:
    """Both edits of a pair, and what follows from them; nothing for a record that is no pair."""
    if not isinstance(row, Pair) or row.textual is None or not row.composed:
        return None
    case = maker.case(row)
    text = row.textual
    fact = f"text:{text.src}"
    edit = Query(text.src.strip(), text.target.strip(), fact=fact)
    reworded = Query(text.rephrase.strip(), edit.target, fact=fact)
    composed = maker.visual(row.image, row.composed, edit.target)
    probes = (
        Probe("text_edit_reliability", edit),
        Probe("text_edit_generality", reworded),
        Probe("text_edit_locality", Query(text.loc.strip(), text.loc_ans.strip()), "before"),
        Probe("composition", composed),
    )
    return Case(case.id, (*case.edits, edit), (*case.probes, *probes))
