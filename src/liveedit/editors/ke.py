"""KE: a network that reads an edit and says how its gradient is to be masked, shifted and scaled.

De Cao, Aziz, Titov: "Editing Factual Knowledge in Language Models", EMNLP 2021 (arXiv 2104.08164),
in the form that VLKEB gave it for VLMs. The text "old answer >> target || question" is read by an
LSTM in both directions, whose last states make the condition h = tanh(A [→; ←] + a). For every
matrix W (d_out x d_in) that is edited,

    c, r, c', r', η = W₂ tanh(W₁ h + b₁) + b₂                c, c' of length d_in, r, r' of length d_out
    ΔW = s σ(η) (∇_W L ⊙ softmax(r) cᵀ + softmax(r') c'ᵀ)                                              (section 4)

where L is the edit's negative log-likelihood and W₁, W₂ carry weight normalisation. As ∇_W L = Σ_t
δ_t u_tᵀ, the masked gradient is Σ_t (softmax(r) ⊙ δ_t) (c ⊙ u_t)ᵀ, a change of its factors.
Training solves

    min −log p(target)  subject to  C ≤ m      by  max_λ≥0 min  −log p(target) + λ (C − m)

with λ learned at a rate of its own, and m made smaller, 0.8 times, as long as more than 90 % of the
edits succeed.

    point            paper                     VLKEB                                   here
    C                KL(unedited ‖ edited)     root mean square of ΔW, mean over W     VLKEB's, or KL on ``locality``
    trained on       edit and rephrasings      the edit                                the edit, and ``generality``
    edited           all of the model          up and down, no gate, in 3 layers       VLKEB's
    m falls after    validation                validation                              ``patience`` edits of training
    word vectors     of the model, trained on  of the model, trained on                the model's own, frozen: no copy
    text read        whole                     32 tokens                               whole
    optimiser        RMSprop, 3e-4             RMSprop, 3e-4, λ 0.1                    Adam, that of ``train``

An edit's success is that of the edited model on its tokens, before the training step that uses
them.
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm
from torch.nn.utils.rnn import pack_sequence

from liveedit.editors import PAPERS
from liveedit.editors.common.feed_forward import DOWN
from liveedit.editors.common.gradient_transform import Factors, GradientEditor
from liveedit.errors import BadInput
from liveedit.models.vlm import VLM
from liveedit.settings import Count, NotNegative, Positive
from liveedit.types import Query

__all__ = ["KE", "Constraint", "KEConfig", "OneShotLearner"]


@dataclass(frozen=True)
class KEConfig:
    """Settings; the defaults are VLKEB's.

    ``layers`` counts the decoder layers that are edited, from the last one. ``hidden`` and
    ``condition`` are the widths of the networks, ``max_scale`` is s. λ is learned at the rate
    ``multiplier_lr``; m starts at ``margin`` and falls to no less than ``margin_min``, at most once
    every ``patience`` edits. ``eos`` ends every target with the end of text. ``generality`` are
    metrics whose probes are to get the target as well; ``locality`` are those whose probes C keeps
    as they were, and without any C is the size of ΔW.
    """

    layers: int = 3
    hidden: Count = 128
    condition: Count = 1024
    max_scale: Positive = 1.0
    margin: NotNegative = 1e-3
    margin_min: NotNegative = 1e-7
    patience: Count = 1000
    multiplier_lr: NotNegative = 0.1
    eos: bool = False
    generality: tuple[str, ...] = ()
    locality: tuple[str, ...] = ()


class Reader(nn.Module):
    """The condition h (B, width) of texts, given as the word vectors (n, D) of each."""

    def __init__(self, d_model: int, hidden: int, width: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(d_model, hidden, batch_first=True, bidirectional=True)
        self.linear = nn.Linear(2 * hidden, width)

    def forward(self, texts: list[Tensor]) -> Tensor:
        _, (last, _) = self.lstm(pack_sequence(texts, enforce_sorted=False))
        return self.linear(torch.cat([last[0], last[1]], -1)).tanh()  # type: ignore[no-any-return]


class Conditioner(nn.Module):
    """What the condition (B, width) makes of the gradient of one matrix (d_out, d_in)."""

    def __init__(self, d_out: int, d_in: int, hidden: int, width: int, max_scale: float) -> None:
        super().__init__()
        self.max_scale, self.parts = max_scale, [d_in, d_out, d_in, d_out, 1]
        self.inner = weight_norm(nn.Linear(width, hidden))
        self.outer = weight_norm(nn.Linear(hidden, sum(self.parts)))

    def forward(self, condition: Tensor, gradient: Factors) -> Factors:
        """The factors of ΔW: those of the masked gradient, and the shift as one token more."""
        parts = self.outer(self.inner(condition).tanh())[:, None].split(
            self.parts, -1
        )  # each (B, 1, length)
        column, row, column_shift, row_shift, scale = parts
        delta = torch.cat([row.softmax(-1) * gradient.delta, row_shift.softmax(-1)], 1)
        return Factors(
            torch.cat([column * gradient.u, column_shift], 1),
            self.max_scale * scale.sigmoid() * delta,
        )


class OneShotLearner(nn.Module):
    """Reader and a conditioner for each of the matrices ``shapes`` (d_out, d_in); ``d_model`` is
    the word vectors'.
    """

    def __init__(self, shapes: Sequence[tuple[int, int]], d_model: int, config: KEConfig) -> None:
        super().__init__()
        self.reader = Reader(d_model, config.hidden, config.condition)
        hidden, width, most = config.hidden, config.condition, config.max_scale
        self.conditioners = nn.ModuleList(
            [Conditioner(*shape, hidden, width, most) for shape in shapes]
        )

    def forward(self, texts: list[Tensor], gradients: Sequence[Factors]) -> list[Factors]:
        """The factors of ΔW of each matrix."""
        condition = self.reader(texts)
        return [
            change(condition, factors)
            for change, factors in zip(self.conditioners, gradients, strict=True)
        ]


class Constraint(nn.Module):
    """C ≤ m: the multiplier λ, the margin m, and how many edits have succeeded since m fell last."""

    margin: Tensor
    right: Tensor
    seen: Tensor

    def __init__(self, config: KEConfig) -> None:
        super().__init__()
        self.least, self.patience = config.margin_min, config.patience
        self.multiplier = nn.Parameter(torch.ones(()))
        self.register_buffer("margin", torch.tensor(config.margin))
        self.register_buffer("right", torch.zeros(()))
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, size: Tensor) -> Tensor:
        """λ (C − m), whose gradient lets what C depends on fall and λ rise."""
        with torch.no_grad():
            self.multiplier.clamp_(min=0)
        slack = size - self.margin
        return (
            self.multiplier.detach() * slack
            - (self.multiplier - self.multiplier.detach()) * slack.detach()
        )

    @torch.no_grad()
    def anneal(self, right: float, count: int) -> None:
        """Take in that the share ``right`` of ``count`` edits succeeded."""
        self.right += right * count
        self.seen += count
        if self.seen >= self.patience:
            if self.right > 0.9 * self.seen:
                self.margin.copy_((0.8 * self.margin).clamp(min=self.least))
            self.right.zero_()
            self.seen.zero_()


def size(change: Factors) -> Tensor:
    """Root mean square (B,) of the elements of ΔW, by its factors: ‖ΔW‖² = Σ_st (δ_s · δ_t) (u_s ·
    u_t).
    """
    squares = (change.delta @ change.delta.mT * (change.u @ change.u.mT)).sum((1, 2))
    return (squares / (change.u.shape[-1] * change.delta.shape[-1])).clamp(min=1e-20).sqrt()


class KE(GradientEditor):
    """The editor. Raises :class:`BadInput` where no layer is left below those edited."""

    name = "ke"
    paper = PAPERS["ke"]
    Config = KEConfig
    leaves = ("up_proj", "gate_up_proj", "fc1", "w3", "dense_h_to_4h", "pre_expert_proj", *DOWN)
    query_time = frozenset(
        {"margin", "margin_min", "patience", "multiplier_lr", "generality", "locality"}
    )
    config: KEConfig

    def __init__(self, vlm: VLM, config: KEConfig | None = None) -> None:
        super().__init__(vlm, config)
        self.words: nn.Embedding = vlm.model.get_input_embeddings()
        width = self.words.weight.shape[-1]
        self.learner = OneShotLearner(
            [matrix.shape for matrix in self.matrices], width, self.config
        )
        self.constraint = Constraint(self.config)
        self._networks = nn.ModuleDict({"learner": self.learner, "constraint": self.constraint})
        self._networks.to(vlm.device)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        made = memo[id(self)] = object.__new__(type(self))
        vars(made).update(deepcopy(vars(self), memo))
        return made

    def __getstate__(self) -> dict[str, Any]:
        """Raises :class:`BadInput`: torch does not pickle the weight-normalised layers."""
        raise BadInput(
            "ke cannot be pickled, because of its weight-normalised layers: save the edits, and load them"
        )

    def networks(self) -> nn.ModuleDict:
        """The one-shot learner, and the constraint of its training."""
        return self._networks

    def rates(self) -> dict[str, float]:
        """The multiplier's own."""
        return {"constraint": self.config.multiplier_lr}

    def describe(self, queries: Sequence[Query]) -> list[str]:
        """What the learner reads about each edit; the old answer is what the model generates."""
        answers = zip(queries, self.vlm.generate(queries), strict=True)
        return [f"{old} >> {query.target} || {query.prompt}" for query, old in answers]

    def changes(self, factors: Mapping[str, Factors], about: Sequence[str]) -> dict[str, Factors]:
        """See :meth:`GradientEditor.changes`."""
        texts = [
            torch.tensor(ids, device=self.vlm.device)
            for ids in self.vlm.tokenizer(list(about))["input_ids"]
        ]
        vectors = [self.words(ids).detach().float().to(self.device) for ids in texts]
        sites = [matrix.site for matrix in self.matrices]
        return dict(
            zip(sites, self.learner(vectors, [factors[site] for site in sites]), strict=True)
        )

    def objective(
        self, terms: dict[str, Tensor], changes: Mapping[str, Factors], right: float
    ) -> Tensor:
        """See :meth:`GradientEditor.objective`."""
        count = len(next(iter(changes.values())).u)
        self.constraint.anneal(right, count)
        held = [term for kind, term in terms.items() if kind in self.config.locality]
        sizes = held or [size(change).mean() for change in changes.values()]
        wanted = [term for kind, term in terms.items() if kind not in self.config.locality]
        constrained = torch.stack(sizes).mean()
        terms |= {
            "constraint": constrained,
            "margin": self.constraint.margin,
            "multiplier": self.constraint.multiplier,
        }
        penalty: Tensor = self.constraint(constrained)
        return torch.stack(wanted).sum() + penalty
