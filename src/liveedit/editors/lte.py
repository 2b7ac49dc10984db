"""LTE: the language model learns once to follow a fact in its prompt; edits are then such facts.

Jiang, Wang, Wu, Zhong, Zeng, Gao, Li, Jiang, Shang, Tang, Liu, Wang: "Learning to Edit: Aligning
LLMs with Knowledge Editing", ACL 2024 (arXiv 2402.11905), as released with LiveEdit for VLMs. With
the edit e = (v, p, o) in words, c_e = "[Updated Information] p o [Query]", the text decoder's
weights are trained on

    l_rel + Σ l_gen   −(1/|o|) Σ_t log f(o_t | v', c_e p', o_<t), for the edit and its generality
                      probes (v', p')
    l_loc             ½ KL(f₀(v', p') ‖ f(v', p')) + ½ KL(f₀(v', p') ‖ f(v', c_e p')), for its
                      locality probes

f₀ being the model before the training, and the KL a mean over the tokens of the answer. At
inference the stored edit most similar to the query precedes it, if the similarity is above a
threshold (section 3.2). Threshold and loss weights are those released.

Departures:

- The input and output embeddings stay as they are.
- The edit's image, which LiveEdit's form puts before the fact, is not shown again, because the
  query's own follows. The retrieval compares it (``common/retriever.py``; ``by="text"`` is the
  released form). The key of an edit is its question without the answer.
- Locality is measured against the model before the training, not, as released, the trained one.
- Without edits the model is the original one: the trained weights come with the first edit.
- With ``fresh``, some cases are trained with an answer of random tokens, which can only be read
  from the fact, so that the model learns to read it.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from liveedit.editors.base import TrainableEditor
from liveedit.editors.common.examples import EDIT, Example
from liveedit.editors.common.in_context import ContextPatch, InContextEditor, fact_text
from liveedit.editors.common.retriever import By, Retriever
from liveedit.editors.common.sentences import MINILM
from liveedit.models.patch import Patch
from liveedit.models.quantisation import check_changeable
from liveedit.models.vlm import EMBEDDINGS, VLM
from liveedit.models.wrappers import changeable, plain
from liveedit.settings import NotNegative, Share
from liveedit.types import Case, Query

__all__ = ["LTE", "LTEConfig"]

PLAIN = "plain "
"""Prefix of a kind's name: the query without the fact."""


@dataclass(frozen=True)
class LTEConfig:
    """Settings of LTE; the defaults are those released with LiveEdit, except the encoder's.

    Arguments:
        retriever: Sentence encoder, a Hugging Face id or a folder (released:
            multi-qa-mpnet-base-dot-v1).
        by: Evidence that chooses the edit: ``"text"``, or text and image, ``"both"``.
        threshold: Cosine of the texts above which an edit is used.
        image_threshold: Cosine of the images above which an edit is used, by both.
        rel: Weight of l_rel.
        gen: Weight of l_gen.
        loc: Weight of l_loc.
        fresh: Share of cases that are trained with random answers.
        eos: Whether every target ends with the end-of-text token.
        generality: Metrics whose probes are trained to get the target.
        locality: Metrics whose probes are trained to stay as they were.
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


class WeightsInTraining(Patch):
    """Values of parameters, by their names in the Hugging Face model."""

    def __init__(self, values: dict[str, Tensor]) -> None:
        self.values = values

    def weights(self) -> dict[str, Tensor]:
        """See :meth:`Patch.weights`."""
        return self.values


class LTEPatch(ContextPatch):
    """Edits as texts, for the trained weights."""

    FILE = "lte.safetensors"
    editor: "LTE"

    def weights(self) -> dict[str, Tensor]:
        """See :meth:`Patch.weights`."""
        if not len(self):
            return {}
        return {name: value.detach() for name, value in self.editor.values.items()}


class LTE(TrainableEditor[LTEPatch, Example], InContextEditor[LTEPatch]):
    """The editor: a text decoder trained to follow facts in the prompt, and the stored facts."""

    name = "lte"
    Config = LTEConfig
    patch_class = LTEPatch
    inference_settings = frozenset({"by", "threshold", "image_threshold", "generality", "locality"})
    config: LTEConfig

    def __init__(self, vlm: VLM, config: LTEConfig | None = None) -> None:
        super().__init__(vlm, config)
        c = self.config
        check_changeable(vlm.layers.named_parameters())
        self.retriever = Retriever(vlm, c.retriever, c.by, c.threshold, c.image_threshold)
        self.names = {plain(name).replace(".", "/"): name for name in changeable(vlm.layers)}
        self._layers = nn.ParameterDict()
        for key, name in self.names.items():
            value = vlm.parameter(f"{vlm.decoder_path}.layers.{name}")
            self._layers[key] = value.detach().float().clone()
        self._networks = nn.ModuleDict({"layers": self._layers})

    def networks(self) -> nn.ModuleDict:
        """The retrained layers of the text decoder."""
        return self._networks

    @property
    def device(self) -> torch.device:
        """The device of the VLM's inputs; the layers may be spread over several."""
        device: torch.device = self.vlm.device
        return device

    @property
    def values(self) -> dict[str, Tensor]:
        """The trained values, by the names of the parameters in the Hugging Face model."""
        path = f"{self.vlm.decoder_path}.layers."
        return {path + self.names[key]: value for key, value in self._layers.items()}

    def format_context(self, query: Query) -> str:
        """See :meth:`InContextEditor.format_context`."""
        return f"[Updated Information] {fact_text(query)}\n[Query] "

    # Training

    @property
    def observed_layer(self) -> int:
        """See :attr:`TrainableEditor.observed_layer`: the decoder's input."""
        return EMBEDDINGS

    def training_queries(self, case: Case) -> dict[str, Query]:
        """See :meth:`TrainableEditor.training_queries`.

        The queries with the fact before them, and those of locality also without it.
        """
        queries = super().training_queries(self.with_fresh_answer(case))
        context = self.format_context(queries[EDIT])
        found = dict[str, Query]()
        for kind, query in queries.items():
            found[kind] = replace(query, prompt=self.apply_context(context, query.prompt))
        for kind, query in queries.items():
            if kind in self.config.locality:
                found[PLAIN + kind] = query
        return found

    def must_stay(self, kind: str) -> bool:
        """See :meth:`TrainableEditor.must_stay`; f₀ is measured without the fact."""
        return kind.startswith(PLAIN)

    def with_fresh_answer(self, case: Case) -> Case:
        """The case, or for a share ``config.fresh`` of cases the case with a random answer.

        The answer has as many tokens, and replaces the target of the edit and of all probes that
        ask for it.
        """
        if len(case.edits) != 1:
            return case
        [edit] = case.edits
        generator = random.Random(f"{case.id} {edit.prompt}")
        tokenizer = self.vlm.tokenizer
        length = len(tokenizer(edit.target, add_special_tokens=False)["input_ids"])
        tokens = generator.choices(range(len(tokenizer)), k=length)
        answer = tokenizer.decode(tokens, skip_special_tokens=True).strip()
        if generator.random() >= self.config.fresh or not answer:
            return case
        probes = []
        for probe in case.probes:
            if probe.wanted == "target" and probe.query.target == edit.target:
                probe = replace(probe, query=replace(probe.query, target=answer))
            probes.append(probe)
        return replace(case, edits=(replace(edit, target=answer),), probes=tuple(probes))

    def loss(
        self,
        examples: Sequence[Example],
        generator: torch.Generator,  # noqa: ARG002
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """See :meth:`TrainableEditor.loss`."""
        asked = list[tuple[Example, str]]()
        for example in examples:
            asked += [(example, kind) for kind in example.rows]
        rows = [example.rows[kind] for example, kind in asked]
        with self.vlm.patched(WeightsInTraining(self.values)):
            predicted = self.answer_log_probabilities(rows)
        parts: dict[str, list[Tensor]] = {"rel": [], "gen": [], "loc": []}
        for (example, kind), row, logs in zip(asked, rows, predicted, strict=True):
            metric = kind.removeprefix(PLAIN)
            if metric in self.config.locality:
                base = example.base[PLAIN + metric].to(logs)
                divergence = F.kl_div(logs, base, reduction="batchmean", log_target=True)
                parts["loc"].append(0.5 * divergence)
            else:
                target = row.labels[row.labels >= 0].to(logs.device)
                parts["rel" if kind == EDIT else "gen"].append(F.nll_loss(logs, target))
        total = torch.zeros(())
        terms = dict[str, Tensor]()
        for name, values in parts.items():
            if values:
                terms[name] = torch.stack(values).sum() / len(examples)
                total = getattr(self.config, name) * terms[name] + total
        return total, terms
