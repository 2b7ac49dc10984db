"""IKE: the edit precedes the prompt, after demonstrations of how such an edit is to be used.

Zheng, Li, Dong, Fan, Wu, Xu, Chang: "Can We Edit Factual Knowledge by In-Context Learning?", EMNLP
2023 (arXiv 2305.12740), as EasyEdit and VLKEB use it for VLMs. With the fact f = (x*, y*), a
question and its answer, the prompt x becomes

    c_1 … c_k  New Fact: x* y*  Prompt: x         where c_i is  New Fact: x_i y_i  Prompt: x'_i y'_i

The c_i are made from a training set, three for each record: x'_i copies the question, rewords it,
or asks something else whose answer stays (section 3.2). The k sentences most similar to the copying
form of f, by a sentence encoder, are taken, the most similar first (section 3.3). k and the encoder
are EasyEdit's.

Departures. The published evaluation gives the method, for every query, the one fact that the query
is about: there are no other edits, and nothing decides whether a query is in scope. Here the stored
edit nearest to the query becomes its context (``common/retriever.py``). The demonstrations come
from a benchmark's training split (``demonstrations="emblem"``) or there are none, as in EasyEdit
for Hugging Face's VLMs. Images of demonstrations are not shown, in either code.
"""

from dataclasses import dataclass
from functools import cached_property

from liveedit.data import load_cases
from liveedit.editors.common.in_context import ContextPatch, InContextEditor, fact_text
from liveedit.editors.common.retriever import By, Retriever
from liveedit.editors.common.sentences import MINILM
from liveedit.models.vlm import VLM
from liveedit.settings import Index
from liveedit.types import Case, Query

__all__ = ["IKE", "IKEConfig"]


@dataclass(frozen=True)
class IKEConfig:
    """Settings of IKE.

    Arguments:
        k: Number of demonstrations.
        demonstrations: Benchmark from whose training split they are made; empty: none.
        retriever: Sentence encoder, a Hugging Face id or a folder.
        by: Evidence that chooses the edit: ``"text"``, or text and image, ``"both"``.
    """

    k: Index = 32
    demonstrations: str = ""
    retriever: str = MINILM
    by: By = "both"


class IKE(InContextEditor[ContextPatch]):
    """In-context editing. The context of an edit is its demonstrations and its fact."""

    name = "ike"
    Config = IKEConfig
    config: IKEConfig

    def __init__(self, vlm: VLM, config: IKEConfig | None = None) -> None:
        super().__init__(vlm, config)
        self.retriever = Retriever(vlm, self.config.retriever, self.config.by)

    @cached_property
    def demonstrations(self) -> list[str]:
        """All demonstrations of the benchmark."""
        if not self.config.demonstrations:
            return []
        found = list[str]()
        for case in load_cases(self.config.demonstrations, "train"):
            found += case_demonstrations(case)
        return found

    def format_context(self, query: Query) -> str:
        """See :meth:`InContextEditor.format_context`."""
        fact = fact_text(query)
        chosen = list[str]()
        if self.config.k and self.demonstrations:
            chosen = self.nearest(demonstration(fact, fact))
        return "".join([*chosen, f"New Fact: {fact}\nPrompt: "])

    def nearest(self, sentence: str) -> list[str]:
        """The k demonstrations most similar to ``sentence``, the most similar first."""
        encode = self.retriever.sentences
        similarity = encode(self.demonstrations) @ encode([sentence])[0]
        best = similarity.topk(min(self.config.k, len(self.demonstrations))).indices
        return [self.demonstrations[index] for index in best.tolist()]


def demonstration(fact: str, line: str) -> str:
    """One c_i of a ``fact`` and a ``line``, a prompt with its answer."""
    return f"New Fact: {fact}\nPrompt: {line}\n\n"


def case_demonstrations(case: Case) -> list[str]:
    """The demonstrations of a case: copying, rewording, and another question whose answer stays."""
    probes = {probe.metric: probe.query for probe in reversed(case.probes)}
    lines = ("reliability", "text_generality", "text_locality")
    found = list[str]()
    for edit in case.edits[:1]:
        for metric in lines:
            if metric in probes:
                found.append(demonstration(fact_text(edit), fact_text(probes[metric])))
    return found
