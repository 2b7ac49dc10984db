"""T-Patcher: one neuron an edit, in the feed-forward network of the last layer.

Huang, Shen, Zhang, Zhou, Rong, Xiong: "Transformer-Patcher: One Mistake Worth One Neuron", ICLR
2023 (arXiv 2301.09785). With q what the feed-forward network of the last layer takes at a token, n
edits add n neurons to it,

    FFN(q)  becomes  FFN(q) + Σ_i Act(q · k_i + b_i) v_i                                               (section 4.1)

and an edit trains its own k, b and v, all others fixed, by Adam on  l_e + a l_a + m l_m
(Eq. 8 to 11)

    l_e = −(1/|o|) Σ_t log f(o_t | v, p, o_<t)
    l_a = mean of exp(−(q_e · k + b))        over the tokens q_e that predict the answer: the neuron is to be active
    l_m = mean of exp(max(q · k + b, 0))     over remembered tokens q: it is to be silent

Rate, steps, a and m are those released with LiveEdit, and so is the form of l_m; it leaves out the
paper's second memory loss, which compares activations in memory with those at the edit.

Departures. LiveEdit's memory are states of the corpus WikiText-103; here it is the edit's own other
tokens, image and question, and as the paper has it some of those of the edits before, so that no
corpus is needed. Act is ReLU for all models, which an inactive neuron leaves exactly as they were,
and a gated network (Llama) gets one plain neuron as well; LiveEdit patches gate and up projection
apart.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from liveedit.editors import PAPERS
from liveedit.editors.common.bank import Bank
from liveedit.editors.common.bank_editor import BankPatch, PoolEditor
from liveedit.editors.common.feed_forward import (
    FeedForward,
    Recorder,
    feed_forward,
    highest_layer,
    last_prompt_tokens,
)
from liveedit.editors.common.precedence import extended, standing
from liveedit.models.batch import Batch, Firing
from liveedit.models.patch import SiteFn
from liveedit.models.vlm import VLM
from liveedit.settings import Index, NotNegative, Positive, Seed
from liveedit.types import Query

__all__ = ["TPatcher", "TPatcherConfig", "TPatcherPatch"]


@dataclass(frozen=True)
class TPatcherConfig:
    """Settings; the defaults are those released with LiveEdit.

    ``active`` and ``silent`` weigh l_a and l_m. ``memory`` tokens of each edit are remembered for
    those after it. ``eos`` ends every target with the end of text; ``seed`` draws the neurons and
    what is remembered.
    """

    lr: Positive = 1e-2
    steps: Index = 25
    active: NotNegative = 1e-4
    silent: NotNegative = 1e-4
    memory: Index = 4
    eos: bool = False
    seed: Seed = 0


class TPatcherPatch(BankPatch):
    """``bank`` holds ``key`` and ``value`` (E, D), ``bias`` (E,) and ``memory`` (E, M, D), tokens
    of the edit.
    """

    FILE = "tpatcher.safetensors"
    editor: "TPatcher"

    def bind(self, batch: Batch) -> dict[str, SiteFn]:
        """See :meth:`Patch.bind`. The edits that fire are those whose neurons are active where the
        answer begins.
        """
        if not len(self):
            return {}
        return self.functions(self.bank["key"], self.bank["bias"], self.bank["value"], batch)

    def functions(
        self, key: Tensor, bias: Tensor, value: Tensor, batch: Batch
    ) -> dict[str, SiteFn]:
        """Neurons of the keys (E, D), biases (E,) and values (E, D) beside the network."""
        taken: list[Tensor] = []

        def take(q: Tensor) -> Tensor:
            taken[:] = [q.float()]
            return q

        def add(output: Tensor) -> Tensor:
            activation = self.acting(F.relu(taken[0] @ key.T + bias))
            if self not in batch.fired:
                batch.fired[self] = active(activation[range(len(batch)), last_prompt_tokens(batch)])
            return (
                output + (activation @ value).to(output.dtype)
                if bool((activation > 0).any())
                else output
            )

        place = self.editor.place
        return {place.reads: take, place.writes: add}

    def acting(self, activation: Tensor) -> Tensor:
        """The activations (B, T, E) of the neurons of edits that take part, 0 for the others."""
        return activation * self.taking_part((activation > 0).any(1))[:, None]


def active(activation: Tensor) -> list[list[Firing]]:
    """For each row of activations (B, E) the active ones, each with its share of their sum, the
    heaviest first.
    """
    share = activation / activation.sum(1, keepdim=True).clamp_min(
        torch.finfo(activation.dtype).tiny
    )
    rows = [
        [(edit, weight) for edit, weight in enumerate(row) if weight > 0] for row in share.tolist()
    ]
    return [sorted(row, key=lambda pair: -pair[1]) for row in rows]


class Trial(TPatcherPatch):
    """A patch with one neuron more, which is in training: ``key`` and ``value`` (1, D) and ``bias``
    (1,).
    """

    def __init__(self, held: TPatcherPatch, key: Tensor, bias: Tensor, value: Tensor) -> None:
        super().__init__(held.editor, held.bank)
        self.neuron = key, bias, value

    def bind(self, batch: Batch) -> dict[str, SiteFn]:
        """See :meth:`Patch.bind`."""
        held = (self.bank["key"], self.bank["bias"], self.bank["value"])
        key, bias, value = (torch.cat(pair) for pair in zip(held, self.neuron, strict=True))
        return self.functions(key, bias, value, batch)

    def acting(self, activation: Tensor) -> Tensor:
        """All of them: those of the patch stand."""
        return activation


class TPatcher(PoolEditor):
    """The editor of neurons. Raises :class:`UnsupportedModel` where the last layer has no
    feed-forward network.
    """

    name = "t-patcher"
    paper = PAPERS["t-patcher"]
    Config = TPatcherConfig
    patch_class = TPatcherPatch
    independent = False
    config: TPatcherConfig

    def __init__(self, vlm: VLM, config: TPatcherConfig | None = None) -> None:
        super().__init__(vlm, config)
        self.place: FeedForward = feed_forward(vlm, highest_layer(vlm, vlm.num_layers - 1))

    def extended(self, held: BankPatch, queries: Sequence[Query]) -> TPatcherPatch:
        """See :meth:`PoolEditor.extended`. Each neuron is trained beside those before it that
        stand.
        """
        ledger = held.ledger
        assert isinstance(held, TPatcherPatch)
        for query in queries:
            ledger = extended(ledger, [query])
            beside = standing(ledger)[:-1]
            others = held if bool(beside.all()) else TPatcherPatch(self, held.bank.select(beside))
            held = TPatcherPatch(self, held.bank.append(self.neuron(others, query, len(held))))
        return held

    def empty(self) -> TPatcherPatch:
        """A patch without edits."""
        row = torch.empty(0, self.vlm.hidden_size, device=self.vlm.device)
        memory = row[:, None].expand(-1, self.config.memory, -1)
        return TPatcherPatch(
            self, Bank({"key": row, "value": row, "bias": row[:, 0], "memory": memory})
        )

    @torch.enable_grad()
    def neuron(self, held: TPatcherPatch, query: Query, number: int) -> dict[str, Tensor]:
        """The row of the bank for the edit ``number``, which is trained beside those in ``held``."""
        batch, below = self.vlm.encode([query], eos=self.config.eos), self.place.layer - 1
        hidden, record = self.vlm.hidden(batch, below), Recorder(self.place.reads)
        positions = hidden.answer_positions()
        target = hidden.labels.roll(-1, 1)[positions]
        with self.vlm.patched(record), torch.no_grad():
            self.vlm.resume(below, hidden, positions)
        states = record.seen[self.place.reads].float()
        own, rest = states[positions], states[~positions & (hidden.attention_mask > 0)]
        generator = torch.Generator().manual_seed(self.config.seed + number)
        key = (
            torch.randn(1, self.vlm.hidden_size, generator=generator).to(own)
            * self.vlm.hidden_size**-0.5
        )
        moving = (key, torch.zeros(1).to(own), torch.zeros_like(key))
        for tensor in moving:
            tensor.requires_grad_()
        remembered = torch.cat([rest, held.bank["memory"].flatten(0, 1)])
        optimizer = torch.optim.Adam(moving, lr=self.config.lr)
        trial = Trial(held, *moving)
        for _ in range(self.config.steps):
            with self.vlm.patched(trial):
                logits = self.vlm.resume(below, hidden, positions)
            loss = F.cross_entropy(logits.float(), target) + self.config.active * self.silence(
                own, *moving[:2]
            )
            loss = loss + self.config.silent * self.noise(remembered, *moving[:2])
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
        kept = rest[torch.randint(len(rest), (self.config.memory,), generator=generator)]
        key, bias, value = (tensor.detach() for tensor in moving)
        return {"key": key, "value": value, "bias": bias, "memory": kept[None]}

    @staticmethod
    def silence(own: Tensor, key: Tensor, bias: Tensor) -> Tensor:
        """l_a: how little the neuron is active at the tokens ``own`` (n, D) that predict the
        answer.
        """
        return (-(own @ key[0] + bias)).exp().mean()

    @staticmethod
    def noise(remembered: Tensor, key: Tensor, bias: Tensor) -> Tensor:
        """l_m: how much the neuron is active at the tokens ``remembered`` (n, D)."""
        return F.relu(remembered @ key[0] + bias).exp().mean()
