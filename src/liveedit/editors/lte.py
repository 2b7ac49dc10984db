"""LTE: the language model is taught once to follow a fact in its prompt; from then on edits are
told, not trained.

Jiang, Wang, Wu, Zhong, Zeng, Gao, Li, Jiang, Shang, Tang, Liu, Wang: "Learning to Edit: Aligning
LLMs with Knowledge Editing", ACL 2024 (arXiv 2402.11905), as released with LiveEdit for VLMs. With
the edit e = (v, p, o) in words, c_e = "[Updated Information] p o [Query]", the text decoder's
weights are trained on

    l_rel + Σ l_gen   −(1/|o|) Σ_t log f(o_t | v', c_e p', o_<t), for the edit and its generality probes (v', p')
    l_loc             ½ KL(f₀(v', p') ‖ f(v', p')) + ½ KL(f₀(v', p') ‖ f(v', c_e p')), for its locality probes

f₀ being the model as it was, and the KL a mean over the tokens of the answer. At query time the
stored edit that the query is most similar to, if it is above a threshold, is told in front of it
(section 3.2). Threshold and loss weights are those released.

Departures. The input and output embeddings stay as they are. The edit's image, which LiveEdit's
form puts before the fact, is not shown again, because the query's own follows: it has its say in
the retrieval (``retriever.py``; ``by="text"`` is the released form), whose key of an edit is its
question without the answer. Locality is judged against the model as it was before the training,
not, as released, against the trained one. Without edits the model is as it was: the trained weights
come with the first. With ``fresh``, some cases are trained with another answer, random tokens in
words: what it takes from the fact it cannot have learnt, so it learns to read.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from liveedit.editors import PAPERS
from liveedit.editors.base import Example, TrainableEditor, alone
from liveedit.editors.common.in_context import ContextEditor, ContextPatch, fact
from liveedit.editors.common.retriever import By, Retriever
from liveedit.editors.common.sentences import MINILM
from liveedit.models.batch import HiddenBatch
from liveedit.models.patch import Patch
from liveedit.models.quantisation import check_changeable
from liveedit.models.vlm import EMBEDDINGS, VLM
from liveedit.models.wrappers import changeable, plain
from liveedit.settings import NotNegative, Share
from liveedit.types import Case, Query

__all__ = ["LTE", "LTEConfig"]

CHUNK = 32
"""Queries that are embedded together."""

EDIT = "reliability"

PLAIN = "plain "
"""In front of the name of a kind: the query without the fact."""


@dataclass(frozen=True)
class LTEConfig:
    """Settings; the defaults are those released with LiveEdit, the encoder apart.

    ``retriever`` is the sentence encoder, a Hugging Face id or a folder (released:
    multi-qa-mpnet-base-dot-v1), ``by`` what it goes by; an edit is told where the cosine of the
    texts is above ``threshold`` and, by both, that of the images above ``image_threshold``.
    ``rel``, ``gen`` and ``loc`` weigh the losses, ``generality`` and ``locality`` are the metrics
    trained on. ``fresh`` is the share of cases with random answers. ``eos`` ends every target with
    the end of text.
    """

    retriever: str = MINILM
    by: By = "both"
    threshold: float = 0.3
    image_threshold: float = 0.8
    rel: NotNegative = 1.0
    gen: NotNegative = 1.0
    loc: NotNegative = 1.0
    fresh: Share = 0.0
    eos: bool = False
    generality: tuple[str, ...] = ("text_generality", "image_generality")
    locality: tuple[str, ...] = ("image_locality", "text_locality")


class Weights(Patch):
    """Values of parameters, by name."""

    def __init__(self, values: dict[str, Tensor]) -> None:
        self.values = values

    def weights(self) -> dict[str, Tensor]:
        """See :meth:`Patch.weights`."""
        return self.values


class LTEPatch(ContextPatch):
    """Told edits on the trained weights."""

    FILE = "lte.safetensors"
    editor: "LTE"

    def weights(self) -> dict[str, Tensor]:
        """See :meth:`Patch.weights`."""
        return (
            {name: value.detach() for name, value in self.editor.values.items()}
            if len(self)
            else {}
        )


class LTE(TrainableEditor, ContextEditor):
    """The editor: a text decoder that follows facts, and the facts."""

    name = "lte"
    paper = PAPERS["lte"]
    Config = LTEConfig
    patch_class = LTEPatch
    query_time = frozenset({"by", "threshold", "image_threshold", "generality", "locality"})
    config: LTEConfig

    def __init__(self, vlm: VLM, config: LTEConfig | None = None) -> None:
        super().__init__(vlm, config)
        c = self.config
        check_changeable(vlm.layers.named_parameters())
        self.retriever = Retriever(vlm, c.retriever, c.by, c.threshold, c.image_threshold)
        self.names = {plain(name).replace(".", "/"): name for name in changeable(vlm.layers)}
        values = {
            key: vlm.parameter(f"{vlm.decoder_path}.layers.{name}")
            for key, name in self.names.items()
        }
        self._layers = nn.ParameterDict(
            {key: value.detach().float().clone() for key, value in values.items()}
        )
        self._networks = nn.ModuleDict({"layers": self._layers})

    def networks(self) -> nn.ModuleDict:
        """The layers of the text decoder, retrained."""
        return self._networks

    @property
    def values(self) -> dict[str, Tensor]:
        """The trained values, by the names that the Hugging Face model has for its parameters."""
        path = f"{self.vlm.decoder_path}.layers."
        return {path + self.names[key]: value for key, value in self._layers.items()}

    def tell(self, query: Query) -> str:
        """See :meth:`ContextEditor.tell`."""
        return f"[Updated Information] {fact(query)}\n[Query] "

    def prompt(self, told: str, question: str) -> str:
        """See :meth:`ContextEditor.prompt`."""
        return told + question

    # Training

    @torch.no_grad()
    def prepare(self, cases: Sequence[Case]) -> list[Example]:
        """See :meth:`TrainableEditor.prepare`. Of several probes of a metric the first counts."""
        self.begin([], None)
        examples = [Example() for _ in cases]
        cases = [self.renewed(case) for case in cases]
        asked = [
            (index, kind, query)
            for index, case in enumerate(cases)
            for kind, query in self.rows(case).items()
        ]
        for start in range(0, len(asked), CHUNK):
            chunk = asked[start : start + CHUNK]
            hidden = self.vlm.hidden(
                self.vlm.encode([query for *_, query in chunk], eos=self.config.eos), EMBEDDINGS
            )
            for (index, kind, _), row in zip(chunk, hidden.rows(), strict=True):
                examples[index].rows[kind] = alone(row)
            plain = [(examples[index], kind) for index, kind, _ in chunk if kind.startswith(PLAIN)]
            bases = self.answers([example.rows[kind] for example, kind in plain]) if plain else []
            for (example, kind), base in zip(plain, bases, strict=True):
                example.base[kind.removeprefix(PLAIN)] = base.cpu().clone()
        return examples

    def renewed(self, case: Case) -> Case:
        """The case, or one with a random answer, of as many tokens, in the edit and in all probes
        that ask for it.
        """
        [edit] = case.edits
        dice, tokenizer = random.Random(f"{case.id} {edit.prompt}"), self.vlm.tokenizer
        length = len(tokenizer(edit.target, add_special_tokens=False)["input_ids"])
        answer = tokenizer.decode(
            dice.choices(range(len(tokenizer)), k=length), skip_special_tokens=True
        ).strip()
        if dice.random() >= self.config.fresh or not answer:
            return case
        probes = [
            replace(probe, query=replace(probe.query, target=answer))
            if probe.wanted == "target" and probe.query.target == edit.target
            else probe
            for probe in case.probes
        ]
        return replace(case, edits=(replace(edit, target=answer),), probes=tuple(probes))

    def rows(self, case: Case) -> dict[str, Query]:
        """The queries of a case by kind: with the fact in front, and those of locality also
        without.
        """
        [edit] = case.edits
        self.check(edit)
        kinds = (*self.config.generality, *self.config.locality)
        probes = {
            probe.metric: probe.query for probe in reversed(case.probes) if probe.metric in kinds
        }
        told = {kind: self.told(edit, query) for kind, query in ({EDIT: edit} | probes).items()}
        return told | {
            PLAIN + kind: query for kind, query in probes.items() if kind in self.config.locality
        }

    def told(self, edit: Query, query: Query) -> Query:
        """``query`` with ``edit`` in front of it."""
        return replace(query, prompt=self.prompt(self.tell(edit), query.prompt))

    def answers(self, rows: Sequence[HiddenBatch]) -> list[Tensor]:
        """The log-probabilities (n, V) at the n positions of each row that predict its answer."""
        hidden = HiddenBatch.stack(rows).to(self.vlm.device)
        hidden.hidden = hidden.hidden.to(self.vlm.dtype)
        positions = hidden.answer_positions()
        said = self.vlm.resume(EMBEDDINGS, hidden, positions).float().log_softmax(-1)
        return list(said.split_with_sizes(positions.sum(1).tolist()))

    def loss(
        self, examples: Sequence[Example], generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """See :meth:`TrainableEditor.loss`."""
        asked = [(example, kind) for example in examples for kind in example.rows]
        rows = [example.rows[kind] for example, kind in asked]
        with self.vlm.patched(Weights(self.values)):
            said = self.answers(rows)
        parts: dict[str, list[Tensor]] = {"rel": [], "gen": [], "loc": []}
        for (example, kind), row, logs in zip(asked, rows, said, strict=True):
            about = kind.removeprefix(PLAIN)
            if about in self.config.locality:
                base = example.base[about].to(logs)
                parts["loc"].append(
                    0.5 * F.kl_div(logs, base, reduction="batchmean", log_target=True)
                )
            else:
                target = row.labels[row.labels >= 0].to(logs.device)
                parts["rel" if kind == EDIT else "gen"].append(F.nll_loss(logs, target))
        terms = {
            name: torch.stack(values).sum() / len(examples)
            for name, values in parts.items()
            if values
        }
        return sum(
            (getattr(self.config, name) * term for name, term in terms.items()), torch.zeros(())
        ), terms
