"""Low-rank experts at one decoder layer: the patch, its branch, and the editors that generate them.

LiveEdit and pinpoint are such editors: each edit becomes one expert, two factors and two keys; a
query's image and question decide which experts act (``routing.py``).

Shapes: B rows, T tokens, E experts in the patch, n experts that one row keeps at most, D width of
the text decoder, d_m width of keys, k vectors of a key, r rank.
"""

from abc import abstractmethod
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from liveedit.editors.base import TrainableEditor
from liveedit.editors.common.ahead import ahead
from liveedit.editors.common.attention import image_and_prompt
from liveedit.editors.common.bank import Bank
from liveedit.editors.common.bank_editor import BankEditor, BankPatch
from liveedit.editors.common.branch import Branch
from liveedit.editors.common.examples import Example, chunks
from liveedit.editors.common.extractors import EditSide, FeatureExtractor, InputExtractor
from liveedit.editors.common.widths import multiple
from liveedit.editors.liveedit.routing import (
    Asked,
    Routing,
    asked,
    reach,
    residual,
    soft_routing,
)
from liveedit.editors.liveedit.sampling import Draws
from liveedit.errors import BadInput
from liveedit.models.batch import Batch, HiddenBatch, Scores, Spans
from liveedit.models.patch import SiteFn
from liveedit.models.vlm import VLM
from liveedit.settings import Count, Index, Positive
from liveedit.types import Case, Query

__all__ = ["TOGETHER", "ExpertBranch", "ExpertEditor", "ExpertPatch", "LiveEditConfig"]

SHOWN = 64
"""Experts whose scores are told where a pool has many, beside those that may fire."""
SLAB = 64
"""Experts of a row whose factors are gathered at a time, which bounds the memory that takes."""
TOGETHER = 8
"""Edits that a GPU makes at a time, while the images of the next are prepared."""
ON_CPU = 32
"""The same of a CPU, which does both, and takes a quarter longer with smaller batches."""


@dataclass(frozen=True)
class LiveEditConfig:
    """Settings of LiveEdit; the defaults are the released ones.

    Arguments:
        module_dim: Width d_m of the attention modules and of keys.
        heads: Attention heads; they divide ``module_dim`` and the width of the decoder's states.
        rank: Rank r of an expert.
        queries: Number k of vectors in a key.
        scale: Divisor of what the generator computes.
        layer: Decoder layer whose output is edited, from 0; ``None``: after two thirds of them.
        eos: Whether every target ends with the end-of-text token.
        positions: Tokens that get the residual: ``"all"``, or ``"answer"``, from the last prompt
            token on; in training, too.
        margin: Smallest distance above the sentinel at which an expert is kept (Eq. 5).
        top_k: Number of kept experts, the most similar in ψ, that are weighed (Eq. 7); ``None``:
            all of them.
        keys: How keys are kept: ``"half"`` precision, or ``"float"`` as released.
        text_only: Treatment of queries without image: ``"never"``, no edit acts on them, or
            ``"text_key"``, edits with z > 0 do, that is, with σ(z) above one half.
        generality: Metrics whose probes are trained to get the target.
        locality: Metrics whose probes are trained to stay as they were.
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
    keys: Literal["half", "float"] = "half"
    text_only: Literal["never", "text_key"] = "never"
    generality: tuple[str, ...] = ("text_generality", "image_generality")
    locality: tuple[str, ...] = ("image_locality",)


class ExpertPatch(BankPatch):
    """Experts, and the editor whose networks route queries to them.

    ``bank`` holds ``vision_keys`` φ̂ and ``text_keys`` ψ̂ (E, k, d_m), and the factors ``expert_in``
    U and ``expert_out`` V (E, r, D).
    """

    FILE = "liveedit.safetensors"
    factors = ("expert_in", "expert_out")
    late: ClassVar[tuple[str, ...]] = ("text_keys",)
    searched = ("vision_keys", "text_keys")
    editor: Any
    """An :class:`ExpertEditor`, or another editor of experts."""

    def __init__(self, editor: Any, bank: Bank) -> None:
        super().__init__(editor, bank.to(editor.device))

    def __getitem__(self, index: slice) -> "ExpertPatch":
        """The patch with a slice of the edits, as for a list."""
        return self.select(index)

    def select(self, index: Sequence[int] | slice | Tensor) -> "ExpertPatch":
        """The edits at ``index`` alone, in that order."""
        made = ExpertPatch(self.editor, self.bank.select(index))
        return made.with_ledger(self.ledger.select(index))

    def bind(self, batch: Batch) -> dict[str, SiteFn]:
        """See :meth:`Patch.bind`. The site is the edit layer."""
        text_counts = self.editor.config.text_only == "text_key"
        reachable = text_counts or any(span.has_image for span in batch.spans)
        return ExpertBranch(self, batch).sites() if len(self) and reachable else {}

    @torch.no_grad()
    def route(self, hidden: Tensor, spans: Sequence[Spans]) -> Routing:
        """Eq. 5 and 7 for rows with the states ``hidden`` (B, T, D) at the edit layer, each of
        which is compared with all experts.
        """
        every = torch.arange(len(self), device=self.bank.device)
        return self.routed(self.asked(hidden, spans), every)

    @torch.no_grad()
    def asked(self, hidden: Tensor, spans: Sequence[Spans]) -> Asked:
        """The features of rows with the states ``hidden`` (B, T, D) at the edit layer."""
        return asked(self.editor.input_features, *image_and_prompt(hidden, spans))

    @property
    def margin(self) -> float:
        """How far an expert has to be above the sentinel at least."""
        margin: float = self.editor.config.margin
        return margin

    @property
    def least_question(self) -> float | None:
        """The similarity that questions without an image have to exceed; ``None`` where no edit
        acts on them.
        """
        return 0.0 if self.editor.config.text_only == "text_key" else None

    @torch.no_grad()
    def within_reach(self, asked: Asked) -> Tensor:
        """The experts (n',) that the images or, without one, the questions do not rule out."""
        shown = asked.shown
        least = asked.sentinel + self.margin
        found = above(self.bank, "vision_keys", asked.image[shown], least[shown])
        if self.least_question is None or bool(shown.all()):
            return found
        questions = asked.question[~shown]
        least = torch.full_like(questions[:, 0], self.least_question)
        return either(found, above(self.bank, "text_keys", questions, least))

    @torch.no_grad()
    def near(self, asked: Asked) -> Tensor:
        """The experts (n',) to tell scores of: those within reach and, of many, the nearest."""
        shown = asked.shown
        name = "vision_keys" if bool(shown.any()) else "text_keys"
        query = asked.image[shown] if bool(shown.any()) else asked.question
        most = self.bank.nearest(name, query, SHOWN)
        return either(self.within_reach(asked), most)

    @torch.no_grad()
    def routed(self, asked: Asked, edits: Tensor, *, scores: bool = False) -> Routing:
        """Eq. 5 and 7 among some of the experts (n',); with their scores, if wanted."""
        editor = self.editor
        vision_keys, text_keys = self.keys(edits)
        vision = asked.image @ vision_keys.T
        z = asked.question @ text_keys.T
        if editor.config.text_only == "text_key":
            without_image = z > 0
        else:
            without_image = torch.zeros_like(z, dtype=torch.bool)
        distance = vision - asked.sentinel[:, None]
        fires = torch.where(asked.shown[:, None], editor.keeps(distance, z), without_image)
        keep = self.in_force(fires, edits)
        if editor.config.top_k is not None:
            most = min(editor.config.top_k, len(edits))
            best = z.masked_fill(~keep, -torch.inf).topk(most, dim=1).indices
            keep &= torch.zeros_like(keep).scatter(1, best, True)
        found = self.scores(asked, edits, distance, z) if scores else []
        return Routing(edits, vision, asked.sentinel, keep, soft_routing(z, keep), found)

    def keys(self, edits: Tensor) -> tuple[Tensor, Tensor]:
        """φ̂ and ψ̂ of some experts, each (n', k · d_m), in float32."""
        [vision] = self.bank.gather(["vision_keys"], edits)
        [text] = self.bank.gather(["text_keys"], edits)
        return vision.flatten(1).float(), text.flatten(1).float()

    def scores(self, asked: Asked, edits: Tensor, distance: Tensor, z: Tensor) -> list[Scores]:
        """How near each row came to some experts, given how far each is above the sentinel in φ
        and its similarity in ψ, both (B, n').
        """
        shown = asked.shown[:, None]
        sentinel = asked.sentinel[:, None]
        least, question_threshold = self.editor.thresholds(z)
        by_text = z if self.editor.config.text_only == "text_key" else torch.full_like(z, torch.nan)
        score = self.editor.score(distance, z) - self.margin
        return Scores.of_rows(
            torch.where(shown, score, by_text).nan_to_num(-torch.inf),
            edits,
            image=(distance + sentinel).masked_fill(~shown, torch.nan),
            image_threshold=(sentinel + least).masked_fill(~shown, torch.nan),
            question=z,
            question_threshold=torch.where(shown, question_threshold, 0.0),
        )


def above(bank: Bank, name: str, queries: Tensor, least: Tensor) -> Tensor:
    """The experts (n,) whose key has an inner product with one of ``queries`` (B, d) above its
    ``least`` (B,).
    """
    if not len(queries):
        return torch.empty(0, dtype=torch.long, device=queries.device)
    near = bank.near(name, queries, least)
    [keys] = bank.gather([name], near)
    return near[(queries @ keys.flatten(1).float().T > least[:, None]).any(0)]


def either(some: Tensor, others: Tensor) -> Tensor:
    """The experts (n,) in one list or the other, each once and in order."""
    found: Tensor = torch.unique(torch.cat([some, others]))  # type: ignore[no-untyped-call]
    return found


class ExpertRoute(NamedTuple):
    """The experts of each row.

    Arguments:
        experts: The experts that it keeps, the heaviest first, (B, n).
        weights: Their fusion weights, (B, n), 0 beyond those that it keeps.
        kept: How many it keeps, (B,).
        first: Its first token that gets the residual if ``positions`` is ``"answer"``, (B,).
    """

    experts: Tensor
    weights: Tensor
    kept: Tensor
    first: Tensor


class ExpertBranch(Branch[ExpertRoute]):
    """Adds the residuals of a patch's experts to the output of the edit layer (Eq. 6)."""

    def __init__(self, patch: ExpertPatch, batch: Batch) -> None:
        site = f"layers.{patch.editor.layer}"
        super().__init__(site, site)
        self.patch = patch
        self.batch = batch
        self.rows = torch.empty(0, dtype=torch.long)
        """The rows that keep an expert; found once, since finding them waits for the device."""
        self.few: tuple[Tensor, Tensor] | None = None
        """U and V of the experts of these rows, each (B', n, r, D), where a row has but few."""
        self.alone = None if batch.alone is None else self.read_alone(batch.alone)
        """The questions of chats as they are read alone."""

    def route(self, x: Tensor) -> ExpertRoute:
        """Choose experts for the prompts, and note them in ``batch.fired``."""
        routing = self.routing_of(x, scores=self.batch.wants_scores)
        experts, weights = routing.ranked()
        kept = routing.keep.sum(1)
        fired = []
        for row, row_weights, count in zip(
            experts.tolist(), weights.tolist(), kept.tolist(), strict=True
        ):
            fired.append(list(zip(row[:count], row_weights[:count], strict=True)))
        self.batch.fired[self.patch] = fired
        if routing.scores:
            self.batch.scores[self.patch] = routing.scores
        self.rows = kept.nonzero()[:, 0]
        return ExpertRoute(experts, weights, kept, self.batch.last_prompt_tokens())

    def read_alone(self, batch: Batch) -> Any:
        """The questions of chats at the edit layer, without what was said before."""
        editor = self.patch.editor
        with editor.vlm.unpatched():
            return editor.vlm.hidden(batch, editor.layer)

    def routing_of(self, x: Tensor, scores: bool) -> Routing:
        """The router's decision for the prompts ``x`` (B, T, D); with scores, if wanted."""
        asked = self.asked(x)
        edits = self.patch.near(asked) if scores else self.patch.within_reach(asked)
        return self.patch.routed(asked, edits, scores=scores)

    def asked(self, x: Tensor) -> Asked:
        """The features of the prompts ``x`` (B, T, D)."""
        if self.alone is not None:
            return self.patch.asked(self.alone.hidden, self.alone.spans)
        return self.patch.asked(x, self.batch.spans)

    def reorder(self, rows: Tensor) -> None:
        """See :meth:`Branch.reorder`."""
        super().reorder(rows)
        self.few = None
        if self.routing is not None:
            self.rows = self.routing.kept.nonzero()[:, 0]

    def of_row(self, row: int) -> "ExpertBranch":
        """A branch that goes on with one row."""
        made = copy(self)
        made.reorder(torch.tensor([row]))
        return made

    @classmethod
    def joined(cls, branches: "Sequence[ExpertBranch]") -> "JoinedBranch | None":
        """A branch for the next tokens of several branches of one editor, their rows in turn.

        ``None`` where one of them keeps too many experts to have their factors at hand.
        """
        parts = [branch.kept_rows() for branch in branches]
        if any(part is None for part in parts):
            return None
        return JoinedBranch(branches[0], [part for part in parts if part is not None])

    def kept_rows(self) -> tuple[Tensor, Tensor, Tensor] | None:
        """U and V (B, n, r, D) and the weights (B, n) of the experts that the rows keep.

        ``None`` for more than :data:`SLAB` experts.
        """
        assert self.routing is not None
        most = int(self.routing.kept.max())
        if most > SLAB:
            return None
        experts = self.routing.experts[:, :most]
        U, V = self.patch.bank.gather(ExpertPatch.factors, experts)
        return U, V, self.routing.weights[:, :most]

    def change(self, x: Tensor, output: Tensor, routing: ExpertRoute) -> Tensor:
        """See :meth:`Branch.change`."""
        rows = self.rows
        if not len(rows):
            return output
        with torch.no_grad():
            change = self.residuals(x[rows].float(), routing.experts[rows], routing.weights[rows])
            if self.patch.editor.config.positions == "answer":
                first = routing.first[rows.to(routing.first.device)]
                change *= reach(first, change, self.start)
        return output.index_add(0, rows, change.to(output.dtype))

    def residuals(self, x: Tensor, experts: Tensor, weights: Tensor) -> Tensor:
        """Eq. 6 without h, Σ w ρ(LN(h) Uᵀ) V (B', T', D), for the states h = ``x`` (B', T', D)."""
        normalised = self.patch.editor.norm(x)
        change = torch.zeros_like(normalised)
        for start in range(0, experts.shape[1], SLAB):
            U, V = self.factors(experts, start)
            change += residual(normalised, U, V, weights[:, start : start + SLAB])
        return change

    def factors(self, experts: Tensor, start: int) -> tuple[Tensor, Tensor]:
        """U and V of at most ``SLAB`` of the rows' experts (B', n), from ``start`` on."""
        if self.few is not None:
            return self.few
        U, V = self.patch.bank.gather(ExpertPatch.factors, experts[:, start : start + SLAB])
        if experts.shape[1] <= SLAB:
            self.few = U, V
        return U, V


class JoinedBranch:
    """Adds the residuals of the experts of several branches to their next tokens."""

    def __init__(self, first: ExpertBranch, parts: Sequence[tuple[Tensor, Tensor, Tensor]]) -> None:
        self.editor = first.patch.editor
        self.site = first.writes
        most = max(weights.shape[1] for _, _, weights in parts)
        U, V, weights = zip(*parts, strict=True)
        self.U = torch.cat([_widened(part, most) for part in U])
        self.V = torch.cat([_widened(part, most) for part in V])
        self.weights = torch.cat([_widened(part, most) for part in weights])

    def sites(self) -> dict[str, SiteFn]:
        """See :meth:`Branch.sites`."""
        return {self.site: self.change}

    def rewind(self, length: int) -> None:
        """See :meth:`Branch.rewind`; all tokens come after the prompts."""

    @torch.no_grad()
    def change(self, x: Tensor) -> Tensor:
        """The states ``x`` (R, T', D) with their residuals."""
        normalised = self.editor.norm(x.float())
        return x + residual(normalised, self.U, self.V, self.weights).to(x.dtype)


def _widened(part: Tensor, most: int) -> Tensor:
    """A part (B, n, …) with zeros for experts up to ``most``."""
    missing = part.new_zeros(len(part), most - part.shape[1], *part.shape[2:])
    return torch.cat([part, missing], 1)


class ExpertEditor(TrainableEditor[ExpertPatch, Example], BankEditor[ExpertPatch]):
    """An editor of experts: a generator, feature extractors of both sides, and a LayerNorm.

    A method gives :meth:`parts`, and may override :meth:`keeps`, :meth:`writing` and
    :meth:`routing_terms`.
    """

    patch_class = ExpertPatch
    scored = True
    fixed: ClassVar[dict[str, Any]]
    """Values of former settings, which still count for the fingerprint."""
    config: LiveEditConfig

    def __init__(self, vlm: VLM, config: LiveEditConfig | None = None) -> None:
        super().__init__(vlm, config)
        c = self.config
        vlm.check_layer(self.layer)
        if c.module_dim % c.heads or vlm.state_size % c.heads:
            raise BadInput(
                f"{c.heads} heads do not divide widths {c.module_dim} and {vlm.state_size}: "
                "change heads"
            )
        self.generator, self.input_features, self.edit_features = self.parts()
        self.norm = nn.LayerNorm(vlm.state_size)
        parts = ("generator", "edit_features", "input_features", "norm")
        self._networks = nn.ModuleDict({name: getattr(self, name) for name in parts})
        self._networks.to(vlm.device)

    @classmethod
    def fitted(cls, vlm: VLM, cases: Sequence[Case]) -> dict[str, Any]:
        """See :meth:`TrainableEditor.fitted`: keys as wide as the model's states, up to 1,024."""
        width = vlm.state_size
        return {
            **super().fitted(vlm, cases),
            "module_dim": min(cls.Config().module_dim, multiple(width)),
            "heads": max(heads for heads in (1, 2, 4, 8) if width % heads == 0),
        }

    @classmethod
    def learns_from(cls, case: Case) -> bool:
        """See :meth:`TrainableEditor.learns_from`: the edit needs an image."""
        return super().learns_from(case) and bool(case.edits[0].images)

    @abstractmethod
    def parts(self) -> tuple[nn.Module, InputExtractor, FeatureExtractor | EditSide]:
        """Generator of experts, and the feature extractors of input and edit.

        The generator maps the edits' HiddenBatch and the model's output embedding (V, D) to U and
        V, each (B, r, D).
        """

    @abstractmethod
    def routing_terms(self, examples: Sequence[Example], draws: Draws) -> dict[str, Tensor]:
        """The terms of the loss that train the routing."""

    def keeps(self, above: Tensor, z: Tensor) -> Tensor:
        """The hard filter, Eq. 5: the experts that act, boolean (B, E).

        ``above`` (B, E) is how far each expert is above the sentinel in φ, ``z`` (B, E) its
        similarity in ψ.
        """
        return self.score(above, z) > self.config.margin

    def score(self, above: Tensor, z: Tensor) -> Tensor:  # noqa: ARG002
        """The values (B, E) that the hard filter compares with the margin."""
        return above

    def thresholds(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """The least distance above the sentinel, and the least z, that the filter lets pass.

        Both are (B, E); NaN where any will do.
        """
        return torch.full_like(z, self.config.margin), torch.full_like(z, torch.nan)

    def writing(self, examples: Sequence[Example]) -> Sequence[Example]:
        """The examples of a batch that train the generated experts, which is the expensive part."""
        return examples

    @property
    def identity(self) -> tuple[str, dict[str, Any]]:
        """See :attr:`TrainableEditor.identity`: name and settings in the form that they had before
        LiveEdit and pinpoint got separate names, so that older patches still open.
        """
        return "liveedit", super().identity[1] | self.fixed

    def networks(self) -> nn.ModuleDict:
        """Generator, feature extractors and norm."""
        return self._networks

    # Editing

    def empty(self) -> ExpertPatch:
        """A patch without edits."""
        c = self.config
        precision = torch.float16 if c.keys == "half" else torch.float32
        key = torch.empty(0, c.queries, c.module_dim, dtype=precision)
        factor = torch.empty(0, c.rank, self.vlm.state_size)
        return ExpertPatch(
            self,
            Bank({"vision_keys": key, "text_keys": key, "expert_in": factor, "expert_out": factor}),
        )

    @torch.no_grad()
    def extended(self, patch: ExpertPatch, queries: Sequence[Query]) -> ExpertPatch:
        """See :meth:`BankEditor.extended`."""
        bank = patch.bank
        encode = partial(self.vlm.encode, eos=self.config.eos)
        size = ON_CPU if self.device.type == "cpu" else TOGETHER
        for batch in ahead(encode, chunks(queries, size)):
            rows = self.experts(self.vlm.hidden(batch, self.layer))
            if batch.alone is not None:
                alone = self.experts(self.vlm.hidden(batch.alone, self.layer))
                rows |= {name: alone[name] for name in ("vision_keys", "text_keys")}
            bank = bank.append(rows)
        return ExpertPatch(self, bank)

    def experts(self, hidden: HiddenBatch) -> dict[str, Tensor]:
        """The bank's row of each edit: φ̂ and ψ̂ (B, k, d_m), U and V (B, r, D).

        φ̂ is NaN, which is above no sentinel, where the edit has no image.
        """
        image, prompt = image_and_prompt(hidden.hidden, hidden.spans)
        vision_keys = self.edit_features.vision_key(image, prompt)
        shown = image.mask.any(1)[:, None, None]
        expert_in, expert_out = self.factors(hidden)
        return {
            "vision_keys": vision_keys.masked_fill(~shown, torch.nan),
            "text_keys": self.edit_features.text_key(prompt),
            "expert_in": expert_in,
            "expert_out": expert_out,
        }

    def factors(self, hidden: HiddenBatch) -> tuple[Tensor, Tensor]:
        """U and V, each (B, r, D), of edits with the states ``hidden`` at the edit layer."""
        factors: tuple[Tensor, Tensor] = self.generator(hidden, self.vlm.unembedding)
        return factors

    def check(self, query: Query) -> None:
        """See :meth:`Editor.check`; an edit without image needs ``text_only="text_key"``."""
        super().check(query)
        if query.image is None and self.config.text_only == "never":
            raise BadInput(
                f"the edit '{query.prompt:.80}' has no image: add one, or take an editor that "
                "needs none, such as direct"
            )

    def training_queries(self, case: Case) -> dict[str, Query]:
        """See :meth:`TrainableEditor.training_queries`.

        The edit needs an image. Probes without one are left out unless edits act on them. Raises
        :class:`BadInput` for another case.
        """
        if len(case.edits) != 1 or case.edits[0].image is None:
            raise BadInput(
                f"case {case.id} is not one edit of what an image shows: {self.name} cannot learn "
                "from it"
            )
        if self.config.text_only == "never":
            shown = [probe for probe in case.probes if probe.query.image is not None]
            case = replace(case, probes=tuple(shown))
        return super().training_queries(case)
