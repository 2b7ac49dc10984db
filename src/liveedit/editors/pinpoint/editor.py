"""Pinpoint: LiveEdit's experts, written where the answer will stand and found by image and question
together.

Our own method, and the default of :func:`liveedit.load`. From LiveEdit (Chen et al., CVPR 2025;
``liveedit.py``) it takes the pool of low-rank experts, one an edit, made by a trained generator
(Eq. 1); keys of what an edit shows and asks, compared with a sentinel (Eq. 3 to 5); the residual
and its weights (Eq. 6 and 7); and the terms that train what is written (Eq. 8 to 11). What is new:

    part        LiveEdit                               pinpoint                                              file
    generator   attends to the edit as a set           row j of U and V belongs to token j of the answer     aligned
    features    two extractors, inner products         one for both sides, keys of unit length, a sentinel   metric
                                                       for the question too
    negatives   pairs drawn at random                  every query of a batch against every edit of it,      contrast
                                                       look-alikes and other questions among them
    gate        the image above the sentinel (Eq. 5)   likelier than not by image and question, by a margin  contrast
    residual    at every position                      from the last prompt token on                         routing
    dropped     nothing                                a share of the tokens that the extractors see         nets
    targets     end with the answer                    end with the end of text

docs/explanation/results/ablations.md measures what gate, margin and residual are worth, and how
LiveEdit does without them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from liveedit.editors import PAPERS
from liveedit.editors.base import Example
from liveedit.editors.common.attention import own_similarity, similarity
from liveedit.editors.common.extractors import (
    EditSide,
    FeatureExtractor,
    InputExtractor,
    MetricExtractor,
)
from liveedit.editors.common.hard_negatives import contrast, log_odds
from liveedit.editors.common.losses import info_nce
from liveedit.editors.former_names import OURS
from liveedit.editors.liveedit.editor import LiveEdit, LiveEditConfig, image_tokens
from liveedit.editors.liveedit.objective import Rows
from liveedit.editors.liveedit.routing import pictured
from liveedit.editors.liveedit.sampling import Draws
from liveedit.editors.pinpoint.generator import AlignedGenerator
from liveedit.errors import UnsupportedModel
from liveedit.models.vlm import VLM
from liveedit.settings import Count, Share

__all__ = ["Pinpoint", "PinpointConfig"]

NEVER = -100.0
"""z of a pair that no routing term is to count: σ(z) is 0, and so is its cost. At −∞ the loss would
be no number.
"""


@dataclass(frozen=True)
class PinpointConfig(LiveEditConfig):
    """Settings of LiveEdit, with defaults of our own, and further ones.

    ``rank`` is the most tokens that an answer may have, its end included. ``written`` is how many
    examples of a batch write their answers, ``None`` for all; the others are routed all the same,
    which costs far less. ``drop`` is the share of image and prompt tokens that the extractors do
    not see in training, drawn anew for each row.

    At query time ``gate`` "both" keeps the experts that are likelier to belong to the query than
    not, by image and question together, "vision" those whose image matches better than the
    sentinel; ``margin`` is how far above the one or the other they must be.
    """

    rank: Count = 12
    eos: bool = True
    positions: Literal["all", "answer"] = "answer"
    gate: Literal["vision", "both"] = "both"
    margin: float = 1.0
    written: Count | None = None
    drop: Share = 0.2
    locality: tuple[str, ...] = ("image_locality", "look_alike_image", "same_image_other_question")


class Pinpoint(LiveEdit):
    """The editor. Its networks have the places of LiveEdit's, its patches the form of LiveEdit's."""

    name = "pinpoint"
    paper = PAPERS["pinpoint"]
    Config = PinpointConfig
    query_time = LiveEdit.query_time | {"gate"}
    fixed: ClassVar[dict[str, Any]] = OURS
    config: PinpointConfig

    def __init__(self, vlm: VLM, config: PinpointConfig | None = None) -> None:
        if vlm.state_size != vlm.hidden_size:
            raise UnsupportedModel(
                "pinpoint needs states as wide as words: edit this model with liveedit"
            )
        super().__init__(vlm, config)

    def parts(self) -> tuple[nn.Module, InputExtractor, FeatureExtractor | EditSide]:
        """See :meth:`LiveEdit.parts`."""
        c, vlm = self.config, self.vlm
        sizes = (vlm.state_size, c.module_dim, c.heads)
        generator = AlignedGenerator(*sizes, c.rank, c.scale)
        metric = MetricExtractor(*sizes, c.queries, image_tokens(vlm))
        return generator, metric, EditSide(metric)

    def keeps(self, above: Tensor, z: Tensor) -> Tensor:
        """See :meth:`LiveEdit.keeps`."""
        return super().keeps(above if self.config.gate == "vision" else log_odds(above, z), z)

    def writing(self, examples: Sequence[Example]) -> Sequence[Example]:
        """See :meth:`LiveEdit.writing`: the first ``config.written``."""
        return examples[: self.config.written]

    def routing_terms(self, examples: Sequence[Example], draws: Draws) -> dict[str, Tensor]:
        """Every row against every edit of the batch but its rivals: own ones act and come first,
        all others do not.
        """
        rows = Rows(self, examples)
        bar, hat = self.input_features, self.edit_features
        share, dice = self.config.drop, draws.dice
        own = torch.tensor(
            [-1 if kind in self.config.locality else j for kind, j in rows.names],
            device=self.device,
        )
        image, prompt = rows.image.drop(share, dice), rows.prompt.drop(share, dice)
        edit_image = rows.image.pick(rows.edits).drop(share, dice)
        edit_prompt = rows.prompt.pick(rows.edits).drop(share, dice)
        phi = bar.vision_key(image, prompt)
        sentinel = own_similarity(phi, bar.sentinel_key(prompt))
        margin = similarity(phi, hat.vision_key(edit_image, edit_prompt)) - sentinel[:, None]
        seen = torch.tensor([pictured(span) for span in rows.hidden.spans], device=self.device)
        z = similarity(bar.text_key(prompt), hat.text_key(edit_prompt)).masked_fill(
            rows.rivals, NEVER
        )
        mine = own >= 0
        return {
            "acting": contrast(log_odds(margin.masked_fill(~seen[:, None], torch.inf), z), own),
            "soft_relative": info_nce(z[mine], own[mine]),
        }
