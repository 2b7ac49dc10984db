"""LiveVQA: pictures of what is newer than a model, edited one by one, and the fact behind each.

LiveVQA (github.com/fumingyang2004/LIVEVQA) has pictures from news, papers and videos, each with two
questions. Level 1 asks for the thing in the picture, level 2 for a fact behind it, which the
picture does not show. It was published to ask models with; here level 1 is edited, then level 2 is
asked.

=================  =====================================================================  =========
metric             question                                                               wanted
=================  =====================================================================  =========
reliability        the edit: level 1                                                      new
portability_1hop   level 2                                                                new
question_alone     level 1 without the picture                                            as before
image_locality     another question, level 1 of a record that is not edited               as before
look_alike_image   the edit's question, where such a record has it, about its picture     as before
=================  =====================================================================  =========

The last three are in the split "clean", where one record in :data:`HELD_OUT` is not edited. An
answer is the first of ``Ground_Truth_List``, the others are its aliases. The options are not shown.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from liveedit.data.published.locations import location, rows
from liveedit.data.published.parts import check_part, in_order
from liveedit.data.published.records import PublishedRecord, Question, Text, parse_as
from liveedit.types import Case, Probe, Query

__all__ = ["HELD_OUT", "Pictured", "news", "paper", "parse", "video"]

HELD_OUT = 8
"""One record in so many is not edited in the split "clean"."""


class Level(BaseModel):
    """A question and its answer with the answer's aliases."""

    model_config = ConfigDict(frozen=True, strict=True)

    question: Text
    answers: list[Text] = Field(alias="Ground_Truth_List", min_length=1)


class Pictured(PublishedRecord):
    """A picture with its two questions."""

    img_path: Text
    level1_qa: Level
    level2_qa: Level

    @property
    def questions(self) -> Sequence[Question]:
        """Both questions."""
        return [
            Question("'level1_qa'", *self.asked(self.level1_qa), self.img_path, "img_path"),
            Question("'level2_qa'", *self.asked(self.level2_qa), self.img_path, "img_path"),
        ]

    @staticmethod
    def asked(level: Level) -> tuple[str, str]:
        """The question of a level and its answer."""
        return level.question.strip(), level.answers[0].strip()

    def query(self, level: Level, images: Path) -> Query:
        """The question of a level about the picture."""
        question, answer = self.asked(level)
        return Query(question, answer, images / self.img_path, f"{self.img_path}:{question}")


def parse(file: Path) -> tuple[list[Any], list[str]]:
    """Read the valid records of a file, and one line for each fault of the others.

    Raises :class:`BadInput` for a file that is missing, truncated or not a list of records.
    """
    return parse_as(file, Pictured)


def news(part: str, seed: int, split: str, prompts: str) -> list[Case]:  # noqa: ARG001
    """The cases of the benchmark "livevqa-news"; both forms of prompts are the published one."""
    return _cases("livevqa-news", part, seed, split)


def paper(part: str, seed: int, split: str, prompts: str) -> list[Case]:  # noqa: ARG001
    """The cases of the benchmark "livevqa-paper"; both forms of prompts are the published one."""
    return _cases("livevqa-paper", part, seed, split)


def video(part: str, seed: int, split: str, prompts: str) -> list[Case]:  # noqa: ARG001
    """The cases of the benchmark "livevqa-video"; both forms of prompts are the published one."""
    return _cases("livevqa-video", part, seed, split)


def _cases(name: str, part: str, seed: int, split: str) -> list[Case]:
    check_part(name, part, ("test",))
    images = location(name).images
    records: list[Pictured] = rows(name, "test")
    held = records[HELD_OUT - 1 :: HELD_OUT] if split == "clean" else []
    others = [row.query(row.level1_qa, images) for row in held]
    kept = {row.place for row in held}
    cases = []
    for row in records:
        if row.place not in kept:
            case = _case(row, images)
            hard = _hard(row.number, case.edits[0], others) if split == "clean" else ()
            cases.append(replace(case, probes=(*case.probes, *hard)))
    return in_order(cases, name, part, seed)


def _case(row: Pictured, images: Path) -> Case:
    """The edit of a record and what lies behind it."""
    edit = row.query(row.level1_qa, images)
    behind = row.query(row.level2_qa, images)
    probes = (
        Probe("reliability", edit, aliases=tuple(row.level1_qa.answers[1:])),
        Probe("portability_1hop", behind, aliases=tuple(row.level2_qa.answers[1:])),
    )
    return Case(row.place, (edit,), probes)


def _hard(number: int, edit: Query, others: Sequence[Query]) -> Iterator[Probe]:
    """The probes that must stay, with one of the ``others``, which are not edited, by turns."""
    yield Probe("question_alone", replace(edit, image=None, fact=""), "before")
    alike = [other for other in others if other.prompt == edit.prompt]
    unlike = [other for other in others if other.prompt != edit.prompt]
    for metric, found in (("image_locality", unlike), ("look_alike_image", alike)):
        if found:
            yield Probe(metric, found[number % len(found)], "before")
