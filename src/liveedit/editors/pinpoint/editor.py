"""Pinpoint: experts aligned to the answer's tokens, found by image and question together.

This package's own method, and the default of :func:`liveedit.load`. From LiveEdit (Chen et al.,
CVPR 2025; ``editors/liveedit/``) it takes four parts: the bank of low-rank experts, one for each
edit, made by a trained generator (Eq. 1); the keys of an edit's image and question, compared with a
sentinel (Eq. 3 to 5); the residual and its weights (Eq. 6 and 7); and the loss terms of the answer
(Eq. 8 to 11). What is new:

    part        LiveEdit                        pinpoint
    generator   attends to the edit as a set    row j of U and V belongs to token j of the
                                                answer (generator.py)
    features    two extractors, inner products  one for both sides, keys of unit length, a
                                                sentinel for the question, too
                                                (common/extractors.py)
    negatives   pairs drawn at random           every query of a batch against every edit of it,
                                                look-alikes and other questions among them
                                                (common/hard_negatives.py)
    gate        the image above the sentinel    likelier than not by image and question, by a
                (Eq. 5)                         margin (common/hard_negatives.py)
    residual    at every position               from the last prompt token on (liveedit/routing.py)
    dropped     nothing                         a share of the tokens that the extractors read in
                                                training (common/attention.py)
    targets     end with the answer             end with the end-of-text token

docs/explanation/results/ablations.md measures the effect of gate, margin and residual; LiveEdit is
shown for comparison.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from liveedit.editors.common.attention import similarity, with_image
from liveedit.editors.common.examples import Example
from liveedit.editors.common.extractors import (
    EditSide,
    FeatureExtractor,
    InputExtractor,
    UnitKeyExtractor,
    image_tokens,
)
from liveedit.editors.common.hard_negatives import NEVER, hard_negative_loss, log_odds
from liveedit.editors.common.losses import info_nce
from liveedit.editors.former_names import PINPOINT
from liveedit.editors.liveedit.experts import ExpertEditor, LiveEditConfig
from liveedit.editors.liveedit.objective import Rows, draw_batch, replay
from liveedit.editors.liveedit.sampling import Draws
from liveedit.editors.pinpoint.generator import AlignedGenerator
from liveedit.errors import UnsupportedModel
from liveedit.models.vlm import VLM
from liveedit.settings import Count, Share
from liveedit.types import Case

__all__ = ["Pinpoint", "PinpointConfig"]


@dataclass(frozen=True)
class PinpointConfig(LiveEditConfig):
    """Settings of pinpoint: those of LiveEdit, some with other defaults, and further ones.

    Arguments:
        rank: Maximum number of tokens of an answer, its end included.
        eos: Whether every target ends with the end-of-text token.
        positions: Tokens that get the residual: ``"all"``, or ``"answer"``, from the last prompt
            token on; in training, too.
        gate: Experts that are kept: ``"both"``, those likelier than not to belong to the query by
            image and question together, or ``"vision"``, those above the sentinel in φ.
        margin: Smallest distance above the gate's threshold at which an expert is kept.
        written: Number of examples of a batch that train the answers, the expensive part; ``None``:
            all of them. The routing is trained on all.
        drop: Share of image and prompt tokens hidden from the extractors in training, drawn again
            for each row.
        locality: Metrics whose probes are trained to stay as they were.
    """

    rank: Count = 12
    eos: bool = True
    positions: Literal["all", "answer"] = "answer"
    gate: Literal["vision", "both"] = "both"
    margin: float = 1.0
    written: Count | None = None
    drop: Share = 0.2
    locality: tuple[str, ...] = ("image_locality", "look_alike_image", "same_image_other_question")


class Pinpoint(ExpertEditor):
    """This package's own method; its networks and patches have the form of LiveEdit's.

    Raises :class:`UnsupportedModel` for a decoder whose states are wider than its word embeddings.
    """

    name = "pinpoint"
    Config = PinpointConfig
    fixed = PINPOINT
    inference_settings = frozenset(
        {"positions", "gate", "margin", "top_k", "keys", "text_only", "generality", "locality"}
    )
    config: PinpointConfig

    def __init__(self, vlm: VLM, config: PinpointConfig | None = None) -> None:
        if vlm.state_size != vlm.hidden_size:
            raise UnsupportedModel(
                "pinpoint needs states as wide as word embeddings: edit this model with liveedit"
            )
        super().__init__(vlm, config)

    @classmethod
    def fitted(cls, vlm: VLM, cases: Sequence[Case]) -> dict[str, Any]:
        """See :meth:`ExpertEditor.fitted`: the rank covers the longest answer, its end included."""
        edits = [case.edits[0] for case in cases]
        prompts = [vlm.render(edit) for edit in edits]
        _, lengths = vlm.join_texts(prompts, [edit.target for edit in edits], eos=True)
        rank = max(cls.Config().rank, *lengths)
        return {**super().fitted(vlm, cases), "rank": rank}

    def parts(self) -> tuple[nn.Module, InputExtractor, FeatureExtractor | EditSide]:
        """See :meth:`ExpertEditor.parts`."""
        c = self.config
        sizes = (self.vlm.state_size, c.module_dim, c.heads)
        generator = AlignedGenerator(*sizes, c.rank, c.scale)
        both_sides = UnitKeyExtractor(*sizes, c.queries, image_tokens(self.vlm))
        return generator, both_sides, EditSide(both_sides)

    def score(self, above: Tensor, z: Tensor) -> Tensor:
        """See :meth:`ExpertEditor.score`; that of the gate "both" are log-odds."""
        return above if self.config.gate == "vision" else log_odds(above, z)

    def thresholds(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`ExpertEditor.thresholds`.

        With the gate "both" z has to exceed the margin τ itself, and the distance above the
        sentinel log(1 + e^−z) − log(e^−τ − e^−z), which is L > τ solved for m; it is τ where z does
        not suffice.
        """
        least, question = super().thresholds(z)
        if self.config.gate == "vision":
            return least, question
        rest = (-least).exp() - (-z).exp()
        needed = (-z).exp().log1p() - rest.clamp(min=torch.finfo(z.dtype).tiny).log()
        return torch.where(rest > 0, needed, least), least

    def writing(self, examples: Sequence[Example]) -> Sequence[Example]:
        """See :meth:`ExpertEditor.writing`: the first ``config.written``."""
        return examples[: self.config.written]

    def loss(
        self, examples: Sequence[Example], generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """See :meth:`TrainableEditor.loss`."""
        return replay(self, examples, draw_batch(self, examples, generator))

    def routing_terms(self, examples: Sequence[Example], draws: Draws) -> dict[str, Tensor]:
        """See :meth:`ExpertEditor.routing_terms`: every row against every edit of the batch.

        A row's own edit has to fire with the highest score, all others must not fire. Edits of
        another example about the same fact as the row are ignored.
        """
        rows = Rows(self, examples)
        inputs = self.input_features
        share = self.config.drop
        image = rows.image.drop(share, draws.generator)
        prompt = rows.prompt.drop(share, draws.generator)
        edit_image = rows.image.pick(rows.edits).drop(share, draws.generator)
        edit_prompt = rows.prompt.pick(rows.edits).drop(share, draws.generator)
        phi, sentinel = inputs.vision_key_and_sentinel(image, prompt)
        phi_hat = self.edit_features.vision_key(edit_image, edit_prompt)
        above = similarity(phi, phi_hat) - sentinel[:, None]
        shown = with_image(rows.hidden.spans, self.device)
        above = above.masked_fill(~shown[:, None], torch.inf)
        psi_hat = self.edit_features.text_key(edit_prompt)
        z = similarity(inputs.text_key(prompt), psi_hat).masked_fill(rows.same_fact, NEVER)
        own = [-1 if kind in self.config.locality else j for kind, j in rows.names]
        owners = torch.tensor(own, device=self.device)
        has_own = owners >= 0
        return {
            "acting": hard_negative_loss(log_odds(above, z), owners),
            "soft_relative": info_nce(z[has_own], owners[has_own]),
        }
