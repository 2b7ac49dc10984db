"""MC-MKE: one fact in two forms, through a picture and in text, and edits of either form.

Zhang et al., *MC-MKE: A Fine-Grained Multimodal Knowledge Editing Benchmark Emphasizing Modality
Consistency*, Findings of ACL 2025. A fact asked through a picture has two steps: which entity the
picture shows (IE), and what relation that entity has to which object (SRO in text, IRO through the
picture). Each kind of edit has files of its own:

==========  =======================================  ===========================================
benchmark   edit                                     ``consistency``: what must then hold
==========  =======================================  ===========================================
mc-mke-ie   the entity in the picture is another     the object of the new entity, through the
            one                                      picture
mc-mke-iro  the object of the entity in the picture  the same object, in text
            is another one
mc-mke-sro  the same in text, without a picture      the same object, through the picture
==========  =======================================  ===========================================

An edit is the cloze of the reliability test ("The country in the picture is"). The other probes are

================  ================================================================  =========
metric            question                                                          wanted
================  ================================================================  =========
reliability       the edit itself                                                   new
text_generality   five questions for the fact                                       new
image_generality  the cloze about five other pictures of the entity; not in SRO     new
image_locality,   the question of five other records about their pictures; in SRO   as before
text_locality     without pictures
consistency       as above; in IE not for the 392 records whose answer the edit     new
                  does not change
================  ================================================================  =========

All answers have aliases. The published score is whether the answer contains one of them, which is
``contains`` but for spaces and a final full stop.

As published (split "paper"), the second edit of a fact contradicts the first, and the locality
probes ask for facts that other records edit. So the split "clean" edits each fact once, by its
first record, and one fact in :data:`HELD_OUT` not at all: locality probes are those about these,
and where a record has none, one of another record. In both splits a picture is the
file of its name in the folder of images; the published paths are of the authors' machine.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar, cast

from pydantic import BaseModel, ConfigDict, Field

from liveedit.data.published.locations import location, rows
from liveedit.data.published.parts import check_part, in_order
from liveedit.data.published.records import Blank, PublishedRecord, Question, Text, load, parse_as
from liveedit.data.published.sources import source
from liveedit.errors import BadInput
from liveedit.types import Case, Probe, Query, visible

__all__ = ["HELD_OUT", "ie", "iro", "parse", "sro"]

HELD_OUT = 8
"""One fact in so many is not edited in the split "clean"."""


Kind = Literal["ie", "iro", "sro"]
FILES = source("mc-mke").files
"""The annotation files by kind and test; those without a test are the edits."""

# The published form

NAMES: dict[Kind, dict[str, str]] = {
    "ie": {
        "index": "ie_edit_input_idx",
        "entity": "e_ent", "cloze": "ie_cloze", "new": "new_e_ent", "aliases": "new_e_ent_alias",
        "wordings": "ie_question_paraphrases", "pictures": "generality_images",
        "negatives": "locality_test_dict", "question": "ie_question", "stays": "orig_loc_ent",
        "other_form": "consistency_iro_input_cloze", "shown": "consistency_iro_image",
        "follows": "consistency_iro_output", "follows_aliases": "consistency_iro_output_alias",
    },
    "iro": {
        "index": "iro_edit_input_idx",
        "entity": "s", "edited_relation": "r",
        "cloze": "iro_cloze", "new": "new_o", "aliases": "new_o_alias",
        "wordings": "iro_question_paraphrases", "pictures": "generality_images",
        "negatives": "locality_test_dict",
        "question": "iro_question", "stays": "orig_loc_output_ent",
        "other_form": "consistency_sro_cloze", "shown": "consistency_image",
        "follows": "new_o", "follows_aliases": "new_o_alias",
    },
    "sro": {
        "index": "sro_edit_input_idx",
        "entity": "s", "edited_relation": "r", "new": "new_o", "aliases": "new_o_alias",
        "wordings": "sro_question_paraphrases",
        "negatives": "locality_test_dict",
        "question": "sro_question", "stays": "orig_loc_output_ent",
        "other_form": "consistency_data_irocloze", "shown": "consistency_data_image",
        "follows": "consistency_new_o", "follows_aliases": "consistency_new_o_alias",
    },
}  # fmt: skip
"""The published names of the fields, by kind; the others have the published name here, too."""


def names(kind: Kind) -> Callable[[str], str]:
    """The published names of one kind."""
    return lambda name: NAMES[kind].get(name, name)


class Edit(PublishedRecord):
    """An edit; for IE no relation is edited."""

    index: int
    entity: Text
    cloze: Text
    new: Text
    aliases: list[Blank]
    images: list[Text] = Field(min_length=1)
    edited_relation: Blank = ""

    @property
    def fact(self) -> str:
        """The fact that is edited: which entity it is, or which object the entity has."""
        return f"{self.entity}:{self.edited_relation}" if self.edited_relation else self.entity

    @property
    def image(self) -> str:
        """The picture; "" for an edit in text."""
        return picture(self.images[0]) if self.images else ""

    @property
    def questions(self) -> Sequence[Question]:
        """The cloze with the new answer."""
        return [Question("the edit", self.cloze, self.new, self.image, "images")]


class TextEdit(Edit):
    """An edit in text."""

    images: list[Text] = Field(default_factory=list)


class Wordings(PublishedRecord):
    """The test of text generality."""

    index: int
    wordings: list[Text]

    @property
    def questions(self) -> Sequence[Question]:
        """The questions, whose answers are in the edit."""
        return [Question("a paraphrase", text, "") for text in self.wordings]


class Pictures(PublishedRecord):
    """The test of image generality."""

    index: int
    cloze: Text
    pictures: list[Text]

    @property
    def questions(self) -> Sequence[Question]:
        """The cloze about each picture, whose answer is in the edit."""
        images = map(picture, self.pictures)
        return [
            Question("the cloze", self.cloze, "", image, "generality_images") for image in images
        ]


class Negative(BaseModel):
    """A question that another record edits, and its answer before; ``image`` is empty in text."""

    model_config = ConfigDict(frozen=True, strict=True)

    image: Blank
    question: Text
    stays: Text


Digits = Annotated[str, Field(pattern=r"^\d+$")]
N = TypeVar("N", bound=Negative)
M = TypeVar("M", bound=BaseModel)


class Negatives(PublishedRecord, Generic[N]):
    """The test of locality, by the index of the other record."""

    index: int
    negatives: dict[Digits, N]

    @property
    def questions(self) -> Sequence[Question]:
        """The questions."""
        return [
            Question("a locality test", row.question, row.stays, picture(row.image), "image")
            for row in self.negatives.values()
        ]


class Consistent(PublishedRecord):
    """The test of consistency; ``shown`` is empty in text."""

    index: int
    other_form: Text
    shown: Blank
    follows: Text
    follows_aliases: list[Blank]

    @property
    def questions(self) -> Sequence[Question]:
        """The cloze in the other form."""
        shown = picture(self.shown)
        return [Question("the consistency test", self.other_form, self.follows, shown, "image")]


@dataclass(frozen=True, slots=True)
class Unchanged:
    """The index of an IE record whose consistency test has the answer from before the edit."""

    number: int
    index: int
    questions: Sequence[Question] = ()


def _in_kind(form: type[M], kind: Kind) -> type[M]:
    """The form with the published names of a kind."""
    made: type[M] = type(form.__name__, (form,), {}, alias_generator=names(kind))
    return made


def _negatives(kind: Kind) -> type[Negatives]:
    form: Any = Negatives.__class_getitem__(_in_kind(Negative, kind))
    made: type[Negatives] = _in_kind(form, kind)
    return made


FORMS: dict[str, Callable[[Kind], type[PublishedRecord]]] = {
    "": lambda kind: _in_kind(TextEdit if kind == "sro" else Edit, kind),
    "text": lambda kind: _in_kind(Wordings, kind),
    "image": lambda kind: _in_kind(Pictures, kind),
    "locality": _negatives,
    "consistency": lambda kind: _in_kind(Consistent, kind),
}
"""The forms of the files of a kind, by test."""


def parse(file: Path) -> tuple[list[Any], list[str]]:
    """Read the valid records of a file, and one line for each fault of the others.

    Raises :class:`BadInput` for a file that is missing, truncated or not a list of records.
    """
    role = next(role for role, name in FILES.items() if name == file.name)
    kind, _, test = role.partition(" ")
    if test == "unchanged":
        return _unchanged(file)
    return parse_as(file, FORMS[test](cast("Kind", kind)))


def _unchanged(file: Path) -> tuple[list[Unchanged], list[str]]:
    rows = []
    faults = []
    for number, index in enumerate(load(file)):
        if isinstance(index, int):
            rows.append(Unchanged(number, index))
        else:
            faults.append(f"{file.name}, record {number}: not a whole number but {index!r:.40}")
    return rows, faults


# Cases


def ie(part: str, seed: int, split: str, prompts: str) -> list[Case]:  # noqa: ARG001
    """The cases of the benchmark "mc-mke-ie"; both forms of prompts are the published one."""
    return _cases("ie", part, seed, split)


def iro(part: str, seed: int, split: str, prompts: str) -> list[Case]:  # noqa: ARG001
    """The cases of the benchmark "mc-mke-iro"; both forms of prompts are the published one."""
    return _cases("iro", part, seed, split)


def sro(part: str, seed: int, split: str, prompts: str) -> list[Case]:  # noqa: ARG001
    """The cases of the benchmark "mc-mke-sro"; both forms of prompts are the published one."""
    return _cases("sro", part, seed, split)


def _cases(kind: Kind, part: str, seed: int, split: str) -> list[Case]:
    name = f"mc-mke-{kind}"
    check_part(name, part, ("test",))
    maker = CaseMaker(kind, clean=split == "clean")
    return in_order([maker.case(edit) for edit in maker.edited], name, part, seed)


class CaseMaker:
    """Maker of the cases of one kind.

    Arguments:
        kind: The kind of edits.
        clean: Whether no two edits, and no edit and locality probe, may contradict each other.

    Raises :class:`BadInput` if the benchmark was not added or is faulty.
    """

    def __init__(self, kind: Kind, *, clean: bool) -> None:
        self.kind = kind
        self.images = location("mc-mke").images
        edits: list[Edit] = rows("mc-mke", kind)
        self.facts = {edit.index: edit.fact for edit in edits}
        self.wordings: dict[int, Wordings] = self._read("text")
        self.pictures: dict[int, Pictures] = {} if kind == "sro" else self._read("image")
        self.negatives: dict[int, Negatives] = self._read("locality")
        self.consistent: dict[int, Consistent] = self._read("consistency")
        unchanged = rows("mc-mke", "ie unchanged") if kind == "ie" else []
        self.unchanged = {row.index for row in unchanged}
        facts = list(dict.fromkeys(self.facts.values()))
        self.asked = set(facts[HELD_OUT - 1 :: HELD_OUT] if clean else facts)
        """The facts that locality probes may ask for."""
        first = {edit.fact: edit for edit in reversed(edits)}
        kept = [first[fact] for fact in facts if fact not in self.asked]
        self.edited = kept if clean else edits
        found = [self._asked(row) for row in self.negatives.values()]
        self.others = list(chain.from_iterable(found))

    def _read(self, test: str) -> dict[int, Any]:
        """The records of a test by the index of their edit, at least one for each edit.

        Raises :class:`BadInput` for a test without the record of an edit.
        """
        role = f"{self.kind} {test}"
        found = {row.index: row for row in rows("mc-mke", role)}
        if missing := sorted(self.facts.keys() - found.keys()):
            raise BadInput(
                f"{FILES[role]} has no record of edit {missing[0]}: download both files again"
            )
        return found

    def _asked(self, row: Negatives) -> list[tuple[str, Negative]]:
        """The locality probes of a record that may be asked, with their facts."""
        found = [(self.facts.get(int(index)), other) for index, other in row.negatives.items()]
        return [(fact, other) for fact, other in found if fact in self.asked]

    def case(self, edit: Edit) -> Case:
        """The edit of a record and all its probes."""
        query = self.query(edit.cloze, edit.new, edit.image, edit.fact)
        probes = [Probe("reliability", query)]
        for text in self.wordings[edit.index].wordings:
            probes.append(Probe("text_generality", replace(query, prompt=text.strip())))
        if self.pictures:
            for image in self.pictures[edit.index].pictures:
                shown = replace(query, image=self.images / picture(image))
                probes.append(Probe("image_generality", shown))
        probes = [replace(probe, aliases=seen(edit.aliases)) for probe in probes]
        probes += self._locality(edit)
        if self.kind != "ie" or edit.index not in self.unchanged:
            probes.append(self._consistency(edit))
        return Case(f"{self.kind}:{edit.index}", (query,), tuple(probes))

    def _locality(self, edit: Edit) -> list[Probe]:
        """The probes that must stay as before."""
        metric = "text_locality" if self.kind == "sro" else "image_locality"
        found = self._asked(self.negatives[edit.index])
        if not found and self.others:
            found = [self.others[edit.index % len(self.others)]]
        return [
            Probe(metric, self.query(row.question, row.stays, row.image, fact), "before")
            for fact, row in found
        ]

    def _consistency(self, edit: Edit) -> Probe:
        row = self.consistent[edit.index]
        fact = "" if self.kind == "ie" else edit.fact
        query = self.query(row.other_form, row.follows, row.shown, fact)
        return Probe("consistency", query, aliases=seen(row.follows_aliases))

    def query(self, question: str, answer: str, image: str, fact: str) -> Query:
        """A question, about a picture if a path is given."""
        shown = self.images / picture(image) if image else None
        return Query(question.strip(), answer.strip(), shown, fact)


def picture(path: str) -> str:
    """The name of a picture's file."""
    return path.rpartition("/")[2]


def seen(aliases: Sequence[str]) -> tuple[str, ...]:
    """Aliases that can be read."""
    return tuple(alias.strip() for alias in aliases if visible(alias))
