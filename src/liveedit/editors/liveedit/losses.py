"""LiveEdit's routing losses (Chen et al., CVPR 2025, Eq. 13–16), as released.

B is the number of pairs in a batch.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from liveedit.editors.common.losses import info_nce

__all__ = ["absolute_routing", "hard_routing", "relative_routing"]


def relative_routing(z: Tensor) -> Tensor:
    """l_sr2, Eq. 16: InfoNCE over the B edits' text keys.

    ``z`` (B, B) is the similarity of inputs and edits, with each input's own edit on the diagonal.
    """
    return info_nce(z, torch.arange(len(z), device=z.device))


def absolute_routing(z: Tensor) -> Tensor:
    """l_sr1, Eq. 15: an input's own edit is the positive, the previous example's edit the negative.

    ``z`` as in :func:`relative_routing`.
    """
    negative = z.roll(1, dims=1).diagonal()
    return -(F.logsigmoid(z.diagonal()) + F.logsigmoid(-negative)).mean()


def hard_routing(z: Tensor, sentinel: Tensor, wanted: Tensor) -> Tensor:
    """One term of l_hr, Eq. 13: InfoNCE over the B edits' vision keys and the sentinel.

    ``z`` (B, B) and ``sentinel`` (B,) are each input's similarity to the edits' keys and to the
    sentinel's key under its own prompt. ``wanted`` (B,) is the column of the positive: the own
    edit, or B for the sentinel.
    """
    return info_nce(torch.cat([z, sentinel[:, None]], 1), wanted)
