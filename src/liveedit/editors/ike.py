"""IKE: the model is told the edit in its prompt, after demonstrations of how such an edit is to be
used.

Zheng, Li, Dong, Fan, Wu, Xu, Chang: "Can We Edit Factual Knowledge by In-Context Learning?", EMNLP
2023 (arXiv 2305.12740), as EasyEdit and VLKEB use it for VLMs. With the fact f = (x*, y*), a
question and its answer, the prompt x becomes

    c_1 … c_k  New Fact: x* y*  Prompt: x         where c_i is  New Fact: x_i y_i  Prompt: x'_i y'_i

The c_i are made of a training set, three of each record: x'_i copies the question, rewords it, or
asks something else whose answer stays (section 3.2). The k sentences most similar to the copying
form of f, by a sentence encoder, are taken, the most similar first (section 3.3). k and the encoder
are EasyEdit's.

Departures. The published method gets the one fact that a query is about from outside, and gets it
for every query: it has no second edit and no scope. Here the edit nearest to the query is told
(``retriever.py``), for every query. The records come from a benchmark's training split
(``demonstrations="emblem"``) or there are none, as in EasyEdit for Hugging Face's VLMs. Images of
demonstrations are not shown, in either code.
"""

from dataclasses import dataclass
from functools import cached_property

from liveedit.data import load_cases
from liveedit.editors import PAPERS
from liveedit.editors.common.in_context import ContextEditor, fact
from liveedit.editors.common.retriever import By, Retriever
from liveedit.editors.common.sentences import MINILM
from liveedit.models.vlm import VLM
from liveedit.settings import Index
from liveedit.types import Case, Query

__all__ = ["IKE", "IKEConfig"]


@dataclass(frozen=True)
class IKEConfig:
    """Settings. ``k`` demonstrations from the training split of the benchmark ``demonstrations``,
    none if empty.

    ``retriever`` is the sentence encoder, a Hugging Face id or a folder; ``by`` what chooses the
    edit that is told.
    """

    k: Index = 32
    demonstrations: str = ""
    retriever: str = MINILM
    by: By = "both"


class IKE(ContextEditor):
    """In-context editing. What it keeps of an edit are its demonstrations and its fact."""

    name = "ike"
    paper = PAPERS["ike"]
    Config = IKEConfig
    config: IKEConfig

    def __init__(self, vlm: VLM, config: IKEConfig | None = None) -> None:
        super().__init__(vlm, config)
        self.retriever = Retriever(vlm, self.config.retriever, self.config.by)

    @cached_property
    def sentences(self) -> list[str]:
        """All demonstrations there are."""
        if not self.config.demonstrations:
            return []
        return [
            sentence
            for case in load_cases(self.config.demonstrations, "train")
            for sentence in shown(case)
        ]

    def tell(self, query: Query) -> str:
        """See :meth:`ContextEditor.tell`."""
        told = fact(query)
        chosen = self.nearest(demonstration(told, told)) if self.config.k and self.sentences else []
        return "".join([*chosen, f"New Fact: {told}\nPrompt: "])

    def prompt(self, told: str, question: str) -> str:
        """See :meth:`ContextEditor.prompt`."""
        return told + question

    def nearest(self, sentence: str) -> list[str]:
        """The k demonstrations most similar to ``sentence``, the most similar first."""
        encode = self.retriever.sentences
        similarity = encode(self.sentences) @ encode([sentence])[0]
        best = similarity.topk(min(self.config.k, len(self.sentences))).indices
        return [self.sentences[place] for place in best.tolist()]


def demonstration(told: str, line: str) -> str:
    """One c_i: ``told`` is its fact, ``line`` the prompt with its answer."""
    return f"New Fact: {told}\nPrompt: {line}\n\n"


def shown(case: Case) -> list[str]:
    """The demonstrations of a case: copying, rewording, and something else that stays."""
    probes = {probe.metric: probe.query for probe in reversed(case.probes)}
    lines = [
        probes[metric]
        for metric in ("reliability", "text_generality", "text_locality")
        if metric in probes
    ]
    return [demonstration(fact(edit), fact(line)) for edit in case.edits[:1] for line in lines]
