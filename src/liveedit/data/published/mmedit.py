"""E-VQA and E-IC, MMEdit's benchmarks: edits of answers about COCO photos, and of their captions.

Cheng et al., *Can We Edit Multimodal Large Language Models?*, EMNLP 2023 (arXiv 2310.08475),
section 3. E-VQA corrects answers to VQAv2 questions, E-IC corrects captions. BLIP-2 got all of them
wrong; an edit gives the true answer or caption. VLKEB's files have the same form, and
:mod:`liveedit.data.published.vlkeb` makes its cases with this module.

A case is one record. The published probes are

================  ===============================================================  =========
metric            question                                                         wanted
================  ===============================================================  =========
reliability       the edit itself                                                  new
text_generality   the same image, the question in other words                      new
image_generality  the question about an image generated from COCO's captions       new
text_locality     a question from Natural Questions, without an image              as before
image_locality    a question from OK-VQA about another image                       as before
================  ===============================================================  =========

and the split "clean" adds hard probes, where the records allow:

=========================  ======================================================  =========
metric                     question                                                wanted
=========================  ======================================================  =========
question_alone             the edit's question without an image                    as before
image_alone                :data:`NEUTRAL` about the edit's image; not in E-IC,    as before
                           which edits captions
same_image_other_question  another record's question about the edit's image        as before
look_alike_image           the edit's question, as another record asks it about    as before
                           an image of another subject
=========================  ======================================================  =========

No test case edits a fact that a hard probe asks for, nor any question about that image with the
same answer, since that might be the same question reworded. Training contains none of these probes
(:func:`liveedit.data.published.leaks.clean`).
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from liveedit.data.published.annotations import Annotation
from liveedit.data.published.leaks import clean
from liveedit.data.published.locations import annotations, location
from liveedit.data.published.neighbours import Neighbours
from liveedit.data.published.parts import check_part, in_order
from liveedit.data.published.sources import Source, source
from liveedit.types import Case, Probe, Query

__all__ = ["NEUTRAL", "PAPER", "CaseMaker", "Templates", "e_ic", "e_vqa", "make_cases"]

NEUTRAL = "Describe the image."
"""Prompt of ``image_alone``."""

NQ = "nq question: "
"""Prefix of MMEdit's questions from Natural Questions."""


@dataclass(frozen=True, slots=True)
class Templates:
    """Templates of prompts, with ``{}`` for the question; by default questions stay as they are.

    Only questions from Natural Questions get a question mark, which their source leaves out.
    """

    edit: str = "{}"
    text_locality: str = "{}?"
    image_locality: str = "{}"


PAPER = {
    "e-vqa": Templates("{} The answer is:", "{}?", "{} The answer is:"),
    "e-ic": Templates("{}", "{}?", "{} The answer is:"),
    "vlkeb": Templates("{}", "{}?", "{} The answer is:"),
}
"""The templates that LiveEdit's authors released, for use with the unchanged texts."""
AS_PUBLISHED = Templates(text_locality="{}")
"""The templates of other benchmarks' papers: none."""


def e_vqa(part: str, seed: int, split: str, prompts: str) -> list[Case]:
    """The cases of the benchmark "e-vqa"; see :func:`make_cases`."""
    return make_cases("e-vqa", part, seed, split, prompts)


def e_ic(part: str, seed: int, split: str, prompts: str) -> list[Case]:
    """The cases of the benchmark "e-ic"; see :func:`make_cases`."""
    return make_cases("e-ic", part, seed, split, prompts)


def make_cases(
    name: str,
    part: str,
    seed: int,
    split: str,
    prompts: str,
    *,
    role: Literal["test", "onehop", "multihop"] = "test",
    finish: Callable[["CaseMaker", Annotation], Case | None] | None = None,
) -> list[Case]:
    """Make the cases of a published benchmark, one per record.

    Arguments:
        name: Name of the benchmark's files.
        part: ``"train"`` or ``"test"``.
        seed: Seed of the order; 0: the order of the file.
        split: ``"clean"`` or ``"paper"``.
        prompts: ``"plain"`` or ``"paper"``.
        role: File of the test.
        finish: Makes the case of a record of the test, or ``None`` to skip the record.

    Raises :class:`BadInput` for another part, and if the benchmark was not added or is faulty.
    """
    check_part(name, part)
    published = source(name)
    train, test = annotations(name, "train"), annotations(name, "test")
    hard = None
    if split == "clean":
        train = clean(train, test, published) if part == "train" else train
        hard = Neighbours(published, train, test if part == "test" else ())
    templates = PAPER.get(name, AS_PUBLISHED) if prompts == "paper" else Templates()
    images = location(name).images
    maker = CaseMaker(published, images, templates, hard, plain=prompts != "paper")
    if part == "train":
        cases = [maker.case(row) for row in train]
    else:
        rows = test if role == "test" else annotations(name, role)
        made = (finish(maker, row) if finish else maker.case(row) for row in rows)
        cases = [case for case in made if case is not None]
    return in_order(cases, name, part, seed)


class CaseMaker:
    """Maker of cases from records.

    Arguments:
        published: The benchmark.
        images: Folder of the image paths.
        templates: Templates of the prompts.
        hard: Source of the questions of hard probes; ``None``: no hard probes.
        plain: Whether to strip white space, and the prefix of Natural Questions, from texts.
    """

    def __init__(
        self,
        published: Source,
        images: Path,
        templates: Templates,
        hard: Neighbours | None,
        *,
        plain: bool,
    ) -> None:
        self.source = published
        self.images = images
        self.templates = templates
        self.hard = hard
        self.plain = plain

    def case(self, row: Annotation) -> Case:
        """The edit of a record and all its probes.

        A record whose images are the same has no other image of the thing, or no other image.
        """
        edit = self.visual(row.image, row.src, row.alt)
        reworded = self.query(self.templates.edit, row.rephrase, "").prompt
        text = self.query(self.templates.text_locality, row.loc, row.loc_ans)
        image = self.visual(row.m_loc, row.m_loc_q, row.m_loc_a, self.templates.image_locality)
        probes = [
            Probe("reliability", edit),
            Probe("text_generality", replace(edit, prompt=reworded)),
        ]
        if row.image_rephrase != row.image:
            shown = replace(edit, image=self.images / row.image_rephrase)
            probes.append(Probe("image_generality", shown))
        same = row.m_loc == row.image
        probes += [
            Probe("text_locality", text, "before"),
            Probe("same_image_other_question" if same else "image_locality", image, "before"),
        ]
        for number, (question, answer) in sorted(row.hops.items()):
            follows = self.visual(row.image, question, answer)
            probes.append(Probe(f"portability_{number}hop", follows))
        if self.hard:
            probes += self._hard(row, edit, self.hard)
        return Case(row.id, (edit,), tuple(probes))

    def _hard(self, row: Annotation, edit: Query, hard: Neighbours) -> Iterable[Probe]:
        yield Probe("question_alone", replace(edit, image=None, fact=""), "before")
        if self.source.name != "e-ic":
            yield Probe("image_alone", self.query("{}", NEUTRAL, "", row.image), "before")
        if row.m_loc != row.image and (other := hard.same_image(row)):
            query = self.visual(row.image, other.question, other.answer)
            yield Probe("same_image_other_question", query, "before")
        if other := hard.look_alike(row):
            query = self.visual(other.image, row.src, other.answer)
            yield Probe("look_alike_image", query, "before")

    def visual(self, image: str, question: str, answer: str, template: str = "") -> Query:
        """A question about an image; its fact is the image's subject and the question."""
        query = self.query(template or self.templates.edit, question, answer, image)
        return replace(query, fact=f"{self.source.subject(image)}:{question}")

    def query(self, template: str, question: str, answer: str, image: str = "") -> Query:
        """A question in a template; its image is a path, opened when the query is used."""
        if self.plain:
            question = question.strip().removeprefix(NQ)
            answer = answer.strip()
        if template.endswith("?"):
            question = question.removesuffix("?")
        return Query(template.format(question), answer, self.images / image if image else None)
