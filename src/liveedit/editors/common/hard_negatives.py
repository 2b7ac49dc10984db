"""Routing loss against hard negatives: every query of a batch against every edit of it.

The released losses (Eq. 13-16, ``losses.py``) show each input one or B candidates and, apart from
the sentinel pairs, only random strangers; filter and weight are trained apart. In a pool of
thousands what matters is the rare stranger that acts: another drawing that looks alike, the same
image under another question. Here the batch's edits, generality probes and locality probes, hard
ones included, all meet all edits, and what is trained is whether an expert acts at all. With m its
similarity in φ above the sentinel's (Eq. 5) and z that in ψ (Eq. 7), expert e acts on query q with

    p_e = σ(m_e) σ(z_e),    of log-odds L_e = −log(e^−m + e^−z + e^−(m+z))
    l   = −log p_o − Σ_{e≠o} log(1 − p_e)

where o is the query's own edit, if it has one. The own edit has to pass in both; a stranger may be
turned away by either, so that φ may know images and ψ questions. The sum is not averaged over the
edits, because one stranger that acts is enough to spoil an answer. A query without image meets the
edits by ψ alone: m = ∞ and L = z.

The gate "both" keeps the experts with L > 0 in the place of those with m > 0 (Eq. 5).
"""

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["contrast", "log_odds"]


def log_odds(margin: Tensor, z: Tensor) -> Tensor:
    """L above, for ``margin`` m and ``z`` of one shape."""
    return -torch.stack([-margin, -z, -margin - z]).logsumexp(0)


def contrast(odds: Tensor, own: Tensor) -> Tensor:
    """The loss above, averaged over the queries.

    ``odds`` L (Q, E) of queries and edits, ``own`` (Q,) the column of a query's own edit, -1 if it
    has none.
    """
    belongs = own[:, None] == torch.arange(odds.shape[1], device=odds.device)
    return F.softplus(torch.where(belongs, -odds, odds)).sum(1).mean()
