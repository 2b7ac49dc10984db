"""LiveEdit: one low-rank expert an edit, found by what an input shows and asks, added at one layer.

Chen, Wang, Wang, Zhang, Li, He: "Lifelong Knowledge Editing for Vision Language Models with
Low-Rank Mixture-of-Experts", CVPR 2025 (arXiv 2411.15432). Released code:
github.com/qizhou000/LiveEdit, commit b46217b.

    (1, 2)   U, V = f_eg(h_v ⊕ h_p ⊕ h_o)                     nets.ReleasedGenerator
    (3, 4)   φ, ψ = f_fe(h_v, h_p), two sets of weights        nets.FeatureExtractor, nets.InputExtractor
    (5)      keep the experts with ⟨φ̄, φ̂⟩ > ⟨φ̄, φ̄_Θ⟩          routing.LiveEditPatch.route
    (6)      h + Σ w ρ(h Uᵀ) V                                 nets.residual
    (7)      w = σ(z) softmax(z), z = ⟨ψ̄, ψ̂⟩, over those kept  nets.soft_routing
    (8-16)   training                                          objective, losses

Where paper and released code differ the code is followed, because the published numbers were made
with it and it is what can be compared number for number:

    point                     paper                        released, and here
    before U                  nothing                      LayerNorm
    attention                 one head, no scale or bias   8 heads, 1/√d_head, biases, no output projection
    inner product             over k·d_m, / √d_m           mean over the k vectors, / √d_m
    divergence (11)           KL(base ‖ edited)            KL(edited ‖ base)
    experts mixed (8)         the whole batch's            a random prefix of the batch's, and the own ones
    negative (15)             random from both kinds       the example before in the batch
    candidates (16)           2B, from both kinds          B, one drawn for each example
    positives in (15, 16)     edits and generality         locality probes with themselves too, a third
    hard routing (13)         every locality probe         pairs of strangers, drawn either way round
    reduction (8, 12)         sums over the batch          means; likelihood and divergence also over tokens

Where we leave the released code: training runs the edit layer once (released: its output is fed to
it again); logs are taken of probabilities without adding 1e-8, which the stable forms do not need.
``Config`` opens further ways.

``pinpoint.py`` is our own method, made of the same parts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from PIL import Image
from torch import Tensor, nn

from liveedit.editors import PAPERS
from liveedit.editors.base import Example, TrainableEditor, alone
from liveedit.editors.common.attention import image_and_prompt
from liveedit.editors.common.bank import Bank
from liveedit.editors.common.bank_editor import BankPatch, PoolEditor
from liveedit.editors.common.extractors import EditSide, FeatureExtractor, InputExtractor
from liveedit.editors.former_names import PUBLISHED
from liveedit.editors.liveedit.generators import ReleasedGenerator
from liveedit.editors.liveedit.objective import replay, routing_terms
from liveedit.editors.liveedit.routing import LiveEditPatch, pictured
from liveedit.editors.liveedit.sampling import EDIT, Draws, draw
from liveedit.errors import BadInput
from liveedit.models.batch import HiddenBatch
from liveedit.models.vlm import VLM
from liveedit.settings import Count, Index, Positive
from liveedit.types import Case, Query

__all__ = ["LiveEdit", "LiveEditConfig", "LiveEditPatch", "image_tokens"]

CHUNK = 32
"""Queries that go through the VLM together."""


@dataclass(frozen=True)
class LiveEditConfig:
    """Settings; the defaults are the released ones.

    ``layer`` is the decoder layer whose output is edited (:attr:`TrainableEditor.layer`),
    ``module_dim`` d_m, ``queries`` the k vectors of a feature, ``scale`` the divisor of what the
    generator puts out. ``eos`` ends every target with the end of text. ``generality`` and
    ``locality`` are the metrics trained on.

    At query time: ``positions`` adds the residual at every position, or from the last prompt token
    on (in training too). ``margin`` is how far above the sentinel an expert must be that is kept
    (Eq. 5), and ``top_k`` cuts those kept to the k most similar in ψ, before they are weighed (Eq.
    7). ``text_only``: a query without image meets no edit, or it meets those with z > 0, that is,
    with σ(z) above one half.
    """

    module_dim: Count = 1024
    heads: Count = 8
    rank: Count = 4
    queries: Count = 4
    scale: Positive = 5.0
    layer: Index | None = None
    eos: bool = False
    positions: Literal["all", "answer"] = "all"
    margin: float = 0.0
    top_k: Count | None = None
    text_only: Literal["never", "text_key"] = "never"
    generality: tuple[str, ...] = ("text_generality", "image_generality")
    locality: tuple[str, ...] = ("image_locality",)


class LiveEdit(TrainableEditor, PoolEditor):
    """The editor: expert generator, feature extractors of both sides, and the LayerNorm before the
    experts.
    """

    name = "liveedit"
    paper = PAPERS["liveedit"]
    Config = LiveEditConfig
    patch_class = LiveEditPatch
    query_time = frozenset({"positions", "margin", "top_k", "text_only", "generality", "locality"})
    fixed: ClassVar[dict[str, Any]] = PUBLISHED
    """What were settings before the method was two; they count for the fingerprint as they did
    then.
    """
    config: LiveEditConfig

    def __init__(self, vlm: VLM, config: LiveEditConfig | None = None) -> None:
        super().__init__(vlm, config)
        c = self.config
        vlm.check_layer(self.layer)
        if c.module_dim % c.heads or vlm.state_size % c.heads:
            raise BadInput(
                f"{c.heads} heads do not divide widths {c.module_dim} and {vlm.state_size}: change heads"
            )
        self.generator, self.input_features, self.edit_features = self.parts()
        self.norm = nn.LayerNorm(vlm.state_size)
        parts = ("generator", "edit_features", "input_features", "norm")
        self._networks = nn.ModuleDict({name: getattr(self, name) for name in parts})
        self._networks.to(vlm.device)

    def parts(self) -> tuple[nn.Module, InputExtractor, FeatureExtractor | EditSide]:
        """Generator of experts, and the feature extractors of input and edit.

        The generator maps the edits' HiddenBatch and the model's output embedding (V, D) to U and
        V, each (B, r, D).
        """
        c, vlm = self.config, self.vlm
        sizes = (vlm.state_size, c.module_dim, c.heads)
        generator = ReleasedGenerator(*sizes, c.rank, c.scale)
        return (
            generator,
            InputExtractor(*sizes, c.queries, image_tokens(vlm)),
            FeatureExtractor(*sizes, c.queries),
        )

    @property
    def identity(self) -> tuple[str, dict[str, Any]]:
        """See :attr:`TrainableEditor.identity`; of the name and the settings that patches of before
        were made under.
        """
        return "liveedit", super().identity[1] | self.fixed

    def keeps(self, above: Tensor, z: Tensor) -> Tensor:  # noqa: ARG002
        """Eq. 5: which experts act, given how far they are above the sentinel in φ, and z in ψ,
        each (B, E).
        """
        return above > self.config.margin

    def networks(self) -> nn.ModuleDict:
        """Generator, feature extractors and norm."""
        return self._networks

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return self.norm.weight.device

    # Editing

    @torch.no_grad()
    def extended(self, held: BankPatch, queries: Sequence[Query]) -> "LiveEditPatch":
        """See :meth:`PoolEditor.extended`.

        An edit without image needs ``text_only="text_key"``; only text meets it.
        """
        bank = held.bank
        for start in range(0, len(queries), CHUNK):
            bank = bank.append(self.experts(self._hidden(queries[start : start + CHUNK])))
        return LiveEditPatch(self, bank)

    def experts(self, hidden: HiddenBatch) -> dict[str, Tensor]:
        """The four tensors of each edit: φ̂ and ψ̂ (B, k, d_m), U and V (B, r, D).

        φ̂ is NaN, which is above no sentinel, where the edit has no image.
        """
        image, prompt = image_and_prompt(hidden.hidden, hidden.spans)
        vision_keys = self.edit_features.vision_key(image, prompt)
        expert_in, expert_out = self.factors(hidden)
        return {
            "vision_keys": vision_keys.masked_fill(~image.mask.any(1)[:, None, None], torch.nan),
            "text_keys": self.edit_features.text_key(prompt),
            "expert_in": expert_in,
            "expert_out": expert_out,
        }

    def empty(self) -> "LiveEditPatch":
        """A patch without edits."""
        c, D = self.config, self.vlm.state_size
        key, factor = torch.empty(0, c.queries, c.module_dim), torch.empty(0, c.rank, D)
        none = {"vision_keys": key, "text_keys": key, "expert_in": factor, "expert_out": factor}
        return LiveEditPatch(self, Bank(none))

    def factors(self, hidden: HiddenBatch) -> tuple[Tensor, Tensor]:
        """U and V, each (B, r, D), of the edits whose states at the edit layer are ``hidden``."""
        factors: tuple[Tensor, Tensor] = self.generator(hidden, self.vlm.unembedding)
        return factors

    def check(self, query: Query) -> None:
        """See :meth:`Editor.check`. Raises :class:`BadInput` for an edit without image that nothing
        could meet.
        """
        super().check(query)
        if query.image is None and self.config.text_only == "never":
            raise BadInput(
                f"the edit '{query.prompt}' has no image: add one, take an editor that needs none, such as ft-l, "
                "or set text_only to 'text_key'"
            )

    def _hidden(self, queries: Sequence[Query]) -> HiddenBatch:
        return self.vlm.hidden(self.vlm.encode(queries, eos=self.config.eos), self.layer)

    # Training

    @torch.no_grad()
    def prepare(self, cases: Sequence[Case]) -> list[Example]:
        """See :meth:`TrainableEditor.prepare`.

        Of several probes of a metric the first counts. Those without image are left out unless
        edits act on them.
        """
        self.begin([], None)
        examples = [Example() for _ in cases]
        asked = [
            (index, *row) for index, case in enumerate(cases) for row in self._rows(case).items()
        ]
        for start in range(0, len(asked), CHUNK):
            chunk = asked[start : start + CHUNK]
            rows = [alone(row) for row in self._hidden([query for *_, query in chunk]).rows()]
            for (index, kind, query), row in zip(chunk, rows, strict=True):
                examples[index].rows[kind], examples[index].facts[kind] = row, query.fact
            still = [
                (examples[index], kind) for index, kind, _ in chunk if kind in self.config.locality
            ]
            bases = self._base([example.rows[kind] for example, kind in still])
            for (example, kind), base in zip(still, bases, strict=True):
                example.base[kind] = base
        return examples

    def _rows(self, case: Case) -> dict[str, Query]:
        """The queries of a case that training reads, by kind."""
        if len(case.edits) != 1 or case.edits[0].image is None:
            raise BadInput(
                f"case {case.id} is not one edit of what an image shows: {self.name} cannot learn from it"
            )
        self.check(case.edits[0])
        kinds = (*self.config.generality, *self.config.locality)
        text = self.config.text_only == "text_key"
        asked = {
            probe.metric: probe.query
            for probe in reversed(case.probes)
            if probe.metric in kinds and (text or probe.query.image is not None)
        }
        return {EDIT: case.edits[0]} | asked

    def _base(self, rows: list[HiddenBatch]) -> list[Tensor]:
        """The unedited log-probabilities (n, V) at the n answer positions of each row."""
        if not rows:
            return []
        hidden = self.onto(HiddenBatch.stack(rows))
        positions = hidden.answer_positions()
        base = self.vlm.resume(self.layer, hidden, positions).float().log_softmax(-1).cpu()
        return [part.clone() for part in base.split_with_sizes(positions.sum(1).tolist())]

    def onto(self, hidden: HiddenBatch) -> HiddenBatch:
        """``hidden`` where the networks are, in the VLM's type."""
        hidden = hidden.to(self.device)
        hidden.hidden = hidden.hidden.to(self.vlm.dtype)
        return hidden

    def loss(
        self, examples: Sequence[Example], generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """See :meth:`TrainableEditor.loss`."""
        writing = self.writing(examples)
        kinds = [
            [kind for kind, row in example.rows.items() if pictured(row.spans[0])]
            for example in writing
        ]
        return replay(
            self, examples, draw(kinds, self.config.generality, self.config.locality, generator)
        )

    def writing(self, examples: Sequence[Example]) -> Sequence[Example]:
        """Those examples of a batch whose answers are written, which is what costs most."""
        return examples

    def routing_terms(self, examples: Sequence[Example], draws: Draws) -> dict[str, Tensor]:
        """What routing is trained on: Eq. 13, 15 and 16."""
        return routing_terms(self, examples, draws)


def image_tokens(vlm: VLM) -> int:
    """N_v, how many tokens the VLM gives an image of 336 pixels square."""
    span = vlm.encode([Query("?", image=Image.new("RGB", (336, 336)))]).spans[0].image
    return span[1] - span[0]
