"""MMKE-Bench: edits of knowledge in free form, as long texts about photos.

Du et al., *MMKE-Bench: A Multimodal Editing Benchmark for Diverse Visual Knowledge*, ICLR 2025.
There are three kinds of knowledge, each with files and photos of its own: about an entity
(mmke-entity), about what a gesture or an action means (mmke-visual), and about a user's own things
(mmke-user). A record has VLKEB's fields (:mod:`liveedit.data.published.annotations`), in which the
new answer is a text of sentences, and questions about single facts of that text. Their answers have
one of two names in the files, as in ``rel_ans_1`` and ``rel_1_ans``; so they have here.

A case is one record: VLKEB's edit and probes, hard ones in the split "clean" included, and

======================  =========================================================  =========
metric                  question                                                   wanted
======================  =========================================================  =========
detail_text             about a fact of the new text, without an image             new
detail_image            about such a fact and the edit's photo                     new
detail_other_image      the same about the other photo                             new
portability_1hop        what follows, about the edit's photo; of gestures and of   new
                        a user's things about another one, ``one_hop_img``
======================  =========================================================  =========

The paper calls them T-Rel, I-Rel and I-Gen. The authors' loader leaves out records without a
question that follows; here they stay, without the probe.
"""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import AliasChoices, Field

from liveedit.data.published.annotations import Annotation, annotation
from liveedit.data.published.mmedit import CaseMaker, make_cases
from liveedit.data.published.records import (
    PublishedRecord,
    Question,
    Text,
    in_form,
    parse_each,
)
from liveedit.types import Case, Probe

__all__ = ["Knowledge", "entity", "parse_entity", "parse_user", "parse_visual", "user", "visual"]


class Additions(PublishedRecord):
    """The fields that a record has besides VLKEB's."""

    knowledge_type: Text

    @property
    @abstractmethod
    def details(self) -> "list[Detail]":
        """The questions about single facts."""

    @property
    def other_place(self) -> str:
        """The photo about which the question that follows is asked; "" for the edit's."""
        return ""


def _answer(name: str) -> Any:
    """The answer to a numbered question, which has one of two names: m_rel_1_ans, m_rel_ans_1."""
    stem, _, number = name.rpartition("_")
    return Field(validation_alias=AliasChoices(f"{name}_ans", f"{stem}_ans_{number}"))


class EntityAdditions(Additions):
    """Two questions without an image and two about the photo."""

    rel_1: Text
    rel_1_ans: Text = _answer("rel_1")
    rel_2: Text
    rel_2_ans: Text = _answer("rel_2")
    m_rel_1: Text
    m_rel_1_ans: Text = _answer("m_rel_1")
    m_rel_2: Text
    m_rel_2_ans: Text = _answer("m_rel_2")

    @property
    def details(self) -> "list[Detail]":
        """The questions about single facts."""
        return [
            Detail("rel_1", self.rel_1, self.rel_1_ans, ""),
            Detail("rel_2", self.rel_2, self.rel_2_ans, ""),
            Detail("m_rel_1", self.m_rel_1, self.m_rel_1_ans, self.m_rel_1),
            Detail("m_rel_2", self.m_rel_2, self.m_rel_2_ans, self.m_rel_2),
        ]


class UserAdditions(EntityAdditions):
    """The same, and another photo."""

    one_hop_img: Text

    @property
    def other_place(self) -> str:
        """The photo about which the question that follows is asked."""
        return self.one_hop_img


class VisualAdditions(Additions):
    """One question without an image, one about the photo, one about the other photo, and another
    photo.
    """

    rel: Text
    rel_ans: Text
    m_rel: Text
    m_rel_ans: Text
    image_rephrase_question: Text
    one_hop_img: Text

    @property
    def details(self) -> "list[Detail]":
        """The questions about single facts."""
        return [
            Detail("rel", self.rel, self.rel_ans, ""),
            Detail("m_rel", self.m_rel, self.m_rel_ans, self.image_rephrase_question),
        ]

    @property
    def other_place(self) -> str:
        """The photo about which the question that follows is asked."""
        return self.one_hop_img


@dataclass(frozen=True, slots=True)
class Detail:
    """A question about a fact of the new text.

    Arguments:
        field: The field that holds it.
        question: The question.
        answer: Its answer.
        elsewhere: The question as asked about the other photo; "" for one without an image.
    """

    field: str
    question: str
    answer: str
    elsewhere: str


@dataclass(frozen=True, slots=True)
class Knowledge(Annotation):
    """A record: VLKEB's fields, questions about single facts, and the photo of what follows."""

    details: Sequence[Detail] = ()
    other_place: str = ""

    @property
    def questions(self) -> Sequence[Question]:
        """All questions of the record, for the checks."""
        found = [*super(Knowledge, self).questions]  # a class with slots has no super() of its own
        for detail in self.details:
            if not detail.elsewhere:
                found.append(Question(f"'{detail.field}'", detail.question, detail.answer))
                continue
            places = ((detail.question, "image"), (detail.elsewhere, "image_rephrase"))
            for text, image in places:
                shown = getattr(self, image)
                found.append(Question(f"'{detail.field}'", text, detail.answer, shown, image))
        if self.other_place:
            for question, answer in self.hops.values():
                texts = "'port_new'", question, answer
                found.append(Question(*texts, self.other_place, "one_hop_img"))
        return found


def _knowledge(
    form: type[Additions], kind: str, place: str, record: Any
) -> tuple[Knowledge | None, list[str]]:
    """The knowledge of a record, unless it has faults, and those."""
    more, faults = in_form(form, place, record)
    if not isinstance(record, dict):
        return None, faults
    row, others = annotation(place, record)
    if row is None or more is None:
        return None, list(dict.fromkeys(others + faults))
    if more.knowledge_type != kind:
        return None, [f"'knowledge_type' is {more.knowledge_type!r:.40}, not '{kind}'"]
    base = {field.name: getattr(row, field.name) for field in fields(row)}
    return Knowledge(**base, details=more.details, other_place=more.other_place), faults


def parse_entity(file: Path) -> tuple[list[Knowledge], list[str]]:
    """Read the valid records about entities, and one line for each fault of the others.

    Raises :class:`BadInput` for a file that is missing, truncated or not a list of records.
    """
    return parse_each(file, partial(_knowledge, EntityAdditions, "entity_level"))


def parse_visual(file: Path) -> tuple[list[Knowledge], list[str]]:
    """The same for the meanings of gestures and actions."""
    return parse_each(file, partial(_knowledge, VisualAdditions, "visual_knowledge"))


def parse_user(file: Path) -> tuple[list[Knowledge], list[str]]:
    """The same for a user's own things."""
    return parse_each(file, partial(_knowledge, UserAdditions, "user_specific"))


def entity(part: str, seed: int, split: str, prompts: str) -> list[Case]:
    """The cases of the benchmark "mmke-entity"."""
    return make_cases("mmke-entity", part, seed, split, prompts, finish=_detailed)


def visual(part: str, seed: int, split: str, prompts: str) -> list[Case]:
    """The cases of the benchmark "mmke-visual"."""
    return make_cases("mmke-visual", part, seed, split, prompts, finish=_detailed)


def user(part: str, seed: int, split: str, prompts: str) -> list[Case]:
    """The cases of the benchmark "mmke-user"."""
    return make_cases("mmke-user", part, seed, split, prompts, finish=_detailed)


def _detailed(maker: CaseMaker, row: Annotation) -> Case | None:
    """A record of the test with its further probes."""
    if not isinstance(row, Knowledge):
        return None
    case = maker.case(row)
    probes = [_moved(maker, row, probe) for probe in case.probes]
    return replace(case, probes=(*probes, *_details(maker, row)))


def _moved(maker: CaseMaker, row: Knowledge, probe: Probe) -> Probe:
    """The probe; one of portability about the photo that the record names for it."""
    if not row.other_place or not probe.metric.startswith("portability"):
        return probe
    query = maker.visual(row.other_place, probe.query.prompt, probe.query.target)
    return replace(probe, query=query)


def _details(maker: CaseMaker, row: Knowledge) -> Iterator[Probe]:
    for detail in row.details:
        if not detail.elsewhere:
            query = maker.query("{}", detail.question, detail.answer)
            yield Probe("detail_text", query)
            continue
        shown = maker.visual(row.image, detail.question, detail.answer)
        other = maker.visual(row.image_rephrase, detail.elsewhere, detail.answer)
        yield Probe("detail_image", shown)
        yield Probe("detail_other_image", other)
