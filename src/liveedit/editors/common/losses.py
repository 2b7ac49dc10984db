"""Losses of trained editors: likelihood of an answer, divergence from the unedited model, InfoNCE.

Shapes: N answer tokens of all rows, one row after the other, V size of the vocabulary, B rows of a
similarity matrix. Equations are those of LiveEdit (Chen et al., CVPR 2025).
"""

from torch import Tensor
from torch.nn import functional as F

__all__ = ["forward_kl", "info_nce", "kl", "nll"]


def nll(logits: Tensor, labels: Tensor, rows: Tensor, count: int) -> Tensor:
    """−log p(answer), Eq. 9 and 10, averaged over the tokens of each row: (count,).

    ``logits`` are (N, V), ``labels`` (N,); ``rows`` (N,) is each token's row, below ``count``.
    """
    return _row_means(F.cross_entropy(logits.float(), labels, reduction="none"), rows, count)


def kl(edited: Tensor, base: Tensor, rows: Tensor, count: int) -> Tensor:
    """KL(edited ‖ base), Eq. 11 in the released direction, averaged over each row: (count,).

    ``edited`` (N, V) are logits, ``base`` (N, V) log-probabilities of the unedited model; ``rows``
    as in :func:`nll`.
    """
    logs = edited.float().log_softmax(-1)
    divergence = F.kl_div(base, logs, reduction="none", log_target=True).sum(-1)
    return _row_means(divergence, rows, count)


def forward_kl(edited: Tensor, base: Tensor, rows: Tensor, count: int) -> Tensor:
    """KL(base ‖ edited), the direction of MEND and KE; arguments as in :func:`kl`: (count,)."""
    logs = edited.float().log_softmax(-1)
    divergence = F.kl_div(logs, base, reduction="none", log_target=True).sum(-1)
    return _row_means(divergence, rows, count)


def info_nce(similarity: Tensor, target: Tensor) -> Tensor:
    """f_nce, Eq. 14, averaged over the rows of ``similarity`` (B, n).

    ``target`` (B,) is the column of each row's positive.
    """
    return F.cross_entropy(similarity, target)


def _row_means(values: Tensor, rows: Tensor, count: int) -> Tensor:
    """The mean (count,) of the values (N,) of each row; 0 for a row without any."""
    sums = values.new_zeros(count).index_add(0, rows, values)
    return sums / rows.bincount(minlength=count).clamp(min=1)
