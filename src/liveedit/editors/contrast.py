"""Routing losses against hard negatives: every query of a batch against every edit of it.

The released losses (Eq. 13-16, ``losses.py``) show each input one or B candidates and, apart from the sentinel pairs,
only random strangers. In a pool of thousands what matters is the rare stranger that passes: another drawing that looks
alike, the same image under another question. Here the batch's edits, generality probes and locality probes, hard ones
included, all meet all edits. With m the similarity above the threshold (the sentinel's similarity for φ, 0 for ψ), and
o the query's own edit, if it has one,

    l = w ρ₁(−m_o) + Σ_{e≠o} ρ₁(m_e),        ρ₁(x) = log(1 + eˣ)

so that the own edit has to pass and all others have to fail: the sum is not averaged over the edits, because one
stranger that passes is enough to spoil an answer. The weight w of the own edit keeps the sum from closing the filter to
it: with w = 1 and batches of 24, three of four drawings by another hand were turned away (docs/lab-log.md).
"""

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["OWN", "contrast"]

OWN = 8.0
"""w, what turning away the own edit costs against letting one stranger pass."""


def contrast(similarity: Tensor, threshold: Tensor | float, own: Tensor) -> Tensor:
    """The loss above, averaged over the queries.

    ``similarity`` (Q, E) of queries to edits, ``threshold`` (Q, 1) or a number, ``own`` (Q,) the column of a query's
    own edit, -1 if it has none.
    """
    margin = similarity - threshold
    belongs = own[:, None] == torch.arange(margin.shape[1], device=margin.device)
    cost = torch.where(belongs, OWN * F.softplus(-margin), F.softplus(margin))
    return cost.sum(1).mean()
