"""Direct: an expert fitted to each edit by gradient descent; nothing has to be trained first.

This package's own method, for a model without a trained editor. An edit becomes an expert of
LiveEdit's form (Chen et al., CVPR 2025, Eq. 6) at one decoder layer:

    expert      fitting.py     a few steps of gradient descent from the edit layer upwards, on the
                               edit, its variants (variants.py) and noisy states, while background
                               answers are held
    keys        keys.py        the frozen model's features of image and question on the unit sphere
    thresholds  threshold.py   set on a background, for a stated rate of false firing
    routing     DirectPatch    of the edits above both thresholds the one nearest to the query acts

The relatives: RILKE (arXiv 2511.20892) fits a low-rank residual at one layer with noisy states and
finds it by the cosine of frozen features, for text; HoReN (arXiv 2605.08143) has keys of length one
and takes the nearest. Departures from both: keys of two kinds, image and question; a question read
with and without its image; thresholds from a background instead of constants.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from liveedit.data.background import background_queries
from liveedit.editors.common.bank import Bank
from liveedit.editors.common.bank_editor import BankEditor
from liveedit.editors.common.examples import chunks
from liveedit.editors.direct.background import (
    START,
    Features,
    features,
    image_means,
    read_background,
    read_features,
    texts_alone,
)
from liveedit.editors.direct.calibration import Calibration
from liveedit.editors.direct.fitting import Fit, Kept, fit, kept_answers
from liveedit.editors.direct.threshold import Edits, Nearest, nearest_edits
from liveedit.editors.direct.variants import seed_of, variants
from liveedit.editors.liveedit.experts import ExpertBranch, ExpertPatch
from liveedit.editors.liveedit.routing import Asked, Routing
from liveedit.models.batch import Batch, HiddenBatch, Scores
from liveedit.models.patch import SiteFn
from liveedit.models.vlm import VLM
from liveedit.settings import Count, Index, NotNegative, Positive, Share
from liveedit.types import Query

__all__ = ["Direct", "DirectConfig", "DirectPatch"]

KEPT = 4
"""Background queries whose answers are held while an expert is fitted."""
TOGETHER = 8
"""Edits whose experts are fitted in one batch."""


@dataclass(frozen=True)
class DirectConfig:
    """Settings of direct.

    Arguments:
        layer: Decoder layer whose output is edited, from 0; ``None``: after two thirds of them.
        rank: Rank r of an expert.
        steps: Steps of gradient descent for an edit; up to 16 times as many where they are too
            few for its answer.
        lr: Learning rate of Adam, for factors in units of the states they read and write.
        variants: Other wordings and views of an edit that its expert is fitted to, too.
        noise: Standard deviation of the noise on their states, as a share of the states' own.
        keep: Weight β of the background's answers in the loss.
        false_firing: Stated rate at which an unrelated image, asked the question of an edit, makes
            any edit fire.
        other_question: Stated rate at which another question of its sort about its image makes an
            edit fire, by each of the two readings of a question; by either at most twice as often.
        background: Folder of images that an edit should not fire on, such as those that users ask
            about; empty: the drawings that ship with the package.
        images: Number of these images that are read, once for a model.
        eos: Whether every target ends with the end-of-text token.
        positions: Tokens that get the residual: ``"answer"``, from the last prompt token on.
    """

    layer: Index | None = None
    rank: Count = 8
    steps: Count = 25
    lr: Positive = 0.05
    variants: Index = 4
    noise: NotNegative = 0.1
    keep: NotNegative = 0.1
    false_firing: Share = 0.01
    other_question: Share = 0.01
    background: str = ""
    images: Count = 512
    eos: bool = True
    positions: Literal["answer"] = "answer"


class DirectPatch(ExpertPatch):
    """Experts with keys of frozen features: k_v and k_q in ``vision_keys`` and ``text_keys``."""

    FILE = "direct.safetensors"
    late: ClassVar[tuple[str, ...]] = ()  # its threshold reads them of all edits
    editor: "Direct"  # type: ignore[assignment]

    def bind(self, batch: Batch) -> dict[str, SiteFn]:
        """See :meth:`Patch.bind`."""
        return DirectBranch(self, batch).sites() if len(self) else {}

    def with_ledger(self, ledger: Bank, superseded: Tensor | None = None) -> Self:
        """See :meth:`BankPatch.with_ledger`."""
        made = super().with_ledger(ledger, superseded)
        vars(made).pop("threshold", None)
        vars(made).pop("background_nearest", None)
        return made

    def following(self, earlier: Self) -> Self:
        """See :meth:`BankPatch.following`."""
        made = super().following(earlier)
        known = vars(earlier).get("background_nearest")
        if known is not None and made.superseded_elsewhere is None:
            vars(made)["background_nearest"] = made.nearest_to_background(known)
        return made

    @cached_property
    def background_nearest(self) -> Nearest:
        """The nearest of the edits that are not superseded to each image of the background."""
        return self.nearest_to_background()

    def nearest_to_background(self, earlier: Nearest | None = None) -> Nearest:
        """:attr:`background_nearest`, given that of the first edits."""
        known = self.editor.calibration
        edits = Edits(
            self.bank["vision_keys"][:, 0],
            self.bank["text_keys"][:, 0],
            self.ledger["asked"].to(self.bank.device),
            self.not_superseded,
        )
        return nearest_edits(known.images, edits, known.reach, earlier)

    @cached_property
    def threshold(self) -> float:
        """τ_v for the edits that are not superseded."""
        return self.background_nearest.threshold(self.editor.config.false_firing)

    @property
    def margin(self) -> float:
        """See :attr:`ExpertPatch.margin`; none beside the threshold."""
        return 0.0

    @property
    def least_question(self) -> float:
        """See :attr:`ExpertPatch.least_question`; both halves of such keys are alike."""
        return 2 * min(self.editor.calibration.reach)

    def nearest(self, features: Features) -> Routing:
        """Of the edits above both thresholds the nearest, with weight 1; all are compared."""
        every = torch.arange(len(self), device=self.bank.device)
        return self.routed(self.asked_by(features), every)

    def asked_by(self, features: Features) -> Asked:
        """Some rows, given their features, for routing; τ_v takes the place of the sentinel."""
        image, question = self.editor.calibration.space.keys(features)
        return Asked(image, question, torch.full_like(image[:, 0], self.threshold), features.shown)

    @torch.no_grad()
    def routed(self, asked: Asked, edits: Tensor, *, scores: bool = False) -> Routing:
        """Of some edits (n',) above both thresholds the nearest; with their scores, if wanted."""
        vision_keys, text_keys = self.keys(edits)
        image = asked.image @ vision_keys.T
        question, least = self.editor.calibration.reach.compared(asked.question, text_keys)
        without = ~asked.shown[:, None] & vision_keys[:, 0].isnan()
        near = torch.where(without, True, image > asked.sentinel[:, None])
        keep = self.in_force(near & (question > least), edits)
        score = (image.nan_to_num(0.0) + question - least).masked_fill(~keep, -torch.inf)
        best = score.topk(min(1, len(edits)), dim=1).indices
        keep &= torch.zeros_like(keep).scatter(1, best, True)
        compared = (image, question, least, without)
        found = self.scores_of(asked, edits, *compared) if scores else []
        return Routing(edits, image, asked.sentinel, keep, keep.float(), found)

    def scores_of(
        self,
        asked: Asked,
        edits: Tensor,
        image: Tensor,
        question: Tensor,
        least: Tensor,
        without: Tensor,
    ) -> list[Scores]:
        """How near each row came to some edits, given the cosines of their keys (B, n'), what that
        of the question has to exceed, and where neither side has an image.
        """
        threshold = asked.sentinel[:, None].expand_as(image)
        by_image = (image - threshold).nan_to_num(-torch.inf).masked_fill(without, torch.inf)
        return Scores.of_rows(
            torch.minimum(by_image, question - least),
            edits,
            image=image,
            image_threshold=threshold.masked_fill(image.isnan(), torch.nan),
            question=question,
            question_threshold=least,
        )


class DirectBranch(ExpertBranch):
    """Adds the residual of the nearest expert to the output of the edit layer."""

    patch: DirectPatch

    def __init__(self, patch: DirectPatch, batch: Batch) -> None:
        super().__init__(patch, batch)
        editor = patch.editor
        self.images = torch.empty(0)
        if self.alone is None:
            self.texts = texts_alone(editor.vlm, editor.layer, batch)

    def sites(self) -> dict[str, SiteFn]:
        """See :meth:`Branch.sites`."""
        return {START: self.see} | super().sites()

    def see(self, x: Tensor) -> Tensor:
        """Read the images of prompts at the decoder's input ``x`` (B, T', D), and return it."""
        if self.routing is None:
            self.images = image_means(x, self.batch.spans)
        return x

    def asked(self, x: Tensor) -> Asked:
        """See :meth:`ExpertBranch.asked`."""
        read = self.alone
        if read is None:
            read = features(self.images.to(x.device), x, self.batch.spans, self.texts)
        return self.patch.asked_by(read)

    def read_alone(self, batch: Batch) -> Features:
        """See :meth:`ExpertBranch.read_alone`."""
        editor = self.patch.editor
        with editor.vlm.unpatched():
            return read_features(editor.vlm, editor.layer, batch)[0]


class Direct(BankEditor[DirectPatch]):
    """Fits an expert to each edit; the edits are found by frozen features."""

    name = "direct"
    Config = DirectConfig
    patch_class = DirectPatch
    scored = True
    config: DirectConfig

    def __init__(self, vlm: VLM, config: DirectConfig | None = None) -> None:
        super().__init__(vlm, config)
        self.layer = 2 * vlm.num_layers // 3 if self.config.layer is None else self.config.layer
        vlm.check_layer(self.layer)

    @property
    def device(self) -> torch.device:
        """The device of the experts."""
        return self.vlm.device

    def norm(self, states: Tensor) -> Tensor:
        """LN of Eq. 6, without parameters."""
        return F.layer_norm(states, states.shape[-1:])

    @property
    def background_folder(self) -> str:
        """See :attr:`Editor.background_folder`."""
        return self.config.background

    @property
    def false_firing(self) -> float:
        """See :attr:`Editor.false_firing`."""
        return self.config.false_firing

    @cached_property
    def background(self) -> dict[str, list[Query]]:
        """The background's queries (:func:`background_queries`)."""
        return background_queries(self.config.background, self.config.images)

    @cached_property
    def calibration(self) -> Calibration:
        """Keys and thresholds, from the background; it is read at the first use."""
        meanings = [query.fact.partition(":")[2] for query in self.background["common"]]
        read = read_background(self.vlm, self.layer, self.background)
        return Calibration.learned(read, meanings, self.config.other_question)

    def learned(self) -> dict[str, Tensor]:
        """See :meth:`Editor.learned`: the calibration."""
        return self.calibration.tensors()

    def take_over(self, learned: Mapping[str, Tensor]) -> None:
        """See :meth:`Editor.take_over`."""
        here = {name: tensor.to(self.vlm.device) for name, tensor in learned.items()}
        self.calibration = Calibration.of_tensors(here)

    @cached_property
    def kept(self) -> Kept:
        """Some background queries with the model's own answers."""
        asked = self.background["apart"][:KEPT]
        with self.vlm.unpatched():
            replies = self.vlm.generate(asked)
        answered = [
            Query(query.prompt, reply or "?", query.image)
            for query, reply in zip(asked, replies, strict=True)
        ]
        batch = self.vlm.encode(answered, eos=self.config.eos)
        return kept_answers(self.vlm, self.layer, self.vlm.hidden(batch, self.layer))

    # Editing

    def empty(self) -> DirectPatch:
        """A patch without edits."""
        width = self.vlm.state_size
        factor = torch.empty(0, self.config.rank, width)
        return DirectPatch(
            self,
            Bank(
                {
                    "vision_keys": torch.empty(0, 1, width, dtype=torch.float16),
                    "text_keys": torch.empty(0, 1, 2 * width, dtype=torch.float16),
                    "expert_in": factor,
                    "expert_out": factor,
                }
            ),
        )

    def extended(self, patch: DirectPatch, queries: Sequence[Query]) -> DirectPatch:
        """See :meth:`BankEditor.extended`."""
        bank = patch.bank
        for some in chunks(queries, TOGETHER):
            bank = bank.append(self.experts(some))
        return DirectPatch(self, bank)

    def experts(self, queries: Sequence[Query]) -> dict[str, Tensor]:
        """The bank's rows of edits: their keys (E, 1, D) and factors (E, r, D)."""
        c = self.config
        images = list[Tensor]()
        questions = list[Tensor]()
        states = list[HiddenBatch]()
        for query in queries:
            asked = [query, *variants(query, c.variants)]
            batch = self.vlm.encode(asked, eos=c.eos)
            read, hidden = read_features(self.vlm, self.layer, batch)
            if batch.alone is not None:
                read, _ = read_features(self.vlm, self.layer, batch.alone)
            image_keys, question_keys = self.calibration.space.keys(read)
            images.append(image_keys[:1])
            questions.append(question_keys[:1])
            states.append(hidden)
        settings = Fit(self.layer, c.rank, c.steps, c.lr, c.noise, c.keep)
        U, V = fit(self.vlm, settings, states, self.kept, [seed_of(query) for query in queries])
        return {
            "vision_keys": torch.stack(images),
            "text_keys": torch.stack(questions),
            "expert_in": U,
            "expert_out": V,
        }
