"""T-Patcher: one neuron for each edit, in the feed-forward network of the last layer.

Huang, Shen, Zhang, Zhou, Rong, Xiong: "Transformer-Patcher: One Mistake Worth One Neuron", ICLR
2023 (arXiv 2301.09785). With q the input of the feed-forward network of the last layer at a token,
n edits add n neurons to it,

    FFN(q)  becomes  FFN(q) + Σ_i Act(q · k_i + b_i) v_i                              (section 4.1)

and an edit trains its own k, b and v, all others fixed, by Adam on  l_e + a l_a + m l_m  (Eq. 8–11)

    l_e = −(1/|o|) Σ_t log f(o_t | v, p, o_<t)
    l_a = mean of exp(−(q_e · k + b))        over the tokens q_e that predict the answer: the neuron
                                             is to be active
    l_m = mean of exp(max(q · k + b, 0))     over remembered tokens q: it is to be silent

Rate, steps, a and m are those released with LiveEdit, and so is the form of l_m. As in that
release, the paper's second memory loss is left out, which compares activations at remembered tokens
with those at the edit.

Departures. In LiveEdit's release the remembered tokens come from the corpus WikiText-103. Here they
are the other tokens of the edit (image and question) and, as in the paper, some tokens of earlier
edits, so that no corpus is needed. Act is ReLU for all models, which leaves inactive neurons
without any effect, and a gated network (Llama) gets one plain neuron as well; LiveEdit patches gate
and up projection separately.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from liveedit.editors.common.bank import Bank
from liveedit.editors.common.bank_editor import BankEditor, BankPatch
from liveedit.editors.common.branch import AddingBranch, Branch, BranchPatch, Recorder, Route
from liveedit.editors.common.precedence import latest_of_each_question, ledger_with
from liveedit.models.batch import Batch, FiredEdit, Scores
from liveedit.models.feed_forward import FeedForward, feed_forward, highest_layer
from liveedit.models.patch import SiteFn
from liveedit.models.vlm import VLM
from liveedit.settings import Index, NotNegative, Positive, Seed
from liveedit.types import Query

__all__ = ["TPatcher", "TPatcherConfig", "TPatcherPatch"]


@dataclass(frozen=True)
class TPatcherConfig:
    """Settings of T-Patcher; the defaults are those released with LiveEdit.

    Arguments:
        lr: Learning rate of Adam.
        steps: Steps for each neuron.
        active: Weight a of l_a.
        silent: Weight m of l_m.
        memory: Tokens of each edit that are remembered for later ones.
        eos: Whether every target ends with the end-of-text token.
        seed: Seed of the neurons' initial keys and of the remembered tokens.
    """

    lr: Positive = 1e-2
    steps: Index = 25
    active: NotNegative = 1e-4
    silent: NotNegative = 1e-4
    memory: Index = 4
    eos: bool = False
    seed: Seed = 0


class TPatcherPatch(BankPatch):
    """Neurons.

    ``bank`` holds ``key`` and ``value`` (E, D), ``bias`` (E,) and ``memory`` (E, M, D), the
    remembered tokens of the edit.
    """

    FILE = "tpatcher.safetensors"
    editor: "TPatcher"

    def bind(self, batch: Batch) -> dict[str, SiteFn]:
        """See :meth:`Patch.bind`."""
        return NeuronBranch(self, batch).sites() if len(self) else {}


class NeuronBranch(Branch[Route]):
    """Adds the neurons of a patch to the output of the feed-forward network.

    The edits that fire are those whose neurons are active at the last prompt token.
    """

    def __init__(self, patch: TPatcherPatch, batch: Batch) -> None:
        super().__init__(patch.editor.network.reads, patch.editor.network.writes)
        self.patch = patch
        self.batch = batch

    def route(self, x: Tensor) -> Route:  # noqa: ARG002
        """Nothing to decide: the neurons are active, or not, at every token."""
        return ()

    def change(self, x: Tensor, output: Tensor, routing: Route) -> Tensor:  # noqa: ARG002
        """See :meth:`Branch.change`. The prompt's activations also say which edits fire."""
        activation = self.activation(x.float())
        if self.patch not in self.batch.fired:
            last = self.batch.last_prompt_tokens()
            self.batch.fired[self.patch] = shares(activation[range(len(x)), last])
            if self.batch.wants_scores:
                self.batch.scores[self.patch] = self.scores(x[range(len(x)), last].float())
        if not bool((activation > 0).any()):
            return output
        return output + (activation @ self.patch.bank["value"]).to(output.dtype)

    def scores(self, last: Tensor) -> list[Scores]:
        """How near each neuron is to being active at the last prompt tokens ``last`` (B, D)."""
        above = self.before_relu(last)
        return Scores.of_rows(above, question=above, question_threshold=torch.zeros_like(above))

    def before_relu(self, x: Tensor) -> Tensor:
        """The values q · k + b (…, E) at the tokens ``x`` (…, D)."""
        return x @ self.patch.bank["key"].T + self.patch.bank["bias"]

    def activation(self, x: Tensor) -> Tensor:
        """The activations (B, T', E) of the neurons in force at ``x`` (B, T', D), 0 for others."""
        activation = F.relu(self.before_relu(x))
        return activation * self.patch.in_force((activation > 0).any(1))[:, None]


def shares(activation: Tensor) -> list[list[FiredEdit]]:
    """For each row of activations (B, E) the active ones with their share of the sum, in order."""
    tiny = torch.finfo(activation.dtype).tiny
    share = activation / activation.sum(1, keepdim=True).clamp_min(tiny)
    rows = []
    for row in share.tolist():
        active = [(edit, weight) for edit, weight in enumerate(row) if weight > 0]
        rows.append(sorted(active, key=lambda pair: -pair[1]))
    return rows


class TPatcher(BankEditor[TPatcherPatch]):
    """The editor of neurons.

    Raises :class:`UnsupportedModel` where the last layer has no feed-forward network.
    """

    name = "t-patcher"
    Config = TPatcherConfig
    patch_class = TPatcherPatch
    independent = False
    config: TPatcherConfig

    def __init__(self, vlm: VLM, config: TPatcherConfig | None = None) -> None:
        super().__init__(vlm, config)
        self.network: FeedForward = feed_forward(vlm, highest_layer(vlm, vlm.num_layers - 1))

    def extended(self, patch: TPatcherPatch, queries: Sequence[Query]) -> TPatcherPatch:
        """See :meth:`BankEditor.extended`. A neuron is trained beside the earlier ones in force."""
        ledger = patch.ledger
        for query in queries:
            ledger = ledger_with(ledger, [query])
            others = patch.bank
            in_force = latest_of_each_question(ledger)[:-1]
            if not bool(in_force.all()):
                others = patch.bank.select(in_force)
            patch = TPatcherPatch(self, patch.bank.append(self.neuron(others, query, len(patch))))
        return patch

    def empty(self) -> TPatcherPatch:
        """A patch without edits."""
        row = torch.empty(0, self.vlm.hidden_size, device=self.vlm.device)
        memory = row[:, None].expand(-1, self.config.memory, -1)
        rows = {"key": row, "value": row, "bias": row[:, 0], "memory": memory}
        return TPatcherPatch(self, Bank(rows))

    @torch.enable_grad()
    def neuron(self, others: Bank, query: Query, number: int) -> dict[str, Tensor]:
        """Train the neuron of the edit ``number`` beside ``others``; return its row of the bank."""
        below = self.network.layer - 1
        hidden = self.vlm.hidden(self.vlm.encode([query], eos=self.config.eos), below)
        positions = hidden.answer_positions()
        target = hidden.answer_tokens()
        record = Recorder(self.network.reads)
        with self.vlm.patched(record), torch.no_grad():
            self.vlm.resume(below, hidden, positions)
        states = record.seen[self.network.reads].float()
        own = states[positions]
        rest = states[~positions & (hidden.attention_mask > 0)]
        remembered = torch.cat([rest, others["memory"].flatten(0, 1)])
        generator = torch.Generator().manual_seed(self.config.seed + number)
        key, bias, value = self.initial(generator, own)
        optimizer = torch.optim.Adam([key, bias, value], lr=self.config.lr)
        trial = self.trial(others, key, bias, value)
        for _ in range(self.config.steps):
            with self.vlm.patched(trial):
                logits = self.vlm.resume(below, hidden, positions)
            answer = F.cross_entropy(logits.float(), target)
            loss = answer + self.config.active * self.activity_loss(own, key, bias)
            loss = loss + self.config.silent * self.silence_loss(remembered, key, bias)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
        kept = rest[torch.randint(len(rest), (self.config.memory,), generator=generator)]
        return {
            "key": key.detach(),
            "value": value.detach(),
            "bias": bias.detach(),
            "memory": kept[None],
        }

    def initial(self, generator: torch.Generator, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """A new neuron's key (1, D), drawn at random, bias (1,) and value (1, D), both 0."""
        width = self.vlm.hidden_size
        key = torch.randn(1, width, generator=generator).to(like) * width**-0.5
        bias = torch.zeros(1).to(like)
        value = torch.zeros_like(key)
        return key.requires_grad_(), bias.requires_grad_(), value.requires_grad_()

    def trial(self, others: Bank, key: Tensor, bias: Tensor, value: Tensor) -> BranchPatch:
        """A patch of the neurons ``others`` and one that is being trained."""

        def neurons(q: Tensor) -> Tensor:
            keys = torch.cat([others["key"], key])
            biases = torch.cat([others["bias"], bias])
            values = torch.cat([others["value"], value])
            return F.relu(q @ keys.T + biases) @ values

        return BranchPatch(AddingBranch(self.network.reads, self.network.writes, neurons))

    @staticmethod
    def activity_loss(own: Tensor, key: Tensor, bias: Tensor) -> Tensor:
        """l_a at the tokens ``own`` (n, D) that predict the answer."""
        return (-(own @ key[0] + bias)).exp().mean()

    @staticmethod
    def silence_loss(remembered: Tensor, key: Tensor, bias: Tensor) -> Tensor:
        """l_m at the tokens ``remembered`` (n, D)."""
        return F.relu(remembered @ key[0] + bias).exp().mean()
