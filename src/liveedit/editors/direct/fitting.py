"""Fits the expert of an edit by gradient descent, from the edit layer upwards.

    minimise over U, V   mean_i −log p(o | h_i + ε + R(h_i + ε))  +  β KL(p(h_b) ‖ p(h_b + R(h_b)))

R is the expert's residual, ρ(LN(h) Uᵀ) V, from the last prompt token on; h_i are the states at the
edit layer of the edit and its variants, ε is noise, and h_b are states of background queries, whose
answers the expert shall leave as they are. Nothing at or below the edit layer runs more than once.

U starts at the directions of the states that predict the answer's tokens, V at zero: at first the
expert fires on the edit and writes nothing.

Shapes: B rows, T tokens, r rank, D width of the text decoder, N answer tokens of all rows.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from liveedit.editors.common.losses import forward_kl, nll
from liveedit.editors.liveedit.routing import reach
from liveedit.models.batch import HiddenBatch
from liveedit.models.vlm import VLM

__all__ = ["Fit", "Kept", "fit", "kept_answers"]


@dataclass(frozen=True, slots=True)
class Fit:
    """How an expert is fitted; the fields are those of ``DirectConfig``."""

    layer: int
    rank: int
    steps: int
    lr: float
    noise: float
    keep: float


@dataclass(frozen=True, slots=True)
class Kept:
    """Background queries with the model's own answers, which an expert shall leave as they are.

    Arguments:
        hidden: Their states at the edit layer.
        base: The model's log-probabilities (N, V) where their answers' tokens are predicted.
    """

    hidden: HiddenBatch
    base: Tensor


@torch.no_grad()
def kept_answers(vlm: VLM, layer: int, hidden: HiddenBatch) -> Kept:
    """Queries with their own answers as targets, whose states at ``layer`` are ``hidden``."""
    logits = vlm.resume(layer, hidden, hidden.answer_positions())
    return Kept(hidden, logits.float().log_softmax(-1))


@torch.enable_grad()
def fit(
    vlm: VLM, settings: Fit, hidden: HiddenBatch, kept: Kept, seed: int
) -> tuple[Tensor, Tensor]:
    """U and V, each (r, D), of the edit with the states ``hidden``: its own row and its variants'.

    ``seed`` draws the noise.
    """
    both = HiddenBatch.stack([hidden, kept.hidden])
    states = both.hidden.float()
    positions = both.answer_positions()
    rows = both.answer_rows()
    tokens = both.answer_tokens()
    own = rows < len(hidden)
    spread = states[positions][own].pow(2).mean().sqrt()
    U = _directions(F.layer_norm(states, states.shape[-1:])[positions][own], settings.rank)
    V = torch.zeros_like(U)
    factors = [U.requires_grad_(), V.requires_grad_()]
    optimizer = torch.optim.Adam(factors, lr=settings.lr)
    acting = reach(both.last_prompt_tokens(), states)
    noise = torch.Generator().manual_seed(seed)
    noisy = torch.zeros(len(both), 1, 1, device=states.device)
    noisy[1 : len(hidden)] = settings.noise * spread  # the edit itself is learnt without
    for _ in range(settings.steps):
        drawn = torch.randn(states.shape, generator=noise).to(states) * noisy
        changed = states + drawn * acting
        added = _residual(changed, *factors) * spread * acting
        both.hidden = (changed + added).to(kept.hidden.hidden.dtype)
        logits = vlm.resume(settings.layer, both, positions)
        loss = nll(logits[own], tokens[own], rows[own], len(hidden)).mean()
        others = rows[~own] - len(hidden)
        loss = (
            loss
            + settings.keep * forward_kl(logits[~own], kept.base, others, len(kept.hidden)).mean()
        )
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
    return U.detach() / U.shape[-1], V.detach() * spread


def _directions(predicting: Tensor, rank: int) -> Tensor:
    """The normalised states (N, D) that predict the answer's tokens, as r directions (r, D).

    They are averaged over the tokens whose numbers differ by a multiple of r.
    """
    numbers = torch.arange(len(predicting), device=predicting.device) % rank
    sums = predicting.new_zeros(rank, predicting.shape[1]).index_add(0, numbers, predicting)
    return sums / numbers.bincount(minlength=rank).clamp(min=1)[:, None]


def _residual(states: Tensor, U: Tensor, V: Tensor) -> Tensor:
    """ρ(LN(h) Uᵀ) V (B, T, D) for states h (B, T, D), with the rows of U scaled by 1 / D."""
    normalised = F.layer_norm(states, states.shape[-1:])
    return F.relu(normalised @ U.T / U.shape[-1]) @ V
