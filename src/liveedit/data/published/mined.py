"""MINED: facts that change with time, and the succession of their answers.

Jiang et al., *MINED: Probing and Updating with Multimodal Time-Sensitive Knowledge for Large
Multimodal Models*, 2025 (arXiv 2510.19457). A record is about a subject in a photo, such as a
company, and one of its properties, such as who leads it, with all answers so far and their dates.
Of the eleven files, those that an edit can be measured by are read: the current answers, and the
questions for those of a year or a span of years.

================  =================================================================
benchmark         edits of a case
================  =================================================================
mined             the current answer
mined-succession  the answer before it, then the current one: the newest must win
================  =================================================================

The probes of both are

=========================  ==========================================================  =========
metric                     question                                                    wanted
=========================  ==========================================================  =========
reliability                the edit itself                                             new
text_generality            a cloze in place of the question                            new
image_generality           the question about another photo of the subject             new
text_image_generality      the cloze about the other photo                             new
same_image_other_question  what the answer was in a year, or from one year to another  as before
=========================  ==========================================================  =========

The last is in the split "clean" only, where the files are given and the answer is another than the
current one. That split also has each fact once, and only records whose current answer has the
latest start of all their answers: of the others the published answer is outdated. The published
scores, cover exact match and F1, are of answers to an instruction that asks for a name alone; here
the question is asked by itself, and ``contains`` stands for the first.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from liveedit.data.published.locations import location, locations, rows
from liveedit.data.published.parts import check_part, in_order
from liveedit.data.published.records import PublishedRecord, Question, Text, parse_as
from liveedit.types import Case, Probe, Query

__all__ = ["Dated", "mined", "parse", "succession"]

START = re.compile(r"\|S: ?\+(\d+)-(\d+)-(\d+)T")
"""The day on which an answer began to hold; unknown parts are 0."""


class Dated(PublishedRecord):
    """A question about a photo whose answer depends on the time.

    Each of ``answers`` is a name with dates: "Ann Example |S: +2011-00-00T00:00:00Z |E: …".
    """

    subject: Text
    mm_questions: Text
    mm_paraphrase_completion: Text
    image: Text
    paraphrase_image: Text
    current_answer: Text
    answers: list[Text]

    @property
    def fact(self) -> str:
        """The fact that is asked for."""
        return f"{self.subject}:{self.mm_questions}"

    @property
    def newest(self) -> str:
        """The answer that began last."""
        return name_of(max(self.answers, key=start_of))

    @property
    def earlier(self) -> str:
        """The last of the other answers, in the order of their starts; "" if there is none."""
        others = [text for text in self.answers if name_of(text) != self.current_answer]
        return name_of(max(others, key=start_of)) if others else ""

    @property
    def questions(self) -> Sequence[Question]:
        """The question and the cloze, each about both photos."""
        found = []
        for field in ("mm_questions", "mm_paraphrase_completion"):
            texts = f"'{field}'", getattr(self, field), self.current_answer
            found.append(Question(*texts, self.image, "image"))
            found.append(Question(*texts, self.paraphrase_image, "paraphrase_image"))
        return found


def name_of(answer: str) -> str:
    """An answer without its dates."""
    return answer.partition("|")[0].strip()


def start_of(answer: str) -> tuple[int, ...]:
    """Year, month and day of an answer's start; nothing, which is before all of them, without."""
    found = START.search(answer)
    return tuple(map(int, found.groups())) if found else ()


def parse(file: Path) -> tuple[list[Any], list[str]]:
    """Read the valid records of a file, and one line for each fault of the others.

    Raises :class:`BadInput` for a file that is missing, truncated or not a list of records.
    """
    return parse_as(file, Dated)


def mined(part: str, seed: int, split: str, prompts: str) -> list[Case]:  # noqa: ARG001
    """The cases of the benchmark "mined"; both forms of prompts are the published one."""
    return _cases("mined", part, seed, split, lambda row: [row.current_answer])


def succession(part: str, seed: int, split: str, prompts: str) -> list[Case]:  # noqa: ARG001
    """The cases of the benchmark "mined-succession": records with an answer before the current."""
    return _cases("mined-succession", part, seed, split, _in_succession)


def _in_succession(row: Dated) -> list[str]:
    return [row.earlier, row.current_answer] if row.earlier else []


def _cases(
    name: str, part: str, seed: int, split: str, answers: Callable[[Dated], list[str]]
) -> list[Case]:
    """Cases whose edits are the ``answers`` to a record, one after another."""
    check_part(name, part, ("test",))
    records: list[Dated] = rows("mined", "test")
    others: list[Dated] = []
    if split == "clean":
        records = _one_each(row for row in records if row.current_answer == row.newest)
        for role in ("timestamp", "interval"):
            if role in locations()["mined"].files:
                others += rows("mined", role)
    images = location("mined").images
    cases = []
    for row in records:
        asked = Query(row.mm_questions.strip(), "", images / row.image, row.fact)
        edits = [replace(asked, target=answer.strip()) for answer in answers(row)]
        if edits:
            past = _past(row, edits[-1], others)
            probes = (*_new(row, edits[-1], images), *past)
            cases.append(Case(row.place, tuple(edits), probes))
    return in_order(cases, name, part, seed)


def _one_each(records: Iterable[Dated]) -> list[Dated]:
    """The first record of each fact."""
    first: dict[str, Dated] = {}
    for row in records:
        first.setdefault(row.fact, row)
    return list(first.values())


def _new(row: Dated, edit: Query, images: Path) -> list[Probe]:
    """The probes that want the answer of the last edit."""
    cloze = replace(edit, prompt=row.mm_paraphrase_completion.strip())
    other = images / row.paraphrase_image
    return [
        Probe("reliability", edit),
        Probe("text_generality", cloze),
        Probe("image_generality", replace(edit, image=other)),
        Probe("text_image_generality", replace(cloze, image=other)),
    ]


def _past(row: Dated, edit: Query, others: Sequence[Dated]) -> Iterator[Probe]:
    """The questions for another time than now, of the same subject and photo."""
    for other in others:
        if other.image == row.image and other.current_answer != row.current_answer:
            query = replace(
                edit,
                prompt=other.mm_questions.strip(),
                target=other.current_answer,
                fact=other.fact,
            )
            yield Probe("same_image_other_question", query, "before")
