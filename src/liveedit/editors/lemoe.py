"""LEMoE: low-rank experts beside one feed-forward network, one for each batch of edits.

Wang, Li: "LEMoE: Advanced Mixture of Experts Adaptor for Lifelong Model Editing of Large Language
Models", EMNLP 2024 (arXiv 2406.20030). With x the input of the feed-forward network W_0 of one
layer at a token, and f_i the expert of the i-th batch of edits, the earlier ones frozen,

    W_0(x)  becomes  W_0(x) + λ Σ_i g(i|x) f_i(x),   λ = 1            module inserting (section 4.1)
    g(i|x) = Top_1( exp(k_i · v_i) / Σ_j exp(k_j · v_j) )            KV anchor routing (section 4.2)
    v_i = W_up,i SiLU(W_down,i e)     e the mean of the query's tokens, k_i the expert's key
    minimise −log f(o | v, p) over the new expert, its key and its projection      (the task's loss)

As in LiveEdit's release: experts f_i(x) = B_2 A_2 ReLU(B_1 A_1 x) of rank 32, a projection for each
expert (the paper has one, which each batch trains further), e at the layer's own input (the paper:
at the embedding), learning rate and steps. Edits planned by clusters (section 4.3) are
``order="clusters"``: k-means over e puts similar edits into one batch. It needs all edits at once,
so the default is the order given.

Departures from the released code, which takes only batches of 20 and cannot answer between batches:

- A batch need not be full. Its expert is trained again from its initial values whenever an edit
  joins the batch; until the batch is full the patch keeps the hidden states of its edits. So edits
  made one by one and edits made together give the same expert.
- e is the mean over image and question; in the released code over all tokens, also answer and
  padding.
- Top-1 as in the paper; the released code mixes all experts.
- The key is trained; in the released code it stays random. While its batch is trained, only that
  batch uses the key.
- The task's loss does not train the router of the first expert, and for others it ignores earlier
  edits, so that the newest expert soon gets every query. The mean of −log g(own expert | x), over
  the batch and the remembered e of all earlier edits, is added. ``routing`` is its weight; with 0
  the loss is the published one.
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
from liveedit.editors.common.open_rows import open_rows, open_values
from liveedit.errors import BadInput
from liveedit.models.batch import Batch, FiredEdit, HiddenBatch
from liveedit.models.feed_forward import feed_forward, highest_layer, inner_width
from liveedit.models.patch import SiteFn
from liveedit.models.vlm import VLM
from liveedit.settings import Count, Index, NotNegative, Positive, Seed
from liveedit.types import Query

__all__ = ["LEMoE", "LEMoEConfig", "LEMoEPatch"]

MATRICES = ("A1", "B1", "A2", "B2")
ROUTER = ("key", "down", "up")

SCALE = 0.01
"""Standard deviation of an expert's initial values."""


@dataclass(frozen=True)
class LEMoEConfig:
    """Settings of LEMoE; the defaults are those released with LiveEdit.

    Arguments:
        layer: Decoder layer of the experts, from 0; ``None``: the last but one.
        rank: Rank of the experts.
        batch: Edits that share an expert.
        lr: Learning rate of Adam.
        steps: Maximum number of steps per expert.
        stop: Loss below which its training ends.
        routing: Weight of the routing loss; 0 is the published form.
        order: Order of edits in batches: as ``"given"``, or by ``"clusters"`` of similar ones.
        eos: Whether every target ends with the end-of-text token.
        seed: Seed of the experts' initial values.
    """

    layer: Index | None = None
    rank: Count = 32
    batch: Count = 20
    lr: Positive = 1e-4
    steps: Index = 100
    stop: NotNegative = 0.03
    routing: NotNegative = 1.0
    order: Literal["given", "clusters"] = "given"
    eos: bool = False
    seed: Seed = 0


class LEMoEPatch(ValuesPatch):
    """n experts of E edits.

    ``values`` hold, for each expert, ``A1`` (n, r, D), ``B1`` (n, H, r), ``A2`` (n, r, H), ``B2``
    (n, D, r), ``key`` (n, D), ``down`` (n, D/4, D) and ``up`` (n, D, D/4). For each edit they hold
    its ``e`` (E, D) and its ``expert`` (E,). While the last batch is not full, names that begin
    with ``open.`` hold the hidden states of its edits.
    """

    FILE = "lemoe.safetensors"
    editor: "LEMoE"

    def bind(self, batch: Batch) -> dict[str, SiteFn]:
        """See :meth:`Patch.bind`. The prompt chooses the expert, for generated tokens too."""
        return MixtureBranch(self, batch).sites() if len(self) else {}

    def route(self, e: Tensor) -> tuple[Tensor, Tensor]:
        """Weight (B,) and number (B,) of the expert of each query, whose means are ``e`` (B, D)."""
        router = [self.values[name] for name in ROUTER]
        weight, expert = scores(e, *router).softmax(1).max(1)
        return weight, expert

    def members(self, weight: Tensor, expert: Tensor) -> list[list[FiredEdit]]:
        """For each query the edits of its ``expert`` (B,), each with the ``weight`` (B,)."""
        experts = self.values["expert"].tolist()
        rows = []
        for share, number in zip(weight.tolist(), expert.tolist(), strict=True):
            rows.append([(edit, share) for edit, own in enumerate(experts) if own == number])
        return rows


class MixtureRoute(NamedTuple):
    """Weight (B,) and number (B,) of each row's expert."""

    weight: Tensor
    expert: Tensor


class MixtureBranch(Branch[MixtureRoute]):
    """Adds the output of the expert that a row's prompt chose."""

    def __init__(self, patch: LEMoEPatch, batch: Batch) -> None:
        super().__init__(patch.editor.network.reads, patch.editor.network.writes)
        self.patch = patch
        self.batch = batch

    def route(self, x: Tensor) -> MixtureRoute:
        """Choose each row's expert."""
        route = MixtureRoute(*self.patch.route(mean(x.float(), self.batch.prompt_tokens())))
        self.batch.fired[self.patch] = self.patch.members(*route)
        return route

    def change(self, x: Tensor, output: Tensor, routing: MixtureRoute) -> Tensor:
        """See :meth:`Branch.change`."""
        matrices = [self.patch.values[name][routing.expert] for name in MATRICES]
        added = routing.weight[:, None, None] * run(x.float(), *matrices)
        return output + added.to(output.dtype)


class LEMoE(Editor[LEMoEPatch]):
    """The mixture's editor.

    Raises :class:`UnsupportedModel` where the layer has no feed-forward network of a known form.
    """

    name = "lemoe"
    Config = LEMoEConfig
    config: LEMoEConfig

    def __init__(self, vlm: VLM, config: LEMoEConfig | None = None) -> None:
        super().__init__(vlm, config)
        if self.config.batch < 1 or self.config.order not in ("given", "clusters"):
            raise BadInput("lemoe needs a batch of at least 1 and the order 'given' or 'clusters'")
        layer = self.config.layer
        if layer is None:
            layer = highest_layer(vlm, vlm.num_layers - 2)
        self.network = feed_forward(vlm, layer)
        self.inner = inner_width(vlm, layer)

    def empty(self) -> LEMoEPatch:
        """A patch without edits."""
        values = {name: tensor[:0] for name, tensor in self.initial(0).items()}
        none = values["key"]
        return LEMoEPatch(self, values | {"e": none, "expert": none[:, 0].long()}, 0)

    def load_patch(self, folder: Path) -> LEMoEPatch:
        """See :meth:`Editor.load_patch`."""
        return LEMoEPatch.load(self, folder)

    def edit(self, queries: Sequence[Query], patch: LEMoEPatch | None = None) -> LEMoEPatch:
        """See :meth:`Editor.edit`. The first edits join the last batch, if it is not full."""
        self.validate(queries, patch)
        made = self.empty() if patch is None else patch
        before = len(made)
        order = self.edit_order(queries)
        start = 0
        while start < len(queries):
            stop = start + self.config.batch - len(made) % self.config.batch
            made = self.extend(made, [queries[number] for number in order[start:stop]])
            start = stop
        new = before + torch.tensor(order, dtype=torch.long).argsort()
        as_given = torch.cat([torch.arange(before), new]).to(self.vlm.device)
        by_edit = {name: made.values[name][as_given] for name in ("e", "expert")}
        return LEMoEPatch(self, made.values | by_edit, len(made))

    def edit_order(self, queries: Sequence[Query]) -> list[int]:
        """The order in which edits are cut into batches."""
        size = self.config.batch
        if self.config.order == "given" or len(queries) <= size:
            return list(range(len(queries)))
        means = []
        for start in range(0, len(queries), size):
            rows = self.below(queries[start : start + size])
            means.append(self.summary(HiddenBatch.stack(rows)))
        generator = torch.Generator().manual_seed(self.config.seed)
        found = clusters(torch.cat(means).cpu(), len(means), generator)
        return [int(number) for number in found.argsort(stable=True)]

    def extend(self, patch: LEMoEPatch, queries: Sequence[Query]) -> LEMoEPatch:
        """The patch with ``queries`` in its last batch, or in a new one if that is full.

        The expert of that batch is trained.
        """
        number = len(patch) // self.config.batch
        count = len(patch) + len(queries)
        rows = HiddenBatch.stack([*open_rows(patch.values), *self.below(queries)])
        e = self.summary(rows)
        old = {name: patch.values[name][:number] for name in MATRICES + ROUTER}
        earlier = patch.values["expert"] < number
        known = EarlierEdits(patch.values["e"][earlier], patch.values["expert"][earlier])
        new = self.train(number, old, rows, known, e)
        values = {name: torch.cat([old[name], new[name]]) for name in old}
        values["e"] = torch.cat([patch.values["e"], e[len(rows) - len(queries) :]])
        values["expert"] = F.pad(patch.values["expert"], (0, len(queries)), value=number)
        if count % self.config.batch:
            values |= open_values(rows)
        return LEMoEPatch(self, values, count)

    def below(self, queries: Sequence[Query]) -> list[HiddenBatch]:
        """The output of the layer below for each of the queries."""
        batch = self.vlm.encode(queries, eos=self.config.eos)
        return self.vlm.hidden(batch, self.network.layer - 1).rows()

    @torch.no_grad()
    def summary(self, rows: HiddenBatch) -> Tensor:
        """The means e (B, D) of edits."""
        record = Recorder(self.network.reads)
        with self.vlm.patched(record):
            self.vlm.resume(self.network.layer - 1, rows, rows.answer_positions())
        return mean(record.seen[self.network.reads].float(), rows.prompt_tokens())

    def initial(self, number: int) -> dict[str, Tensor]:
        """The initial values of the expert ``number``, as a row of each of the patch's tensors."""
        D = self.vlm.hidden_size
        H = self.inner
        r = self.config.rank
        shapes: dict[str, tuple[int, ...]] = {
            "A1": (r, D),
            "B1": (H, r),
            "A2": (r, H),
            "B2": (D, r),
            "key": (D,),
            "down": (D // 4, D),
            "up": (D, D // 4),
        }
        generator = torch.Generator().manual_seed(self.config.seed + number)
        values = dict[str, Tensor]()
        for name, shape in shapes.items():
            drawn = SCALE * torch.randn(1, *shape, generator=generator)
            values[name] = drawn.to(self.vlm.device)
        return values

    @torch.enable_grad()
    def train(
        self,
        number: int,
        old: dict[str, Tensor],
        rows: HiddenBatch,
        known: "EarlierEdits",
        e: Tensor,
    ) -> dict[str, Tensor]:
        """Train the expert ``number`` for the edits ``rows``, whose means are ``e`` (B, D).

        ``old`` are the experts before it, ``known`` their edits.
        """
        new = {name: tensor.requires_grad_() for name, tensor in self.initial(number).items()}
        positions = rows.answer_positions()
        target = rows.answer_tokens()
        inputs = torch.cat([known.e, e])
        owner = F.pad(known.expert, (0, len(e)), value=number)
        fixed = scores(inputs, *(old[name] for name in ROUTER))
        optimizer = torch.optim.Adam(list(new.values()), lr=self.config.lr)
        for _ in range(self.config.steps):
            own = scores(inputs, *(new[name] for name in ROUTER))
            route = torch.cat([fixed, own], 1).log_softmax(1)
            trial = self.trial(route[-len(e) :, number].exp(), new)
            with self.vlm.patched(trial):
                logits = self.vlm.resume(self.network.layer - 1, rows, positions)
            answer = F.cross_entropy(logits.float(), target)
            loss = answer + self.config.routing * F.nll_loss(route, owner)
            if loss < self.config.stop:
                break
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
        return {name: tensor.detach() for name, tensor in new.items()}

    def trial(self, weight: Tensor, expert: dict[str, Tensor]) -> BranchPatch:
        """A patch of an expert in training, which each row uses with its ``weight`` (B,)."""
        matrices = [expert[name] for name in MATRICES]

        def weighted(x: Tensor) -> Tensor:
            return weight[:, None, None] * run(x, *matrices)

        return BranchPatch(AddingBranch(self.network.reads, self.network.writes, weighted))


class EarlierEdits(NamedTuple):
    """The edits of earlier experts: their means e (E, D) and their experts (E,)."""

    e: Tensor
    expert: Tensor


def run(x: Tensor, A1: Tensor, B1: Tensor, A2: Tensor, B2: Tensor) -> Tensor:
    """f(x) = B_2 A_2 ReLU(B_1 A_1 x), (B, T, D), for x (B, T, D).

    The matrices are those of one expert, or one for each row.
    """
    return F.relu(x @ A1.mT @ B1.mT) @ A2.mT @ B2.mT


def scores(e: Tensor, key: Tensor, down: Tensor, up: Tensor) -> Tensor:
    """k_i · v_i (B, n) of queries with the means ``e`` (B, D) and n experts."""
    inner = F.silu(torch.einsum("bd,nmd->bnm", e, down))
    return torch.einsum("bnm,ndm,nd->bn", inner, up, key)


def mean(states: Tensor, tokens: Tensor) -> Tensor:
    """The mean (B, D) of ``states`` (B, T, D) over the ``tokens``, boolean (B, T), of each row."""
    share = tokens.to(states.dtype)
    return torch.einsum("btd,bt->bd", states, share / share.sum(1, keepdim=True))


def clusters(points: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """The cluster (N,) of each of ``points`` (N, D), by k-means from ``count`` random ones."""
    centres = points[torch.randperm(len(points), generator=generator)[:count]]
    nearest = torch.full((len(points),), -1)
    while not torch.equal(found := torch.cdist(points, centres).argmin(1), nearest):
        nearest = found
        own = F.one_hot(nearest, count).to(points)
        sizes = own.sum(0)[:, None]
        centres = torch.where(sizes > 0, own.T @ points / sizes.clamp(min=1), centres)
    return nearest
