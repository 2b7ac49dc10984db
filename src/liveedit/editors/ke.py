"""KE: a network reads an edit in words and masks, shifts and scales the gradient of the edit.

De Cao, Aziz, Titov: "Editing Factual Knowledge in Language Models", EMNLP 2021 (arXiv 2104.08164),
in the form that VLKEB gave it for VLMs. A bidirectional LSTM reads the text "old answer >> target
|| question"; its last states give the condition h = tanh(A [→; ←] + a). For every matrix W (d_out ×
d_in) that is edited,

    c, r, c', r', η = W₂ tanh(W₁ h + b₁) + b₂           c, c' of length d_in, r, r' of length d_out
    ΔW = s σ(η) (∇_W L ⊙ softmax(r) cᵀ + softmax(r') c'ᵀ)                                (section 4)

where L is the edit's negative log-likelihood and W₁, W₂ carry weight normalisation. As ∇_W L =
Σ_t δ_t u_tᵀ, the masked gradient is Σ_t (softmax(r) ⊙ δ_t) (c ⊙ u_t)ᵀ, a change of its factors.
Training solves

    min −log p(target)  subject to  C ≤ m      by  max_λ≥0 min  −log p(target) + λ (C − m)

with λ learned at a rate of its own, and m reduced to 0.8 m as long as more than 90 % of the edits
succeed.

    point          paper                    VLKEB                           here
    C              KL(unedited ‖ edited)    root mean square of ΔW, mean    VLKEB's, or KL on
                                            over W                          ``locality``
    trained on     edit and rephrasings     the edit                        the edit, ``generality``
    edited         all of the model         up and down of 3 layers         VLKEB's
    m falls after  validation               validation                      ``patience`` edits
    word vectors   the model's, trained on  the model's, trained on         the model's, frozen
    text read      whole                    32 tokens                       whole
    optimiser      RMSprop, 3e-4            RMSprop, 3e-4, λ 0.1            Adam, the training's

An edit succeeds if the edited model predicts its tokens; this is measured before the training step.
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm
from torch.nn.utils.rnn import pack_sequence

from liveedit.editors.common.gradient_transform import GradientEditor
from liveedit.editors.common.gradients import Factors
from liveedit.errors import BadInput
from liveedit.models.module_names import ModuleNames
from liveedit.models.vlm import VLM
from liveedit.settings import Count, NotNegative, Positive
from liveedit.types import Query

__all__ = ["KE", "Constraint", "KEConfig", "OneShotLearner"]


@dataclass(frozen=True)
class KEConfig:
    """Settings of KE; the defaults are VLKEB's.

    Arguments:
        layers: Number of decoder layers that are edited, counted from the last.
        hidden: Hidden width of the LSTM and of the conditioners.
        condition: Width of the condition h.
        max_scale: Largest scale s of a change.
        margin: Initial margin m of the constraint.
        margin_min: Smallest margin.
        patience: Edits after which the margin may fall.
        multiplier_lr: Learning rate of the multiplier λ.
        eos: Whether every target ends with the end-of-text token.
        generality: Metrics whose probes are trained to get the target, too.
        locality: Metrics whose probes C keeps as they were; without any, C is the size of ΔW.
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
    """The condition h (B, width) of texts, each given as the word vectors (n, D) of its tokens."""

    def __init__(self, d_model: int, hidden: int, width: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(d_model, hidden, batch_first=True, bidirectional=True)
        self.linear = nn.Linear(2 * hidden, width)

    def forward(self, texts: list[Tensor]) -> Tensor:
        _, (last, _) = self.lstm(pack_sequence(texts, enforce_sorted=False))
        return self.linear(torch.cat([last[0], last[1]], -1)).tanh()  # type: ignore[no-any-return]


class Conditioner(nn.Module):
    """Masks, shifts and scales the gradient of one matrix (d_out, d_in), given the condition."""

    def __init__(self, d_out: int, d_in: int, hidden: int, width: int, max_scale: float) -> None:
        super().__init__()
        self.max_scale = max_scale
        self.parts = [d_in, d_out, d_in, d_out, 1]
        self.inner = weight_norm(nn.Linear(width, hidden))
        self.outer = weight_norm(nn.Linear(hidden, sum(self.parts)))

    def forward(self, condition: Tensor, gradient: Factors) -> Factors:
        """The factors of ΔW: those of the masked gradient, and the shift as one more token.

        ``condition`` is (B, width).
        """
        output = self.outer(self.inner(condition).tanh())[:, None]
        column, row, column_shift, row_shift, scale = output.split(self.parts, -1)
        u = torch.cat([column * gradient.u, column_shift], 1)
        delta = torch.cat([row.softmax(-1) * gradient.delta, row_shift.softmax(-1)], 1)
        return Factors(u, self.max_scale * scale.sigmoid() * delta)


class OneShotLearner(nn.Module):
    """A reader, and a conditioner for each of the matrices with ``shapes`` (d_out, d_in).

    ``d_model`` is the width of word vectors.
    """

    def __init__(self, shapes: Sequence[tuple[int, int]], d_model: int, config: KEConfig) -> None:
        super().__init__()
        self.reader = Reader(d_model, config.hidden, config.condition)
        self.conditioners = nn.ModuleList()
        for d_out, d_in in shapes:
            conditioner = Conditioner(
                d_out, d_in, config.hidden, config.condition, config.max_scale
            )
            self.conditioners.append(conditioner)

    def forward(self, texts: list[Tensor], gradients: Sequence[Factors]) -> list[Factors]:
        """The factors of ΔW of each matrix."""
        condition = self.reader(texts)
        pairs = zip(self.conditioners, gradients, strict=True)
        return [conditioner(condition, factors) for conditioner, factors in pairs]


class Constraint(nn.Module):
    """C ≤ m: the multiplier λ, the margin m, and the successes since m fell last."""

    margin: Tensor
    right: Tensor
    seen: Tensor

    def __init__(self, config: KEConfig) -> None:
        super().__init__()
        self.least = config.margin_min
        self.patience = config.patience
        self.multiplier = nn.Parameter(torch.ones(()))
        self.register_buffer("margin", torch.tensor(config.margin))
        self.register_buffer("right", torch.zeros(()))
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, size: Tensor) -> Tensor:
        """λ (C − m) for C = ``size``; minimising it lowers C and raises λ."""
        with torch.no_grad():
            self.multiplier.clamp_(min=0)
        slack = size - self.margin
        fixed = self.multiplier.detach()
        return fixed * slack - (self.multiplier - fixed) * slack.detach()

    @torch.no_grad()
    def anneal(self, right: float, count: int) -> None:
        """Lower the margin if enough edits succeed; a share ``right`` of ``count`` new ones did."""
        self.right += right * count
        self.seen += count
        if self.seen >= self.patience:
            if self.right > 0.9 * self.seen:
                self.margin.copy_((0.8 * self.margin).clamp(min=self.least))
            self.right.zero_()
            self.seen.zero_()


def change_size(change: Factors) -> Tensor:
    """Root mean square (B,) of the elements of ΔW, from its factors.

    ‖ΔW‖² = Σ_st (δ_s · δ_t) (u_s · u_t).
    """
    squares = (change.delta @ change.delta.mT * (change.u @ change.u.mT)).sum((1, 2))
    return (squares / (change.u.shape[-1] * change.delta.shape[-1])).clamp(min=1e-20).sqrt()


class KE(GradientEditor):
    """The editor. Raises :class:`BadInput` where no layer is left below those edited."""

    name = "ke"
    Config = KEConfig
    inference_settings = frozenset(
        {"margin", "margin_min", "patience", "multiplier_lr", "generality", "locality"}
    )
    config: KEConfig

    def __init__(self, vlm: VLM, config: KEConfig | None = None) -> None:
        super().__init__(vlm, config)
        self.words: nn.Embedding = vlm.model.get_input_embeddings()
        shapes = [matrix.shape for matrix in self.matrices]
        self.learner = OneShotLearner(shapes, self.words.weight.shape[-1], self.config)
        self.constraint = Constraint(self.config)
        self._networks = nn.ModuleDict({"learner": self.learner, "constraint": self.constraint})
        self._networks.to(vlm.device)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        made = memo[id(self)] = object.__new__(type(self))
        vars(made).update(deepcopy(vars(self), memo))
        return made

    def __getstate__(self) -> dict[str, Any]:
        """Raise :class:`BadInput`: torch does not pickle weight-normalised layers."""
        raise BadInput(
            "ke cannot be pickled, because of its weight-normalised layers: save the edits, and "
            "load them"
        )

    @staticmethod
    def edited(names: ModuleNames) -> tuple[str, ...]:
        """See :meth:`GradientEditor.edited`: up and down projections."""
        return names.up + names.down

    def networks(self) -> nn.ModuleDict:
        """The one-shot learner, and the constraint of its training."""
        return self._networks

    def rates(self) -> dict[str, float]:
        """See :meth:`TrainableEditor.rates`: that of the multiplier."""
        return {"constraint": self.config.multiplier_lr}

    def describe(self, queries: Sequence[Query]) -> list[str]:
        """See :meth:`GradientEditor.describe`; the old answer is what the model generates."""
        answers = zip(queries, self.vlm.generate(queries), strict=True)
        return [f"{old} >> {query.target} || {query.prompt}" for query, old in answers]

    def changes(
        self, factors: Mapping[str, Factors], descriptions: Sequence[str]
    ) -> dict[str, Factors]:
        """See :meth:`GradientEditor.changes`."""
        vectors = []
        for ids in self.vlm.tokenizer(list(descriptions))["input_ids"]:
            words = self.words(torch.tensor(ids, device=self.vlm.device))
            vectors.append(words.detach().float().to(self.device))
        sites = [matrix.site for matrix in self.matrices]
        changed = self.learner(vectors, [factors[site] for site in sites])
        return dict(zip(sites, changed, strict=True))

    def objective(
        self, terms: dict[str, Tensor], changes: Mapping[str, Factors], right: float
    ) -> Tensor:
        """See :meth:`GradientEditor.objective`."""
        self.constraint.anneal(right, len(next(iter(changes.values())).u))
        wanted = [term for kind, term in terms.items() if not self.must_stay(kind)]
        constrained = [term for kind, term in terms.items() if self.must_stay(kind)]
        if not constrained:
            constrained = [change_size(change).mean() for change in changes.values()]
        C = torch.stack(constrained).mean()
        terms["constraint"] = C
        terms["margin"] = self.constraint.margin
        terms["multiplier"] = self.constraint.multiplier
        penalty: Tensor = self.constraint(C)
        return torch.stack(wanted).sum() + penalty
