"""Losses of trained editors: likelihood, divergence, InfoNCE, and LiveEdit's routing losses (Eq.
9-16) as released.

Shapes: N answer tokens of all rows one after the other, R rows, B examples, V size of the
vocabulary.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = [
    "absolute_routing",
    "forward_kl",
    "hard_routing",
    "info_nce",
    "kl",
    "nll",
    "relative_routing",
]


def nll(logits: Tensor, labels: Tensor, rows: Tensor, count: int) -> Tensor:
    """-log p(answer), Eq. 9 and 10, averaged over the tokens of each row: (count,).

    ``logits`` (N, V), ``labels`` (N,), and ``rows`` (N,) says which row, below ``count``, a token belongs to.
    """
    return row_means(F.cross_entropy(logits.float(), labels, reduction="none"), rows, count)


def kl(edited: Tensor, base: Tensor, rows: Tensor, count: int) -> Tensor:
    """KL(edited ‖ base), Eq. 11 in the released direction, averaged over the tokens of each row:
    (count,).

    ``edited`` (N, V) are logits, ``base`` (N, V) log-probabilities of the unedited model.
    """
    divergence = F.kl_div(
        base, edited.float().log_softmax(-1), reduction="none", log_target=True
    ).sum(-1)
    return row_means(divergence, rows, count)


def forward_kl(edited: Tensor, base: Tensor, rows: Tensor, count: int) -> Tensor:
    """KL(base ‖ edited), the direction of MEND and KE, of the same arguments as :func:`kl`:
    (count,).
    """
    divergence = F.kl_div(
        edited.float().log_softmax(-1), base, reduction="none", log_target=True
    ).sum(-1)
    return row_means(divergence, rows, count)


def row_means(values: Tensor, rows: Tensor, count: int) -> Tensor:
    """The mean (count,) of the values (N,) of each row; 0 for a row without any."""
    sums = values.new_zeros(count).index_add(0, rows, values)
    return sums / torch.bincount(rows, minlength=count).clamp(min=1)


def info_nce(similarity: Tensor, target: Tensor) -> Tensor:
    """f_nce, Eq. 14, averaged over the rows of ``similarity`` (B, n); ``target`` (B,) is the column
    of the positive.
    """
    return F.cross_entropy(similarity, target)


def relative_routing(z: Tensor) -> Tensor:
    """l_sr2, Eq. 16, as released: among the B edit-side text keys the own one. ``z`` (B, B), own on
    the diagonal.
    """
    return info_nce(z, torch.arange(len(z), device=z.device))


def absolute_routing(z: Tensor) -> Tensor:
    """l_sr1, Eq. 15, as released: own text key on the diagonal of ``z`` (B, B), the example before
    as the negative.
    """
    negative = z.roll(1, dims=1).diagonal()
    return -(F.logsigmoid(z.diagonal()) + F.logsigmoid(-negative)).mean()


def hard_routing(z: Tensor, sentinel: Tensor, wanted: Tensor) -> Tensor:
    """One term of l_hr, Eq. 13: InfoNCE over the B edit-side vision keys and the sentinel.

    ``z`` (B, B) and ``sentinel`` (B,) are each input's similarity to the edit-side keys and to the
    sentinel's key under its own prompt. ``wanted`` (B,) is the column of the positive: the own
    edit, or B for the sentinel.
    """
    return info_nce(torch.cat([z, sentinel[:, None]], 1), wanted)
