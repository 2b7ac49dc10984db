"""WISE: edits train a side memory, a copy of one matrix; a router decides which queries use it.

Wang, Li, Zhang, Xu, Yao, Jiang, Xie, Huang, Chen: "WISE: Rethinking the Knowledge Memory for
Lifelong Model Editing of Large Language Models", NeurIPS 2024 (arXiv 2405.14768). With A(x), of
length H, the input of the down projection W_v of one feed-forward network (H × D in the equations,
stored as D × H), and its copy W_v' = W_v + τ,

    Δ(x) = ‖A(x) (W_v' − W_v)‖                                                               (Eq. 3)
    FFN(x) = A(x) W_v'  if Δ(x) > ε,  A(x) W_v  otherwise                                    (Eq. 4)
    L_a = max(0, Δ(x_i) − α) + max(0, β − Δ(x_e)) + max(0, γ − (Δ(x_e) − Δ(x_i)))            (Eq. 5)
    L = −log f(o | x_e) + L_a         for an edit x_e and an irrelevant text x_i             (Eq. 6)
    W_v' ← W_v' − η M ⊙ ∂L/∂W_v'      M a random mask, one for each shard of the edits       (Eq. 7)
    W_v' = W_v + Ties(τ_1, τ_2, …)    for the shards' τ                                      (Eq. 8)

Δ of a query is the mean over its tokens; ε of a memory is ``ratio`` times the smallest Δ among its
edits, each measured when it was made. As released in EasyEdit: a shard is full at 500 edits, and
the next one starts at τ = 0 with a mask of its own; every 1,000 edits the shards since the last
merge become one memory (TIES of Yadav et al., NeurIPS 2023, arXiv 2306.01708). ``memory="merge"``
merges that with what was merged before (0.6 for the earlier memory, 0.4 shared by the new shards),
``"retrieve"`` keeps both. A query uses the memory with the largest Δ above its ε, if there is one.
τ stays within ``clamp`` of 0. All numbers are those of EasyEdit's multimodal files.

Departures from EasyEdit's code:

- Δ is Eq. 3; EasyEdit compares SiLU(A W_v') with SiLU(A W_v).
- Each row has its own Δ, the mean over image and question; generated tokens use the memory that the
  prompt chose. EasyEdit averages over a batch, padding and answer included, so that all queries of
  a batch share one memory; for prompts of more than 100 tokens it takes the maximum.
- There is no weight decay; in EasyEdit it changes entries outside the mask.
- Shards that have not been merged yet answer queries; inference does not merge.
- x_i is the text ``irrelevant``, so that no data are needed; in EasyEdit it is the locality prompt
  of the data set.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from liveedit.editors.base import Editor
from liveedit.editors.common.branch import AddingBranch, Branch, BranchPatch, Recorder
from liveedit.editors.common.fine_tuning import ValuesPatch
from liveedit.errors import BadInput
from liveedit.models.batch import Batch, HiddenBatch
from liveedit.models.feed_forward import down_projection, highest_layer
from liveedit.models.patch import INPUT, SiteFn
from liveedit.models.vlm import VLM
from liveedit.settings import Count, Index, NotNegative, Positive, Seed, Share
from liveedit.types import Query

__all__ = ["WISE", "WISEConfig", "WISEPatch"]

OLD_SHARE = 0.6
"""Weight of the earlier memory when it is merged with newer shards, which share the rest."""

SETTLED = 1e-4
DONE = 0.02
"""An edit ends early once its loss is at most DONE and changes by at most SETTLED."""


@dataclass(frozen=True)
class WISEConfig:
    """Settings of WISE; the defaults are those released in EasyEdit for vision-language models.

    Arguments:
        layer: Decoder layer to edit, from 0; ``None``: after five sixths of the layers (the
            released 23 of 28).
        lr: Learning rate η of gradient descent.
        steps: Maximum number of steps per edit.
        alpha: Bound α on Δ of the irrelevant text, Eq. 5.
        beta: Bound β on Δ of the edit, Eq. 5.
        gamma: Bound γ on their difference, Eq. 5.
        ratio: Factor by which the smallest Δ of an edit is multiplied to give the threshold ε.
        mask: Share of the entries that a shard may change.
        clamp: Largest absolute value of an entry of τ.
        shard: Edits that fill a shard.
        merge: Edits after which shards are merged, a multiple of ``shard``.
        density: Share of the entries that TIES keeps of each shard.
        memory: ``"merge"``: one memory of all merged shards; ``"retrieve"``: one for each merge.
        irrelevant: Irrelevant text x_i.
        eos: Whether every target ends with the end-of-text token.
        seed: Seed of the masks.
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
    """Side memories.

    ``values`` are ``delta``, the τ (M, D, H) of M side memories, and ``least`` (M,), the smallest Δ
    of an edit in each.
    """

    FILE = "wise.safetensors"
    editor: "WISE"

    def bind(self, batch: Batch) -> dict[str, SiteFn]:
        """See :meth:`Patch.bind`. The prompt chooses the memory, for generated tokens too."""
        return MemoryBranch(self, batch).sites() if len(self) else {}

    def route(self, A: Tensor, tokens: Tensor) -> Tensor:
        """The side memory (B,) of each row of ``A`` (B, T, H), -1 for the main memory: Eq. 4.

        ``tokens`` (B, T) are those of the prompt.
        """
        found = [activation(A, delta, tokens) for delta in self.values["delta"]]
        score = torch.stack(found, 1)
        epsilon = self.editor.config.ratio * self.values["least"]
        most, memory = score.masked_fill(score <= epsilon, -torch.inf).max(1)
        return torch.where(most > -torch.inf, memory, -1)


class MemoryRoute(NamedTuple):
    """The side memory (B,) of each row, -1 for the main memory."""

    memory: Tensor


class MemoryBranch(Branch[MemoryRoute]):
    """Adds A τᵀ of the side memory that a row's prompt chose."""

    def __init__(self, patch: WISEPatch, batch: Batch) -> None:
        super().__init__(patch.editor.down + INPUT, patch.editor.down)
        self.patch = patch
        self.batch = batch

    def route(self, x: Tensor) -> MemoryRoute:
        """Choose each row's memory."""
        return MemoryRoute(self.patch.route(x.float(), self.batch.prompt_tokens()))

    def change(self, x: Tensor, output: Tensor, routing: MemoryRoute) -> Tensor:
        """See :meth:`Branch.change`."""
        for number, delta in enumerate(self.patch.values["delta"]):
            rows = (routing.memory == number).nonzero()[:, 0]
            if len(rows):
                side = output[rows] + (x[rows].float() @ delta.T).to(output.dtype)
                output = output.index_put((rows,), side)
        return output


class WISE(Editor[WISEPatch]):
    """The side memories' editor.

    Raises :class:`UnsupportedModel` where the layer has no feed-forward network of a known form.
    """

    name = "wise"
    Config = WISEConfig
    config: WISEConfig

    def __init__(self, vlm: VLM, config: WISEConfig | None = None) -> None:
        super().__init__(vlm, config)
        if self.config.shard < 1 or self.config.merge % self.config.shard:
            raise BadInput("wise merges whole shards: give a merge that is a multiple of shard")
        if self.config.memory not in ("merge", "retrieve"):
            raise BadInput(f"wise has no memory '{self.config.memory}': choose merge or retrieve")
        layer = self.config.layer
        if layer is None:
            layer = highest_layer(vlm, 5 * vlm.num_layers // 6)
        self.layer: int = layer
        self.down = down_projection(vlm, layer)
        matrix = vlm.decoder.get_submodule(self.down)
        self.shape = (int(matrix.out_features), int(matrix.in_features))

    def empty(self) -> WISEPatch:
        """A patch without edits."""
        none = torch.empty(0, *self.shape, device=self.vlm.device)
        return WISEPatch(self, {"delta": none, "least": none[:, 0, 0]}, 0)

    def load_patch(self, folder: Path) -> WISEPatch:
        """See :meth:`Editor.load_patch`."""
        return WISEPatch.load(self, folder)

    def edit(self, queries: Sequence[Query], patch: WISEPatch | None = None) -> WISEPatch:
        """See :meth:`Editor.edit`. Each edit continues from the shard after the previous edit."""
        self.validate(queries, patch)
        if patch is None:
            patch = self.empty()
        if not queries:
            return patch
        count = len(patch)
        deltas = list(patch.values["delta"])
        least = list(patch.values["least"])
        _, *irrelevant = self.read(Query(self.config.irrelevant))  # A and its prompt tokens
        mask = self.mask(count // self.config.shard)
        for query in queries:
            if count % self.config.shard == 0:
                mask = self.mask(count // self.config.shard)
                deltas.append(torch.zeros(self.shape, device=self.vlm.device))
                least.append(torch.tensor(torch.inf, device=self.vlm.device))
            deltas[-1], reached = self.fit(deltas[-1], mask, query, *irrelevant)
            least[-1] = torch.minimum(least[-1], reached)
            count += 1
            if count % self.config.merge == 0:
                deltas, least = self.merged(deltas, least)
        values = {"delta": torch.stack(deltas), "least": torch.stack(least)}
        return WISEPatch(self, values, count)

    def mask(self, shard: int) -> Tensor:
        """The entries (D, H) that a shard may change, as 0 and 1."""
        generator = torch.Generator().manual_seed(self.config.seed + shard)
        chosen = torch.rand(self.shape, generator=generator) < self.config.mask
        return chosen.float().to(self.vlm.device)

    @torch.no_grad()
    def read(self, query: Query) -> tuple[HiddenBatch, Tensor, Tensor]:
        """The states below the layer, A (1, T, H) in it, and which tokens (1, T) are the prompt."""
        batch = self.vlm.encode([query], eos=self.config.eos)
        hidden = self.vlm.hidden(batch, self.layer - 1)
        record = Recorder(self.down + INPUT)
        with self.vlm.patched(record):
            self.vlm.resume(self.layer - 1, hidden, hidden.answer_positions())
        return hidden, record.seen[self.down + INPUT].float(), hidden.prompt_tokens()

    @torch.enable_grad()
    def fit(
        self,
        delta: Tensor,
        mask: Tensor,
        query: Query,
        irrelevant: Tensor,
        irrelevant_tokens: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """τ (D, H) after an edit, and the edit's Δ (Eq. 5 to 7).

        ``irrelevant`` (1, T, H) is A of the irrelevant text, whose prompt ``irrelevant_tokens``
        are.
        """
        config = self.config
        hidden, A, tokens = self.read(query)
        positions = hidden.answer_positions()
        target = hidden.answer_tokens()
        before = torch.inf
        for _ in range(config.steps):
            delta = delta.detach().requires_grad_()
            logits = self.answer_logits(hidden, positions, delta)
            own = activation(A, delta, tokens)
            other = activation(irrelevant, delta, irrelevant_tokens)
            loss = F.cross_entropy(logits.float(), target) + self.margin(own, other)
            if abs(before - loss.item()) <= SETTLED and loss.item() <= DONE:
                break
            before = loss.item()
            [slope] = torch.autograd.grad(loss, [delta])
            delta = (delta - config.lr * mask * slope).clamp(-config.clamp, config.clamp)
        delta = delta.detach()
        return delta, activation(A, delta, tokens)[0]

    def answer_logits(self, hidden: HiddenBatch, positions: Tensor, delta: Tensor) -> Tensor:
        """The logits (n, V) of the answer with τ = ``delta`` for every row."""
        branch = AddingBranch(self.down + INPUT, self.down, lambda A: A @ delta.T)
        with self.vlm.patched(BranchPatch(branch)):
            return self.vlm.resume(self.layer - 1, hidden, positions)

    def margin(self, own: Tensor, other: Tensor) -> Tensor:
        """L_a of the Δ (1,) of an edit and of the irrelevant text: Eq. 5."""
        config = self.config
        apart = F.relu(config.gamma - (own - other))
        return (F.relu(other - config.alpha) + F.relu(config.beta - own) + apart).mean()

    def merged(
        self, deltas: list[Tensor], least: list[Tensor]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Memories and least Δ after merging the shards since the last merge into one: Eq. 8."""
        new = self.config.merge // self.config.shard
        old = len(deltas) - new
        if self.config.memory == "retrieve" or not old:
            weights = [1.0 / new] * new
            kept = old
        else:
            weights = [OLD_SHARE, *[(1 - OLD_SHARE) / new] * new]
            kept = 0
        shares = torch.tensor(weights, device=self.vlm.device)
        one = ties(torch.stack(deltas[kept:]), shares, self.config.density)
        return [*deltas[:kept], one], [*least[:kept], torch.stack(least[kept:]).min()]


def activation(A: Tensor, delta: Tensor, tokens: Tensor) -> Tensor:
    """Δ (B,) of rows, Eq. 3: the mean of ‖A τᵀ‖ over their ``tokens`` (B, T).

    ``A`` is (B, T, H), τ = ``delta`` is (D, H).
    """
    length: Tensor = torch.linalg.vector_norm(A @ delta.T, dim=2)
    return (length * tokens).sum(1) / tokens.sum(1)


def ties(deltas: Tensor, weights: Tensor, density: float) -> Tensor:
    """TIES (D, H) of ``deltas`` (M, D, H): trim each, elect signs, average what agrees.

    Of each delta the largest entries are kept, a share ``density`` of them. An entry's sign is that
    of the sum weighted by ``weights`` (M,), and the average is weighted by them, too.
    """
    kept = max(1, int(density * deltas[0].numel()))
    bound = deltas.abs().flatten(1).topk(kept).values[:, -1, None, None]
    trimmed = torch.where(deltas.abs() >= bound, deltas, 0.0)
    weighted = weights[:, None, None] * trimmed
    elected = torch.where(weighted.sum(0) >= 0, 1.0, -1.0)
    agrees = trimmed.sign() == elected
    share = (weights[:, None, None] * agrees).sum(0)
    return (weighted * agrees).sum(0) / torch.where(share == 0, 1.0, share)
