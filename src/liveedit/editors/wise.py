"""WISE: a side memory, a second copy of one matrix, that takes the edits; each query goes to it or
to the main one.

Wang, Li, Zhang, Xu, Yao, Jiang, Xie, Huang, Chen: "WISE: Rethinking the Knowledge Memory for
Lifelong Model Editing of Large Language Models", NeurIPS 2024 (arXiv 2405.14768). With A(x) (H)
what the last matrix W_v (D x H) of one feed-forward network takes, and its copy W_v' = W_v + τ,

    Δ(x) = ‖A(x) (W_v' − W_v)‖                                                                            (Eq. 3)
    FFN(x) = A(x) W_v'  if Δ(x) > ε,  A(x) W_v  otherwise                                                 (Eq. 4)
    L_a = max(0, Δ(x_i) − α) + max(0, β − Δ(x_e)) + max(0, γ − (Δ(x_e) − Δ(x_i)))                         (Eq. 5)
    L = −log f(o | x_e) + L_a                for an edit x_e and something irrelevant x_i                 (Eq. 6)
    W_v' ← W_v' − η M ⊙ ∂L/∂W_v'             M a random mask, one for each shard of the edits             (Eq. 7)
    W_v' = W_v + Ties(τ_1, τ_2, …)           for the shards' τ                                            (Eq. 8)

Δ of a query is the mean over its tokens, ε the smallest Δ of an edit once it was made, times
``ratio``. As released in EasyEdit: a shard is full at 500 edits and then gets a successor that
starts at τ = 0 with a mask of its own; every 1,000 edits the shards since the last merging become
one memory (TIES of Yadav et al., NeurIPS 2023, arXiv 2306.01708). ``memory="merge"`` merges that
with what was merged before (0.4 and 0.6), ``"retrieve"`` keeps both. A query goes to the memory of
the largest Δ above its ε, if there is one. τ stays within ``clamp`` of 0. All numbers are those of
EasyEdit's multimodal files.

Departures from EasyEdit's code. Its Δ compares SiLU(A W_v') with SiLU(A W_v); here it is Eq. 3. It
averages Δ over a batch, padding and answer included, so that all queries of a batch go one way, and
takes the maximum for prompts of more than 100 tokens; here each row has its own mean over image and
question, and the decoded tokens follow. Its weight decay moves entries outside the mask; there is
none here. Shards that await their merging answer queries here, and asking does not merge. Its x_i
is the data set's locality prompt; here it is the text ``irrelevant``, so no data are needed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from liveedit.editors import PAPERS
from liveedit.editors.base import Editor
from liveedit.editors.common.feed_forward import (
    Recorder,
    down_projection,
    highest_layer,
    prompt_tokens,
)
from liveedit.editors.common.fine_tuning import ValuesPatch
from liveedit.errors import BadInput
from liveedit.models.batch import Batch, HiddenBatch
from liveedit.models.patch import INPUT, Patch, SiteFn
from liveedit.models.vlm import VLM
from liveedit.settings import Count, Index, NotNegative, Positive, Seed, Share
from liveedit.types import Query

__all__ = ["WISE", "WISEConfig", "WISEPatch"]

OLD_SHARE = 0.6
"""What the memory merged before weighs when it is merged with newer shards, which share the rest.
"""


@dataclass(frozen=True)
class WISEConfig:
    """Settings; the defaults are those released in EasyEdit for vision-language models.

    ``layer`` counts from 0, ``None`` is after five sixths of the layers (the released 23 of 28). An
    edit takes up to ``steps`` steps at the rate ``lr``. ``alpha``, ``beta`` and ``gamma`` are those
    of Eq. 5, ``mask`` is the share of entries that a shard moves, ``density`` the share that TIES
    keeps. ``shard`` edits fill a shard, ``merge`` edits are merged. ``eos`` ends every target with
    the end of text; ``seed`` draws the masks.
    """

    layer: Index | None = None
    lr: Positive = 1.0
    steps: Index = 10
    alpha: NotNegative = 5.0
    beta: NotNegative = 20.0
    gamma: NotNegative = 10.0
    ratio: NotNegative = 0.4
    mask: Share = 0.2
    clamp: NotNegative = 1.0
    shard: Count = 500
    merge: Count = 1000
    density: Share = 0.53
    memory: Literal["merge", "retrieve"] = "merge"
    irrelevant: str = "Who wrote the play Hamlet?"
    eos: bool = False
    seed: Seed = 0


class WISEPatch(ValuesPatch):
    """``values`` are the τ (M, D, H) of M side memories, and ``least`` (M,), the smallest Δ of an
    edit in each.
    """

    FILE = "wise.safetensors"
    editor: "WISE"

    def bind(self, batch: Batch) -> dict[str, SiteFn]:
        """See :meth:`Patch.bind`. The prompt chooses the memory, for the decoded tokens too."""
        if not len(self):
            return {}
        work = Retrieval(self, batch)
        return {self.editor.down + INPUT: work.take, self.editor.down: work.change}

    def route(self, A: Tensor, tokens: Tensor) -> Tensor:
        """The side memory (B,) that each row of ``A`` (B, T, H) goes to, -1 for the main one. Eq.
        4.
        """
        found = torch.stack([activation(A, delta, tokens) for delta in self.values["delta"]], 1)
        above = found > self.editor.config.ratio * self.values["least"]
        most, memory = found.masked_fill(~above, -torch.inf).max(1)
        return torch.where(most > -torch.inf, memory, -1)


class Retrieval:
    """A patch at work on one batch: the prompts choose each row's memory, -1 for the main one, for
    all tokens.
    """

    def __init__(self, patch: WISEPatch, batch: Batch) -> None:
        self.patch, self.tokens = patch, prompt_tokens(batch)
        self.taken = torch.empty(0)
        self.memory: Tensor | None = None

    def take(self, A: Tensor) -> Tensor:
        """Keep what the matrix takes, (B, T', H); of the prompts find the memories."""
        self.taken = A.float()
        if self.memory is None:
            self.memory = self.patch.route(self.taken, self.tokens)
        return A

    def change(self, output: Tensor) -> Tensor:
        """The output (B, T', D) of the matrices that the rows go to."""
        assert self.memory is not None
        for number, delta in enumerate(self.patch.values["delta"]):
            rows = (self.memory == number).nonzero()[:, 0]
            if len(rows):
                side = output[rows] + (self.taken[rows] @ delta.T).to(output.dtype)
                output = output.index_put((rows,), side)
        return output

    def reorder(self, rows: Tensor) -> None:
        """Go on behind other rows: row i behind row ``rows[i]``."""
        if self.memory is not None:
            self.memory = self.memory[rows.to(self.memory.device)]


class WISE(Editor):
    """The side memory's editor. Raises :class:`UnsupportedModel` where the layer has no
    feed-forward network.
    """

    name = "wise"
    paper = PAPERS["wise"]
    Config = WISEConfig
    config: WISEConfig

    def __init__(self, vlm: VLM, config: WISEConfig | None = None) -> None:
        super().__init__(vlm, config)
        if self.config.shard < 1 or self.config.merge % self.config.shard:
            raise BadInput("wise merges whole shards: give a merge that is a multiple of shard")
        if self.config.memory not in ("merge", "retrieve"):
            raise BadInput(f"wise has no memory '{self.config.memory}': choose merge or retrieve")
        self.layer = (
            highest_layer(vlm, 5 * vlm.num_layers // 6)
            if self.config.layer is None
            else self.config.layer
        )
        self.down = down_projection(vlm, self.layer)
        matrix = vlm.decoder.get_submodule(self.down)
        self.shape = int(matrix.out_features), int(matrix.in_features)

    def empty(self) -> WISEPatch:
        """A patch without edits."""
        none = torch.empty(0, *self.shape, device=self.vlm.device)
        return WISEPatch(self, {"delta": none, "least": none[:, 0, 0]}, 0)

    def load_patch(self, folder: Path) -> WISEPatch:
        """See :meth:`Editor.load_patch`."""
        return WISEPatch.load(self, folder)

    def edit(self, queries: Sequence[Query], patch: Patch | None = None) -> WISEPatch:
        """See :meth:`Editor.edit`. Each edit goes on from the shard that the one before left."""
        self.begin(queries, patch)
        made = self.empty() if patch is None else patch
        assert isinstance(made, WISEPatch)
        if not queries:
            return made
        count, (*deltas,), (*least,) = len(made), made.values["delta"], made.values["least"]
        strange, config = self.read(Query(self.config.irrelevant))[1:], self.config
        mask = self.mask(count // config.shard)
        for query in queries:
            if count % config.shard == 0:
                mask = self.mask(count // config.shard)
                deltas.append(torch.zeros(self.shape, device=self.vlm.device))
                least.append(torch.tensor(torch.inf, device=self.vlm.device))
            deltas[-1], reached = self.fit(deltas[-1], mask, query, strange)
            least[-1] = torch.minimum(least[-1], reached)
            count += 1
            if count % config.merge == 0:
                deltas, least = self.merged(deltas, least)
        return WISEPatch(self, {"delta": torch.stack(deltas), "least": torch.stack(least)}, count)

    def mask(self, shard: int) -> Tensor:
        """Which entries (D, H) a shard moves, as 0 and 1."""
        generator = torch.Generator().manual_seed(self.config.seed + shard)
        return (
            (torch.rand(self.shape, generator=generator) < self.config.mask)
            .float()
            .to(self.vlm.device)
        )

    @torch.no_grad()
    def read(self, query: Query) -> tuple[HiddenBatch, Tensor, Tensor]:
        """What the layer below puts out for a query; A (1, T, H) in the layer; which of the T
        tokens are the prompt.
        """
        batch, record = self.vlm.encode([query], eos=self.config.eos), Recorder(self.down + INPUT)
        hidden = self.vlm.hidden(batch, self.layer - 1)
        with self.vlm.patched(record):
            self.vlm.resume(self.layer - 1, hidden, hidden.answer_positions())
        return hidden, record.seen[self.down + INPUT].float(), prompt_tokens(hidden)

    @torch.enable_grad()
    def fit(
        self, delta: Tensor, mask: Tensor, query: Query, strange: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """τ (D, H) after an edit, and the edit's Δ. ``strange`` are A and tokens of what is
        irrelevant.
        """
        config, (hidden, A, tokens) = self.config, self.read(query)
        positions = hidden.answer_positions()
        target = hidden.labels.roll(-1, 1)[positions]
        before = torch.inf
        for _ in range(config.steps):
            delta = delta.detach().requires_grad_()
            with self.vlm.patched(Trial(self.down, delta)):
                logits = self.vlm.resume(self.layer - 1, hidden, positions)
            own, other = activation(A, delta, tokens), activation(strange[0], delta, strange[1])
            loss = F.cross_entropy(logits.float(), target) + self.margin(own, other)
            if abs(before - loss.item()) <= SETTLED and loss.item() <= DONE:
                break
            before = loss.item()
            [slope] = torch.autograd.grad(loss, [delta])
            delta = (delta - config.lr * mask * slope).clamp(-config.clamp, config.clamp)
        delta = delta.detach()
        return delta, activation(A, delta, tokens)[0]

    def margin(self, own: Tensor, other: Tensor) -> Tensor:
        """L_a of the Δ (1,) of an edit and of something irrelevant. Eq. 5."""
        alpha, beta, gamma = self.config.alpha, self.config.beta, self.config.gamma
        return (F.relu(other - alpha) + F.relu(beta - own) + F.relu(gamma - (own - other))).mean()

    def merged(
        self, deltas: list[Tensor], least: list[Tensor]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """The memories and their least Δ once the shards since the last merging are one."""
        new = self.config.merge // self.config.shard
        old = len(deltas) - new
        if self.config.memory == "retrieve" or not old:
            weights, kept = [1.0 / new] * new, old
        else:
            weights, kept = [OLD_SHARE, *[(1 - OLD_SHARE) / new] * new], 0
        one = ties(
            torch.stack(deltas[kept:]),
            torch.tensor(weights, device=self.vlm.device),
            self.config.density,
        )
        return [*deltas[:kept], one], [*least[:kept], torch.stack(least[kept:]).min()]


SETTLED, DONE = 1e-4, 0.02
"""An edit ends early once its loss changes by no more than the one and is no more than the other.
"""


class Trial(Patch):
    """A τ (D, H) in training, which every row goes to. ``down`` is the path of the matrix."""

    def __init__(self, down: str, delta: Tensor) -> None:
        self.down, self.delta = down, delta

    def bind(self, batch: Batch) -> dict[str, SiteFn]:  # noqa: ARG002
        """See :meth:`Patch.bind`."""
        taken: list[Tensor] = []

        def take(A: Tensor) -> Tensor:
            taken[:] = [A.float()]
            return A

        def change(output: Tensor) -> Tensor:
            return output + (taken[0] @ self.delta.T).to(output.dtype)

        return {self.down + INPUT: take, self.down: change}


def activation(A: Tensor, delta: Tensor, tokens: Tensor) -> Tensor:
    """Δ (B,) of rows: the mean of ‖A τᵀ‖ over their ``tokens`` (B, T), for ``A`` (B, T, H) and τ
    (D, H). Eq. 3.
    """
    length: Tensor = torch.linalg.vector_norm(A @ delta.T, dim=2)
    return (length * tokens).sum(1) / tokens.sum(1)


def ties(deltas: Tensor, weights: Tensor, density: float) -> Tensor:
    """TIES (D, H) of ``deltas`` (M, D, H): trim each, elect a sign for each entry, average what
    agrees with it.

    Of each the ``density`` largest entries are kept; the sign is that of the weighted sum, and so
    is the average.
    """
    kept = max(1, int(density * deltas[0].numel()))
    bound = deltas.abs().flatten(1).topk(kept).values[:, -1, None, None]
    trimmed = torch.where(deltas.abs() >= bound, deltas, 0.0)
    weighted = weights[:, None, None] * trimmed
    elected = torch.where(weighted.sum(0) >= 0, 1.0, -1.0)
    agrees = trimmed.sign() == elected
    share = (weights[:, None, None] * agrees).sum(0)
    return (weighted * agrees).sum(0) / torch.where(share == 0, 1.0, share)
