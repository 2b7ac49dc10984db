"""LiveEdit: one low-rank expert for each edit, found by image and question, added at one layer.

Chen, Wang, Wang, Zhang, Li, He: "Lifelong Knowledge Editing for Vision Language Models with
Low-Rank Mixture-of-Experts", CVPR 2025 (arXiv 2411.15432). Released code:
github.com/qizhou000/LiveEdit, commit b46217b.

    (1, 2)   U, V = f_eg(h_v ⊕ h_p ⊕ h_o)                      generators.ReleasedGenerator
    (3, 4)   φ, ψ = f_fe(h_v, h_p), two sets of weights         common/extractors.py
    (5)      keep the experts with ⟨φ̄, φ̂⟩ > ⟨φ̄, φ̄_Θ⟩           experts.ExpertEditor.keeps
    (6)      h + Σ w ρ(h Uᵀ) V                                  routing.residual
    (7)      w = σ(z) softmax(z), z = ⟨ψ̄, ψ̂⟩, over those kept   routing.soft_routing
    (8–16)   training                                           objective.py, losses.py

Where paper and released code differ the code is followed, because the published numbers were made
with it, and it can be compared number for number:

    point                     paper                      released, and here
    before U                  nothing                    LayerNorm
    attention                 one head, no scale, bias   8 heads, 1/√d_head, biases, no output
    inner product             over k·d_m, / √d_m         mean over the k vectors, / √d_m
    divergence (11)           KL(base ‖ edited)          KL(edited ‖ base)
    experts mixed (8)         the whole batch's          a random prefix of the batch's, and its own
    negative (15)             random from both kinds     the example before in the batch
    candidates (16)           2B, from both kinds        B, one drawn for each example
    positives in (15, 16)     edits and generality       a third: locality probes with themselves
    hard routing (13)         every locality probe       unrelated pairs, drawn either way round
    reduction (8, 12)         sums over the batch        means; also over tokens

Departures from the released code: training runs the edit layer once (released: its output is fed to
it again); logarithms are taken of probabilities without adding 1e-8, which the stable forms do not
need. ``LiveEditConfig`` has further options.

``pinpoint/`` is this package's own method, built from the same parts.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from liveedit.editors.common.examples import Example
from liveedit.editors.common.extractors import (
    EditSide,
    FeatureExtractor,
    InputExtractor,
    image_tokens,
)
from liveedit.editors.former_names import PUBLISHED
from liveedit.editors.liveedit.experts import ExpertEditor, LiveEditConfig
from liveedit.editors.liveedit.generators import ReleasedGenerator
from liveedit.editors.liveedit.objective import draw_batch, replay, routing_terms
from liveedit.editors.liveedit.sampling import Draws

__all__ = ["LiveEdit", "LiveEditConfig"]


class LiveEdit(ExpertEditor):
    """The published method, with the released architecture and training."""

    name = "liveedit"
    Config = LiveEditConfig
    fixed = PUBLISHED
    inference_settings = frozenset(
        {"positions", "margin", "top_k", "keys", "text_only", "generality", "locality"}
    )

    def parts(self) -> tuple[nn.Module, InputExtractor, FeatureExtractor | EditSide]:
        """See :meth:`ExpertEditor.parts`."""
        c = self.config
        sizes = (self.vlm.state_size, c.module_dim, c.heads)
        generator = ReleasedGenerator(*sizes, c.rank, c.scale)
        inputs = InputExtractor(*sizes, c.queries, image_tokens(self.vlm))
        return generator, inputs, FeatureExtractor(*sizes, c.queries)

    def loss(
        self, examples: Sequence[Example], generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """See :meth:`TrainableEditor.loss`."""
        return replay(self, examples, draw_batch(self, examples, generator))

    def routing_terms(self, examples: Sequence[Example], draws: Draws) -> dict[str, Tensor]:
        """See :meth:`ExpertEditor.routing_terms`: Eq. 13, 15 and 16."""
        return routing_terms(self, examples, draws)
