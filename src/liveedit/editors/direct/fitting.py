"""Fits the experts of edits by gradient descent, from the edit layer upwards.

    minimise over U, V   mean_i −log p(o | h_i + ε + R(h_i + ε))  +  β KL(p(h_b) ‖ p(h_b + R(h_b)))

R is the expert's residual, ρ(LN(h) Uᵀ) V, from the last prompt token on; h_i are the states at the
edit layer of the edit and its variants, ε is noise, and h_b are states of background queries, whose
answers the expert shall leave as they are. Nothing at or below the edit layer runs more than once,
and above it only the tokens that predict answers do (``models/continuation.py``). Several edits are
fitted in one batch; each gets the expert that it would get alone.

An edit that does not give every token of its answer after the steps goes on until it does, faster
and for :data:`PATIENCE` times as many at most.

U starts at the directions of the states that predict the answer's tokens, V at zero: at first the
expert fires on the edit and writes nothing.

Shapes: E edits, B rows, T tokens, r rank, D width of the text decoder, N answer tokens of all rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from liveedit.editors.common.losses import forward_kl, nll
from liveedit.editors.liveedit.routing import reach
from liveedit.models.batch import HiddenBatch
from liveedit.models.continuation import continued
from liveedit.models.vlm import VLM

__all__ = ["Fit", "Kept", "fit", "kept_answers"]


AHEAD = 0.5
"""How far the logit of each of an answer's tokens has to be above all others."""
PATIENCE = 16
"""How many times the steps an edit may take that does not give its answer after them."""
FASTER = 4
"""Factor of the learning rate from then on."""


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
    vlm: VLM, settings: Fit, edits: Sequence[HiddenBatch], kept: Kept, seeds: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """U and V, each (E, r, D), of edits.

    An edit's states are those of its own row and of as many variants as the others have. Its number
    in ``seeds`` draws its noise.
    """
    rows = Rows(edits, kept)
    both = continued(vlm, settings.layer, HiddenBatch.stack([*edits, *[kept.hidden] * len(edits)]))
    states = both.hidden.float()
    positions = both.answer_positions()
    tokens = both.answer_tokens()
    row = both.answer_rows()
    own = row < rows.own
    base = kept.base.repeat(len(edits), 1)
    edit = rows.edit.to(states.device)
    acting = reach(both.last_prompt_tokens(), states) * both.real[..., None]
    spread, U = _starts(states[positions][own], edit[row[own]], len(edits), settings.rank)
    V = torch.zeros_like(U)
    factors = [U.requires_grad_(), V.requires_grad_()]
    optimizer = torch.optim.Adam(factors, lr=settings.lr)
    scale = spread[edit][:, None, None] * acting
    noise = Noise(rows.varied.to(states.device)[:, None] & (acting[..., 0] > 0), edit, seeds)
    fitted = Fitted(rows, row[own], len(edits))
    for step in range(PATIENCE * settings.steps + 1):
        changed = states + noise.like(states) * settings.noise * scale
        added = _residual(changed, U[edit], V[edit]) * scale
        both.hidden = (changed + added).to(kept.hidden.hidden.dtype)
        logits = vlm.resume(settings.layer, both, positions)
        learnt = nll(logits[own], tokens[own], row[own], rows.own)
        if step >= settings.steps and fitted.take(factors, logits[own], tokens[own]):
            break
        left = forward_kl(logits[~own], base, row[~own] - rows.own, rows.kept)
        loss = learnt.sum() * len(edits) / rows.own + settings.keep * left.sum() / len(kept.hidden)
        if step == settings.steps:
            optimizer.param_groups[0]["lr"] *= FASTER
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
    U, V = fitted.factors(factors)
    return U / U.shape[-1], V * spread[:, None, None]


class Fitted:
    """The factors of the edits that give their answers.

    Arguments:
        rows: The rows of the batch.
        row: The row (N',) of each answer token of the edits and their variants.
        count: Number of edits.
    """

    def __init__(self, rows: "Rows", row: Tensor, count: int) -> None:
        self.of_itself = ~rows.varied.to(row.device)[row]
        self.edit = rows.edit.to(row.device)[row]
        self.done: dict[int, list[Tensor]] = {}
        self.count = count

    def take(self, factors: Sequence[Tensor], logits: Tensor, tokens: Tensor) -> bool:
        """Keep the factors of edits that give every token of their answers.

        ``logits`` (N', V) and ``tokens`` (N',) are those of the answers. Returns whether all edits
        do.
        """
        others = logits.detach().float().scatter(1, tokens[:, None], -torch.inf).amax(1)
        wanted = logits.detach().float().gather(1, tokens[:, None])[:, 0]
        behind = wanted < others + AHEAD
        failing = set(self.edit[behind & self.of_itself].tolist())
        for edit in set(range(self.count)) - failing - self.done.keys():
            self.done[edit] = [factor.detach()[edit].clone() for factor in factors]
        return len(self.done) == self.count

    def factors(self, last: Sequence[Tensor]) -> list[Tensor]:
        """U and V (E, r, D), the ``last`` ones for edits that still do not give their answers."""
        chosen = [
            self.done.get(edit, [factor.detach()[edit] for factor in last])
            for edit in range(self.count)
        ]
        return [torch.stack(parts) for parts in zip(*chosen, strict=True)]


class Rows:
    """The rows of a batch: for each edit its own and its variants', then for each those kept.

    Arguments:
        edits: The states of each edit's rows.
        kept: What each edit shall leave.

    ``edit`` (B,) is the edit of each row, ``varied`` (B,) whether it is a variant; ``own`` and
    ``kept`` count the rows of both sorts.
    """

    def __init__(self, edits: Sequence[HiddenBatch], kept: Kept) -> None:
        each = len(edits[0])
        self.own = len(edits) * each
        self.kept = len(edits) * len(kept.hidden)
        numbers = torch.arange(len(edits))
        self.edit = torch.cat(
            [numbers.repeat_interleave(each), numbers.repeat_interleave(len(kept.hidden))]
        )
        place = torch.arange(self.own + self.kept)
        self.varied = (place < self.own) & (place % each > 0)  # the edit itself is learnt without


class Noise:
    """Standard normal noise for the states of variants, drawn for each edit by itself.

    Arguments:
        places: The states that get noise, boolean (B, T).
        edit: The edit (B,) of each row.
        seeds: A seed for each edit.
    """

    def __init__(self, places: Tensor, edit: Tensor, seeds: Sequence[int]) -> None:
        self.places = [places & (edit == number)[:, None] for number in range(len(seeds))]
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def like(self, states: Tensor) -> Tensor:
        """The next draw, (B, T, D)."""
        drawn = torch.zeros_like(states)
        for places, generator in zip(self.places, self.generators, strict=True):
            shape = (int(places.sum()), states.shape[-1])
            drawn[places] = torch.randn(shape, generator=generator).to(states)
        return drawn


def _starts(predicting: Tensor, edit: Tensor, count: int, rank: int) -> tuple[Tensor, Tensor]:
    """The root mean square (E,) of each edit's states, and its first U (E, r, D).

    ``predicting`` (N, D) are the states that predict the answers' tokens, ``edit`` (N,) the edits
    that they belong to. U holds their normalised directions, averaged over the tokens whose numbers
    differ by a multiple of r.
    """
    normalised = F.layer_norm(predicting, predicting.shape[-1:])
    spread = []
    directions = []
    for number in range(count):
        mine = edit == number
        spread.append(predicting[mine].pow(2).mean().sqrt())
        directions.append(_averaged(normalised[mine], rank))
    return torch.stack(spread), torch.stack(directions)


def _averaged(states: Tensor, rank: int) -> Tensor:
    """The mean (r, D) of the states (N, D) whose numbers have the same remainder by r."""
    numbers = torch.arange(len(states), device=states.device) % rank
    sums = states.new_zeros(rank, states.shape[1]).index_add(0, numbers, states)
    return sums / numbers.bincount(minlength=rank).clamp(min=1)[:, None]


def _residual(states: Tensor, U: Tensor, V: Tensor) -> Tensor:
    """ρ(LN(h) Uᵀ) V (B, T, D) for states h (B, T, D), with the rows of U scaled by 1 / D."""
    normalised = F.layer_norm(states, states.shape[-1:])
    return F.relu(normalised @ U.mT / U.shape[-1]) @ V
