"""SCR: the facts nearest to a question are retrieved, the model picks one, and answers with it.

He, Song, Sun: "Knowledge Updating? No More Model Editing! Just Selective Contextual Reasoning",
2025 (arXiv 2503.05212); the retrieval baseline of Ren, Song, Wang, He, Sun: "Revisiting
Parameter-Based Knowledge Editing in Large Language Models", ICML 2026 (arXiv 2606.00570). Nothing
is trained. For a question x and the stored facts f_i,

    retrieve   F = the k facts most similar to x, by a sentence encoder
    select     the unedited model reads F and x, and repeats the fact that x is about or says that
               none is
    reason     with a fact f the model answers x in the prompt (f, x), without one x alone

k and the order of the steps are those of the code released with the second paper
(github.com/ECNU-Text-Computing/Revisiting-Parameter-Based-Knowledge-Editing, commit a4b61a8), from
which this was written; of the papers only the beginnings were read.

Departures from that code:

- The retrieval compares the image, too, and leaves out facts below two thresholds
  (``common/retriever.py``); ``by="text"`` with ``threshold=-1`` is the released form. The model
  selects with the query's image before it.
- The key of a fact is its question, without the answer.
- The stored fact that is nearest to what the model repeats goes into the prompt, not what it
  repeats, so that nothing it makes up does.
- Both prompts have wordings of this package's own, which are settings.
- With ``select=False`` the nearest fact above the thresholds is taken as it is, for models too
  small to select.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from liveedit.editors.common.in_context import ContextPatch, InContextEditor, fact_text
from liveedit.editors.common.retriever import By, Retriever
from liveedit.editors.common.sentences import MINILM
from liveedit.errors import BadInput
from liveedit.models.patch import Rewritten
from liveedit.models.vlm import VLM
from liveedit.settings import Count
from liveedit.types import Query

__all__ = ["SCR", "SCRConfig"]

NONE = "no relevant fact"
"""The words of the model for a question that no fact is about."""
SELECT = (
    "Here are some facts:\n{facts}\n\nQuestion: {question}\n\n"
    f"Repeat the one fact that answers the question. If none of them does, say: {NONE}."
)
ANSWER = "Take this fact as true: {fact}\nQuestion: {question}"


@dataclass(frozen=True)
class SCRConfig:
    """Settings of SCR.

    Arguments:
        k: Number of facts that are retrieved.
        retriever: Sentence encoder, a Hugging Face id or a folder (released: Contriever).
        by: Evidence that retrieves facts: ``"text"``, or text and image, ``"both"``.
        threshold: Cosine of the texts above which a fact is retrieved.
        image_threshold: Cosine of the images above which a fact is retrieved, by both.
        select: Whether the model selects one of the facts; otherwise the nearest is taken.
        select_prompt: The prompt to select, with ``{facts}`` and ``{question}`` in their places.
        select_tokens: Tokens that the model may say to select.
        answer_prompt: The prompt to answer, with ``{fact}`` and ``{question}`` in their places.
    """

    k: Count = 5
    retriever: str = MINILM
    by: By = "both"
    threshold: float = 0.3
    image_threshold: float = 0.8
    select: bool = True
    select_prompt: str = SELECT
    select_tokens: Count = 50
    answer_prompt: str = ANSWER


class SCRPatch(ContextPatch):
    """Edits as facts, of which one or none is selected for a query."""

    FILE = "scr.safetensors"
    editor: "SCR"

    def rewrite(self, query: Query) -> Rewritten:
        """See :meth:`Patch.rewrite`."""
        editor = self.editor
        edits, scores = editor.retriever.nearest(self.bank, query, editor.config.k, self.eligible)
        place = editor.choose(query, [self.contexts[edit] for edit in edits])
        if place is None:
            return Rewritten(query, scores=scores)
        edit = edits[place]
        prompt = editor.apply_context(self.contexts[edit], query.prompt)
        return Rewritten(replace(query, prompt=prompt), [(edit, 1.0)], scores)


class SCR(InContextEditor[SCRPatch]):
    """Selective contextual reasoning.

    Raises :class:`BadInput` for a prompt without a place for what belongs into it.
    """

    name = "scr"
    Config = SCRConfig
    patch_class = SCRPatch
    config: SCRConfig

    def __init__(self, vlm: VLM, config: SCRConfig | None = None) -> None:
        super().__init__(vlm, config)
        c = self.config
        check_places("select_prompt", c.select_prompt, "{facts}", "{question}")
        check_places("answer_prompt", c.answer_prompt, "{fact}", "{question}")
        self.retriever = Retriever(vlm, c.retriever, c.by, c.threshold, c.image_threshold)

    def format_context(self, query: Query) -> str:
        """See :meth:`InContextEditor.format_context`: the fact in words."""
        return fact_text(query)

    def apply_context(self, context: str, question: str) -> str:
        """See :meth:`InContextEditor.apply_context`."""
        return filled(self.config.answer_prompt, {"{fact}": context, "{question}": question})

    def choose(self, query: Query, facts: Sequence[str]) -> int | None:
        """The place among ``facts``, the nearest first, of the one that ``query`` is about.

        ``None`` if there is none.
        """
        if not facts or not self.config.select:
            return 0 if facts else None
        said = self.say(query, facts)
        if NONE in said.lower():
            return None
        encode = self.retriever.sentences
        return int((encode(facts) @ encode([said])[0]).argmax())

    def say(self, query: Query, facts: Sequence[str]) -> str:
        """The words of the unedited model that is to select one of ``facts`` for a query."""
        texts = {"{facts}": "\n".join(facts), "{question}": query.prompt}
        asked = replace(query, prompt=filled(self.config.select_prompt, texts))
        with self.vlm.unpatched():
            [said] = self.vlm.generate([asked], max_new_tokens=self.config.select_tokens)
        return said


def check_places(name: str, prompt: str, *places: str) -> None:
    """Raise :class:`BadInput` for a prompt that lacks a place."""
    for place in places:
        if place not in prompt:
            raise BadInput(f"scr.{name} is {prompt!r}: put {place} where it belongs")


def filled(prompt: str, texts: Mapping[str, str]) -> str:
    """The prompt with each text in its place."""
    places = "|".join(map(re.escape, texts))
    return re.sub(places, lambda place: texts[place[0]], prompt)
