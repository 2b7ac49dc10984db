"""E-VQA and E-IC: MMEdit's benchmarks of editing what a VLM answers about COCO photos, or says of
them.

Cheng et al., *Can We Edit Multimodal Large Language Models?*, EMNLP 2023 (arXiv 2310.08475), Sec.
3. E-VQA corrects answers to VQAv2 questions, E-IC captions, all of which BLIP-2 got wrong; the edit
gives the true one. VLKEB's files have the same form, and :mod:`liveedit.data.published.vlkeb` makes
its cases with what is here.

A case is one record. Published are

================  ================================================================  ========= metric
question                                                          wanted ================
================================================================  ========= reliability       the
edit itself                                                   new text_generality   the same image,
the question in other words                       new image_generality  an image generated from
COCO's captions of it                     new text_locality     a question from Natural Questions,
without an image               as before image_locality    a question from OK-VQA about another
image                        as before ================
================================================================  =========

and where the split is "clean" these hard probes are added, as far as the records allow:

=========================  =======================================================  =========
question_alone             the edit's question without an image                     as before
image_alone                the edit's image and :data:`NEUTRAL`; not in E-IC,       as before
                           where that is what is edited
same_image_other_question  what another record asks about the edit's image          as before
look_alike_image           the edit's question, which another record asks about     as before
                           an image of another subject
=========================  =======================================================  =========

No test case edits what a hard probe asks, nor any question about that image with the same answer,
which might be the same in other words; training has seen none of it
(:func:`liveedit.data.published.leaks.clean`).
"""

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from liveedit.data.published.annotations import Annotation
from liveedit.data.published.leaks import clean
from liveedit.data.published.neighbours import Neighbours
from liveedit.data.published.places import annotations, place
from liveedit.data.published.sources import Source, source
from liveedit.errors import BadInput
from liveedit.types import Case, Probe, Query

__all__ = ["NEUTRAL", "PAPER", "CaseMaker", "Templates", "e_ic", "e_vqa", "make_cases"]

NEUTRAL = "Describe the image."
"""What ``image_alone`` asks."""

NQ = "nq question: "
"""What MMEdit writes before each question from Natural Questions."""


@dataclass(frozen=True, slots=True)
class Templates:
    """How a question becomes a prompt; ``{}`` stands for it. The plain ones leave questions as they
    are.

    The questions of Natural Questions come without the question mark that all the others have.
    """

    edit: str = "{}"
    text_locality: str = "{}?"
    image_locality: str = "{}"


PAPER = {
    "e-vqa": Templates("{} The answer is:", "{}?", "{} The answer is:"),
    "e-ic": Templates("{}", "{}?", "{} The answer is:"),
    "vlkeb": Templates("{}", "{}?", "{} The answer is:"),
}
"""The templates that LiveEdit's authors released; with them goes the annotations' text letter by
letter.
"""


def e_vqa(part: str, seed: int, split: str, prompts: str) -> list[Case]:
    """The benchmark "e-vqa"; see :func:`make_cases`."""
    return make_cases("e-vqa", part, seed, split, prompts)


def e_ic(part: str, seed: int, split: str, prompts: str) -> list[Case]:
    """The benchmark "e-ic"; see :func:`make_cases`."""
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
    """The cases of a published benchmark: one a record, in the file's order for seed 0, else
    shuffled by ``seed``.

    ``split`` is "clean" or "paper", ``prompts`` "plain" or "paper". ``role`` says which file the
    test reads; ``finish`` makes a case of it, or ``None`` to pass a record over. Raises
    :class:`BadInput` for a part there is none of, and where the benchmark was not added or is
    faulty.
    """
    if part not in ("train", "test"):
        raise BadInput(f"{name} has no part '{part}': it was published as train and test")
    published, images = source(name), place(name).images
    templates = PAPER[name] if prompts == "paper" else Templates()
    train, test = annotations(name, "train"), annotations(name, "test")
    hard = None
    if split == "clean":
        train = clean(train, test, published) if part == "train" else train
        hard = Neighbours(published, train, test if part == "test" else ())
    maker = CaseMaker(published, images, templates, hard, plain=prompts != "paper")
    if part == "train":
        cases = [maker.case(row) for row in train]
    else:
        rows = test if role == "test" else annotations(name, role)
        made = (finish(maker, row) if finish else maker.case(row) for row in rows)
        cases = [case for case in made if case is not None]
    if seed:
        random.Random(f"{name} {part} {seed}").shuffle(cases)
    return cases


class CaseMaker:
    """Makes a case of a record. ``images`` is the folder of its paths; ``hard`` gives hard probes,
    if wanted.
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
        self.source, self.images, self.templates, self.hard, self.plain = (
            published,
            images,
            templates,
            hard,
            plain,
        )

    def case(self, row: Annotation) -> Case:
        """The edit of a record and all its probes."""
        edit = self.about(row.image, row.src, row.alt)
        text = self.query(self.templates.text_locality, row.loc, row.loc_ans)
        image = self.about(row.m_loc, row.m_loc_q, row.m_loc_a, self.templates.image_locality)
        probes = [
            Probe("reliability", edit),
            Probe(
                "text_generality",
                replace(edit, prompt=self.query(self.templates.edit, row.rephrase, "").prompt),
            ),
            Probe("image_generality", replace(edit, image=self.images / row.image_rephrase)),
            Probe("text_locality", text, "before"),
            Probe("image_locality", image, "before"),
            *(
                Probe(f"portability_{n}hop", self.about(row.image, *row.hops[n]))
                for n in sorted(row.hops)
            ),
            *(self._hard(row, edit, self.hard) if self.hard else ()),
        ]
        return Case(row.id, (edit,), tuple(probes))

    def _hard(self, row: Annotation, edit: Query, hard: Neighbours) -> Iterable[Probe]:
        yield Probe("question_alone", replace(edit, image=None, fact=""), "before")
        if self.source.name != "e-ic":
            yield Probe("image_alone", self.query("{}", NEUTRAL, "", row.image), "before")
        if other := hard.same_image(row):
            yield Probe(
                "same_image_other_question",
                self.about(row.image, other.question, other.answer),
                "before",
            )
        if other := hard.look_alike(row):
            yield Probe(
                "look_alike_image", self.about(other.image, row.src, other.answer), "before"
            )

    def about(self, image: str, question: str, answer: str, template: str = "") -> Query:
        """A question about an image; its fact is what the image shows, and the question."""
        query = self.query(template or self.templates.edit, question, answer, image)
        return replace(query, fact=f"{self.source.subject(image)}:{question}")

    def query(self, template: str, question: str, answer: str, image: str = "") -> Query:
        """A question in a template, its image a path that is opened when it is asked."""
        if self.plain:
            question, answer = question.strip().removeprefix(NQ), answer.strip()
        return Query(template.format(question), answer, self.images / image if image else None)
