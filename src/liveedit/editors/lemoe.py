"""LEMoE: low-rank experts beside one feed-forward network, one for each batch of edits; a query
meets one of them.

Wang, Li: "LEMoE: Advanced Mixture of Experts Adaptor for Lifelong Model Editing of Large Language
Models", EMNLP 2024 (arXiv 2406.20030). With x what the feed-forward network W_0 of one layer takes
at a token, and expert f_i of the i-th batch of edits, the earlier ones frozen,

    W_0(x)  becomes  W_0(x) + λ Σ_i g(i|x) f_i(x),   λ = 1                         module inserting (section 4.1)
    g(i|x) = Top_1( exp(k_i · v_i) / Σ_j exp(k_j · v_j) )                         KV anchor routing (section 4.2)
    v_i = W_up,i SiLU(W_down,i e)        e the mean of the query's tokens, k_i the expert's key
    minimise −log f(o | v, p) over the new expert, its key and its projection                 (the task's loss)

Experts, sizes and rates are those released with LiveEdit: f_i(x) = B_2 A_2 ReLU(B_1 A_1 x) of rank
32, a projection of its own for each expert (the paper has one, which each batch moves on), e at the
layer's own input (the paper: at the embedding), rank, rate and steps. Edits planned by clusters
(section 4.3) are ``order="clusters"``: k-means over e puts together, in one batch, what is alike.
It needs all edits at once, so the default is the order given.

Departures from the released code, which takes batches of 20 alone and refuses to answer in between:

- A batch need not be full. Its expert is trained anew, from its start, with each edit that joins the batch, whose
  hidden states the patch keeps until then. So one by one and together give the same.
- e is the mean of image and question; there it is of all tokens, the answer and padding, too.
- Top-1 as in the paper; there all experts are mixed.
- The key is trained; there it stays at random. While its batch is trained, an expert is met by that batch alone.
- The task's loss says nothing on the router of the first expert, and to the others nothing on earlier edits, so that
  the newest expert soon takes every query. The mean of −log g(own expert | x), over the batch and the remembered e of
  all edits before, is added. ``routing`` weighs it, 0 is the published loss.
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
    feed_forward,
    highest_layer,
    inner_width,
    prompt_tokens,
)
from liveedit.editors.common.fine_tuning import ValuesPatch
from liveedit.errors import BadInput
from liveedit.models.batch import Batch, Firing, HiddenBatch, Spans
from liveedit.models.patch import Patch, SiteFn
from liveedit.models.vlm import VLM
from liveedit.settings import Count, Index, NotNegative, Positive, Seed
from liveedit.types import Query

__all__ = ["LEMoE", "LEMoEConfig", "LEMoEPatch"]

MATRICES = ("A1", "B1", "A2", "B2")
ROUTER = ("key", "down", "up")
EXTRA = "open.extra."

SCALE = 0.01
"""Standard deviation of what an expert starts from."""


@dataclass(frozen=True)
class LEMoEConfig:
    """Settings; the defaults are those released with LiveEdit.

    ``layer`` counts from 0, ``None`` is the last but one. ``batch`` edits share an expert, trained
    for up to ``steps`` steps until its loss is below ``stop``. ``eos`` ends every target with the
    end of text; ``seed`` draws the experts.
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

    ``values`` hold by expert ``A1`` (n, r, D), ``B1`` (n, H, r), ``A2`` (n, r, H), ``B2`` (n, D,
    r), ``key`` (n, D), ``down`` (n, D/4, D) and ``up`` (n, D, D/4); by edit its ``e`` (E, D) and
    its ``expert`` (E,); and under names that begin with ``open.`` the hidden states of the last
    batch's edits, as long as it is not full.
    """

    FILE = "lemoe.safetensors"
    editor: "LEMoE"

    def bind(self, batch: Batch) -> dict[str, SiteFn]:
        """See :meth:`Patch.bind`. The prompt chooses the expert, for the decoded tokens too."""
        if not len(self):
            return {}
        work = Meeting(self, batch)
        return {self.editor.place.reads: work.take, self.editor.place.writes: work.add}

    def route(self, e: Tensor) -> tuple[Tensor, Tensor]:
        """Weight and number (B,) of the expert that each query of mean ``e`` (B, D) meets."""
        weight, expert = scores(e, *(self.values[name] for name in ROUTER)).softmax(1).max(1)
        return weight, expert

    def members(self, weight: Tensor, expert: Tensor) -> list[list[Firing]]:
        """For each query the edits that its ``expert`` (B,) holds, each with the expert's
        ``weight`` (B,).
        """
        held = self.values["expert"].tolist()
        chosen = zip(weight.tolist(), expert.tolist(), strict=True)
        return [
            [(edit, w) for edit, holds in enumerate(held) if holds == number]
            for w, number in chosen
        ]

    def open(self) -> list[HiddenBatch]:
        """The edits of the last batch, if it is not full, each as a row at the layer below."""
        if "open.hidden" not in self.values:
            return []
        hidden, mask, labels, spans = (
            self.values[f"open.{name}"] for name in ("hidden", "mask", "labels", "spans")
        )
        found = [Spans(*((int(start), int(stop)) for start, stop in row)) for row in spans.tolist()]
        extra = {
            name.removeprefix(EXTRA): value
            for name, value in self.values.items()
            if name.startswith(EXTRA)
        }
        return HiddenBatch(
            hidden, mask, labels, found, self.values.get("open.positions"), extra
        ).rows()


class Meeting:
    """A patch at work on one batch: the prompts choose each row's expert, which acts on all tokens."""

    def __init__(self, patch: LEMoEPatch, batch: Batch) -> None:
        self.patch, self.batch, self.tokens = patch, batch, prompt_tokens(batch)
        self.taken = torch.empty(0)
        self.chosen: tuple[Tensor, Tensor] | None = None

    def take(self, x: Tensor) -> Tensor:
        """Keep what the network takes (B, T', D); of the prompts find weight and number of the
        experts.
        """
        self.taken = x.float()
        if self.chosen is None:
            weight, expert = self.chosen = self.patch.route(mean(self.taken, self.tokens))
            self.batch.fired[self.patch] = self.patch.members(weight, expert)
        return x

    def add(self, output: Tensor) -> Tensor:
        """The output (B, T', D) with what each row's expert adds."""
        assert self.chosen is not None
        weight, expert = self.chosen
        matrices = [self.patch.values[name][expert] for name in MATRICES]
        return output + (weight[:, None, None] * run(self.taken, *matrices)).to(output.dtype)

    def reorder(self, rows: Tensor) -> None:
        """Go on behind other rows: row i behind row ``rows[i]``."""
        if self.chosen is not None:
            weight, expert = self.chosen
            rows = rows.to(expert.device)
            self.chosen = weight[rows], expert[rows]


class LEMoE(Editor):
    """The mixture's editor. Raises :class:`UnsupportedModel` where the layer has no feed-forward
    network.
    """

    name = "lemoe"
    paper = PAPERS["lemoe"]
    Config = LEMoEConfig
    config: LEMoEConfig

    def __init__(self, vlm: VLM, config: LEMoEConfig | None = None) -> None:
        super().__init__(vlm, config)
        if self.config.batch < 1 or self.config.order not in ("given", "clusters"):
            raise BadInput(
                "lemoe needs batches of at least one edit, and an order that is given or clusters"
            )
        layer = (
            highest_layer(vlm, vlm.num_layers - 2)
            if self.config.layer is None
            else self.config.layer
        )
        self.place, self.inner = feed_forward(vlm, layer), inner_width(vlm, layer)

    def empty(self) -> LEMoEPatch:
        """A patch without edits."""
        values = {name: tensor[:0] for name, tensor in self.draw(0).items()}
        none = values["key"]
        return LEMoEPatch(self, values | {"e": none, "expert": none[:, 0].long()}, 0)

    def load_patch(self, folder: Path) -> LEMoEPatch:
        """See :meth:`Editor.load_patch`."""
        return LEMoEPatch.load(self, folder)

    def edit(self, queries: Sequence[Query], patch: Patch | None = None) -> LEMoEPatch:
        """See :meth:`Editor.edit`. The first edits join the last batch, if it is not full."""
        self.begin(queries, patch)
        made = self.empty() if patch is None else patch
        assert isinstance(made, LEMoEPatch)
        before, size = len(made), self.config.batch
        order = self.plan(queries)
        start = 0
        while start < len(queries):
            stop = start + size - len(made) % size
            made = self.extend(made, [queries[number] for number in order[start:stop]])
            start = stop
        place = torch.cat(
            [torch.arange(before), before + torch.tensor(order, dtype=torch.long).argsort()]
        )
        given = {name: made.values[name][place.to(self.vlm.device)] for name in ("e", "expert")}
        return LEMoEPatch(self, made.values | given, len(made))

    def plan(self, queries: Sequence[Query]) -> list[int]:
        """In which order edits are cut into batches."""
        if self.config.order == "given" or len(queries) <= self.config.batch:
            return list(range(len(queries)))
        size = self.config.batch
        chunks = [
            self.below(queries[start : start + size]) for start in range(0, len(queries), size)
        ]
        e = torch.cat([self.summary(HiddenBatch.stack(rows)) for rows in chunks])
        generator = torch.Generator().manual_seed(self.config.seed)
        return [
            int(number) for number in clusters(e.cpu(), len(chunks), generator).argsort(stable=True)
        ]

    def extend(self, patch: LEMoEPatch, queries: Sequence[Query]) -> LEMoEPatch:
        """The patch with ``queries`` in its last batch, or in a new one if that is full, whose
        expert is trained.
        """
        number, count = len(patch) // self.config.batch, len(patch) + len(queries)
        rows = HiddenBatch.stack([*patch.open(), *self.below(queries)])
        old = {name: patch.values[name][:number] for name in MATRICES + ROUTER}
        e, earlier = self.summary(rows), patch.values["expert"] < number
        new = self.train(
            number, old, rows, (patch.values["e"][earlier], patch.values["expert"][earlier]), e
        )
        values = {name: torch.cat([old[name], new[name]]) for name in old}
        values["e"] = torch.cat([patch.values["e"], e[len(rows) - len(queries) :]])
        values["expert"] = F.pad(patch.values["expert"], (0, len(queries)), value=number)
        if count % self.config.batch:
            spans = [[span.before, span.image, span.prompt, span.answer] for span in rows.spans]
            values |= {
                "open.hidden": rows.hidden,
                "open.mask": rows.attention_mask,
                "open.labels": rows.labels,
            }
            values |= {f"{EXTRA}{name}": value for name, value in rows.extra.items()}
            values["open.spans"] = torch.tensor(spans, device=rows.labels.device)
            if rows.position_ids is not None:
                values["open.positions"] = rows.position_ids
        return LEMoEPatch(self, values, count)

    def below(self, queries: Sequence[Query]) -> list[HiddenBatch]:
        """What the layer below puts out for each of the queries."""
        return self.vlm.hidden(
            self.vlm.encode(queries, eos=self.config.eos), self.place.layer - 1
        ).rows()

    @torch.no_grad()
    def summary(self, rows: HiddenBatch) -> Tensor:
        """The means e (B, D) of edits."""
        record = Recorder(self.place.reads)
        with self.vlm.patched(record):
            self.vlm.resume(self.place.layer - 1, rows, rows.answer_positions())
        return mean(record.seen[self.place.reads].float(), prompt_tokens(rows))

    def draw(self, number: int) -> dict[str, Tensor]:
        """What the expert ``number`` starts from, as a row of each of the patch's tensors."""
        D, H, r = self.vlm.hidden_size, self.inner, self.config.rank
        shapes: dict[str, tuple[int, ...]] = {
            "A1": (r, D),
            "B1": (H, r),
            "A2": (r, H),
            "B2": (D, r),
        }
        shapes |= {"key": (D,), "down": (D // 4, D), "up": (D, D // 4)}
        generator = torch.Generator().manual_seed(self.config.seed + number)
        drawn = {
            name: SCALE * torch.randn(1, *shape, generator=generator)
            for name, shape in shapes.items()
        }
        return {name: tensor.to(self.vlm.device) for name, tensor in drawn.items()}

    @torch.enable_grad()
    def train(
        self,
        number: int,
        old: dict[str, Tensor],
        rows: HiddenBatch,
        earlier: tuple[Tensor, Tensor],
        e: Tensor,
    ) -> dict[str, Tensor]:
        """The expert ``number``, for the edits ``rows`` of means ``e`` (B, D).

        ``old`` are the experts before it, ``earlier`` the e (E, D) and experts (E,) of their edits.
        """
        new = {name: tensor.requires_grad_() for name, tensor in self.draw(number).items()}
        positions = rows.answer_positions()
        target = rows.labels.roll(-1, 1)[positions]
        inputs = torch.cat([earlier[0], e])
        owner = F.pad(earlier[1], (0, len(e)), value=number)
        fixed = scores(inputs, *(old[name] for name in ROUTER))
        optimizer = torch.optim.Adam(list(new.values()), lr=self.config.lr)
        for _ in range(self.config.steps):
            route = torch.cat(
                [fixed, scores(inputs, *(new[name] for name in ROUTER))], 1
            ).log_softmax(1)
            weight = route[-len(e) :, number].exp()
            with self.vlm.patched(Trial(self, weight, [new[name] for name in MATRICES])):
                logits = self.vlm.resume(self.place.layer - 1, rows, positions)
            loss = F.cross_entropy(logits.float(), target) + self.config.routing * F.nll_loss(
                route, owner
            )
            if loss < self.config.stop:
                break
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
        return {name: tensor.detach() for name, tensor in new.items()}


class Trial(Patch):
    """An expert in training, which each row meets with its ``weight`` (B,)."""

    def __init__(self, editor: LEMoE, weight: Tensor, matrices: Sequence[Tensor]) -> None:
        self.editor, self.weight, self.matrices = editor, weight[:, None, None], matrices

    def bind(self, batch: Batch) -> dict[str, SiteFn]:  # noqa: ARG002
        """See :meth:`Patch.bind`."""
        taken: list[Tensor] = []

        def take(x: Tensor) -> Tensor:
            taken[:] = [x.float()]
            return x

        def add(output: Tensor) -> Tensor:
            return output + (self.weight * run(taken[0], *self.matrices)).to(output.dtype)

        return {self.editor.place.reads: take, self.editor.place.writes: add}


def run(x: Tensor, A1: Tensor, B1: Tensor, A2: Tensor, B2: Tensor) -> Tensor:
    """B_2 A_2 ReLU(B_1 A_1 x) (B, T, D) of x (B, T, D); the matrices are one expert or one for each
    row.
    """
    return F.relu(x @ A1.mT @ B1.mT) @ A2.mT @ B2.mT


def scores(e: Tensor, key: Tensor, down: Tensor, up: Tensor) -> Tensor:
    """k_i · v_i (B, n) of queries of means ``e`` (B, D) and n experts."""
    inner = F.silu(torch.einsum("bd,nmd->bnm", e, down))
    return torch.einsum("bnm,ndm,nd->bn", inner, up, key)


def mean(states: Tensor, tokens: Tensor) -> Tensor:
    """The mean (B, D) of ``states`` (B, T, D) over the ``tokens`` (B, T) of each row."""
    share = tokens.to(states.dtype)
    return torch.einsum("btd,bt->bd", states, share / share.sum(1, keepdim=True))


def clusters(points: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """The cluster (N,) of each of ``points`` (N, D), by k-means from ``count`` of them drawn at
    random.
    """
    centres = points[torch.randperm(len(points), generator=generator)[:count]]
    nearest = torch.full((len(points),), -1)
    while not torch.equal(found := torch.cdist(points, centres).argmin(1), nearest):
        nearest = found
        own = F.one_hot(nearest, count).to(points)
        sizes = own.sum(0)[:, None]
        centres = torch.where(sizes > 0, own.T @ points / sizes.clamp(min=1), centres)
    return nearest
