"""Routing loss with hard negatives: every query of a batch against every edit of it.

The released losses (Eq. 13–16, ``losses.py``) compare each input with one or B candidates and,
apart from the sentinel pairs, only with random unrelated edits; filter and weight are trained
separately. In a bank of thousands of edits even a rare unrelated edit that fires does harm, such as
one of a similar drawing, or of the same image with another question. Here the batch's edits,
generality probes and locality probes, hard ones included, are all compared with all edits, and the
loss is about whether an expert fires at all. With m its similarity in φ above the sentinel's (Eq.
5) and z that in ψ (Eq. 7), expert e fires on query q with

    p_e = σ(m_e) σ(z_e),    of log-odds L_e = −log(e^−m + e^−z + e^−(m+z))
    l   = −log p_o − Σ_{e≠o} log(1 − p_e)

where o is the query's own edit, if it has one. That edit has to pass both tests (m and z); an
unrelated edit may be rejected by either, so that φ may specialise in images and ψ in questions. The
sum is not averaged over the edits, because a single unrelated edit that fires is enough to change
an answer. A query without image is compared with edits by ψ alone: m = ∞ and L = z.

Pinpoint's gate "both" keeps the experts with L above its ``margin``, instead of those with m above
it (Eq. 5).
"""

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["NEVER", "hard_negative_loss", "log_odds"]

NEVER = -100.0
"""The score of a pair that cannot match, or that the loss has to ignore: its σ is 0.

With −∞ the loss would be NaN.
"""


def log_odds(margin: Tensor, z: Tensor) -> Tensor:
    """L above, for ``margin`` m and ``z`` of one shape."""
    return -torch.stack([-margin, -z, -margin - z]).logsumexp(0)


def hard_negative_loss(L: Tensor, own: Tensor) -> Tensor:
    """The loss l above, averaged over the queries.

    ``L`` (Q, E) are the log-odds of queries and edits, ``own`` (Q,) is the column of each query's
    own edit, -1 if it has none.
    """
    belongs = own[:, None] == torch.arange(L.shape[1], device=L.device)
    return F.softplus(torch.where(belongs, -L, L)).sum(1).mean()
